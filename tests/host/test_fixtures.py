"""The tiny models are worth testing with: their attention is sharp, has both parts, and reaches the picture."""

from __future__ import annotations

import pytest

from lab.testing import definition
from lab.testing.recorder import distance, effect, plainly, watch_attention
from lab.testing.run_nodes import skew


def seen_by(family):
    with watch_attention(family.model) as calls:
        family.sample(steps=1)
    return [seen for seen in calls if not seen.is_cross]


def test_a_model_call_makes_the_attention_calls_the_host_map_counts(family):
    assert len(seen_by(family)) == family.calls


def test_watching_gives_what_plain_attention_is(family):
    for seen in seen_by(family):
        assert distance(seen.out, plainly(seen)) < 1e-5 * plainly(seen).norm()


def test_logits_have_a_standard_deviation_above_one(family):
    for seen in seen_by(family):
        logits = definition.skewed_logits(seen.q, seen.k, 1.0)
        assert logits.std(dim=-1).mean() >= 1, seen.path


@pytest.mark.parametrize("gamma", [1.5, 0.4])
def test_gamma_moves_every_site_by_five_percent(family, gamma):
    for seen in seen_by(family):
        assert effect(family, seen, gamma) >= 0.05 * plainly(seen).norm(), seen.path


def test_logits_are_neither_symmetric_nor_skew(family):
    for seen in seen_by(family):
        eta = definition.symmetricity(seen.q, seen.k).mean(dim=1)
        assert ((eta > 0.1) & (eta < 0.9)).all(), (seen.path, eta)


def test_the_picture_moves_by_more_than_a_thousandth(family):
    picture = family.picture
    moved = family.sample(skew(family.model, gamma=1.05)[0])
    assert distance(moved, picture) > 1e-3 * picture.norm()


def test_sampling_twice_gives_the_same_bits(family):
    assert family.sample().equal(family.picture)
