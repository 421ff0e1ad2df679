"""Depth and curvature at the sites of the hosts' tiny models are those of the dense spectrum, or flagged."""

from __future__ import annotations

from lab.testing.landscape_errors import landscape_errors
from lab.testing.recorder import watch_attention


def test_depth_and_curvature_are_within_what_the_flag_allows(family):
    with watch_attention(family.model) as calls:
        family.sample(steps=1)
    errors = landscape_errors([(seen.q, seen.k, seen.out) for seen in calls if not seen.is_cross])
    print(errors.describe())
    certain = ~errors.is_uncertain
    assert certain.any()
    assert errors.depth[certain].max() < 1e-3
    assert errors.curvature[certain].max() < 1e-2
    assert errors.depth.max() < 1e-2
    assert errors.curvature.max() < 3e-2
