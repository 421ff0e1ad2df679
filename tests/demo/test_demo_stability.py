"""Depth and curvature at the sites of a trained model are as exact as docs/speed_details.md says."""

from __future__ import annotations

from lab.demo.landscape_errors import demo_retrievals
from lab.testing.landscape_errors import landscape_errors


def test_depth_and_curvature_of_trained_sites_are_those_of_the_spectrum():
    errors = landscape_errors(demo_retrievals(steps=4, every=3))
    assert errors.depth.max() < 1e-4
    assert errors.curvature.max() < 1e-3
    assert errors.is_uncertain.double().mean() < 0.1
