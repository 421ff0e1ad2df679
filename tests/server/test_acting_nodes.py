"""Feedback and Calibrate in a running ComfyUI, with the demo model's real weights: cancelled, and run again."""

from __future__ import annotations

import itertools
import re
import time
from typing import Any

import pytest
import torch

from lab.demo.comfyui_server import ComfyUIServer, ServerError
from lab.demo.gamma_sweep import picture_of, workflow

STEPS, LONG = 4, 450  # more than can be sampled before the cancel
fresh = itertools.count(5000)


def cancel(server: ComfyUIServer, prompt: dict[str, Any]) -> None:
    """Queue a prompt of LONG steps and cancel it after its first."""
    steps = re.compile(rf"\b[1-9]\d*/{LONG}\b")
    seen = len(steps.findall(server.log))
    running = server.queue(prompt)
    end = time.monotonic() + 120
    while len(steps.findall(server.log)) == seen:
        assert time.monotonic() < end, "the run never reached its first step"
        time.sleep(0.02)
    server.post("/interrupt")
    with pytest.raises(ServerError, match="interrupted"):
        server.wait(running)


def with_feedback(gain: float, steps: int = STEPS) -> dict[str, Any]:
    nodes = workflow(1.5, "food", 6, steps=steps, nonce=next(fresh))
    widgets = {"gain": gain, "dead_band": 0.0, "most_change": 0.5, "highest_gamma": 3.0, "first_steps": 1}
    nodes["feedback"] = {"class_type": "SADStabilityFeedback", "inputs": {"model": ["skew", 0], **widgets}}
    nodes["sampler"]["inputs"]["model"] = ["feedback", 0]
    return nodes


def test_feedback_gives_the_same_picture_after_a_cancel(server):
    plain = workflow(None, "food", 6, steps=STEPS)
    before = [picture_of(server, nodes) for nodes in (plain, with_feedback(0.0), with_feedback(1.0))]
    assert not torch.equal(before[1], before[2])
    cancel(server, with_feedback(1.0, LONG))
    plain["sampler"]["inputs"]["nonce"] = next(fresh)
    after = [picture_of(server, nodes) for nodes in (plain, with_feedback(0.0), with_feedback(1.0))]
    assert all(map(torch.equal, before, after))


def calibration(steps: int = 2) -> dict[str, Any]:
    nodes = workflow(1.0, "food", 6, steps=steps, nonce=next(fresh))
    nodes["model"]["inputs"]["count"] = 3
    nodes["sweep"] = {"class_type": "SADGammaSweep", "inputs": {"values": "0.5, 1, 1.5"}}
    nodes["skew"]["inputs"]["gamma"] = ["sweep", 0]
    inputs = {"images": ["decode", 0], "gamma": ["sweep", 0], "model": ["skew", 0]}
    nodes["calibrate"] = {
        "class_type": "SADCalibrate",
        "inputs": {**inputs, "filename_prefix": "calibration/cancelled"},
    }
    return nodes


def test_calibrate_writes_the_same_after_a_cancel_and_nothing_before(server):
    def files() -> list[str]:
        folder = server.output / "calibration"
        return [path.read_text(encoding="utf-8") for path in sorted(folder.glob("cancelled*"))]

    plain = workflow(None, "food", 6, steps=STEPS, nonce=next(fresh))
    before = picture_of(server, plain)
    server.run(calibration())
    (first,) = files()
    cancel(server, calibration(LONG))
    assert files() == [first]
    server.run(calibration())
    assert files() == [first, first]
    plain["sampler"]["inputs"]["nonce"] = next(fresh)
    assert torch.equal(picture_of(server, plain), before)
