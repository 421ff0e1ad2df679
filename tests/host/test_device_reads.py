"""Waits for the device: which numbers a model call reads out of tensors beyond those the plain model reads."""

from __future__ import annotations

import pytest
from symmetric_attention.nodes.gamma_schedule import GammaScheduleNode

from lab.testing.device_reads import watched
from lab.testing.run_nodes import execute, skew


@pytest.mark.parametrize("widgets", [{}, {"beta": 3.0}, {"beta": 3.0, "adaptive": "gamma and beta"}], ids=str)
def test_a_constant_gamma_reads_no_number_in_a_model_call(flux, widgets):
    model, of_plain = watched(flux.model)
    flux.sample(model, steps=3)
    model, reads = watched(flux.model)
    patched, report = skew(model, **widgets)
    flux.sample(patched, steps=3)
    assert reads == of_plain
    assert [call.sigma for call in report.runs[-1].calls] == sorted(
        {call.sigma for call in report.runs[-1].calls}, reverse=True
    )


def test_the_nodes_of_a_model_share_one_reading_of_the_noise_level(flux):
    model, of_plain = watched(flux.model)
    flux.sample(model, steps=3)
    model, reads = watched(flux.model)
    for blocks in ("double", "single"):
        curve, _ = execute(GammaScheduleNode, shape="linear", start_gamma=2.0, end_gamma=0.2, start=0.0, end=1.0)
        model, _ = skew(model, schedule=curve, blocks=blocks)
    flux.sample(model, steps=3)
    assert reads == [count + 1 for count in of_plain]
