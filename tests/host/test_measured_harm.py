"""The report says where the pack's measurements found harm, and says it only where they did."""

from __future__ import annotations

import json

import pytest

from lab.testbed.comparisons import is_ours
from lab.testbed.in_comfyui import outputs_of
from lab.testbed.networks import NETWORKS
from lab.testing.run_nodes import skew

pytestmark = pytest.mark.newest

HARM = "images became worse on every model"
OURS = {arm.name: arm.uses for network in NETWORKS.values() for arm in network.arms if is_ours(arm.knob)}
WHOLE = {name: node for name, (node,) in OURS.items() if "blocks" not in dict(node.inputs)}  # acts on all sites


@pytest.mark.parametrize(
    ("widgets", "said"),
    [
        ({"gamma": 2.0, "beta": 1.0}, "γ 2 with β 1"),
        ({"gamma": -1.0, "beta": 1.0}, "γ -1 with β 1"),
        ({"gamma": 1.5, "beta": 3.0}, "γ 1.5 with β 3"),
        ({"gamma": 2.0, "beta": 1.0, "end_percent": 0.2}, "γ 2 with β 1"),
        ({"gamma": 1.9, "beta": 1.0}, None),
        ({"gamma": 1.05, "beta": 3.0}, None),
        ({"gamma": 2.0, "beta": 0.5}, None),
        ({"gamma": 2.0, "beta": 1.0, "start_percent": 0.4}, None),
        ({"gamma": 2.0, "beta": 1.0, "blocks": "middle"}, None),
        ({"gamma": 2.0, "beta": 1.0, "apply_to": "cond"}, None),
        ({"gamma": 2.0, "beta": 1.0, "adaptive": "gamma"}, None),
        ({"gamma": 9.0, "beta": 1.0}, None),
    ],
)
def test_the_plan_says_where_a_setting_did_harm(sd15, widgets, said):
    """Beyond the range of the widgets nothing was measured, and another sentence says so."""
    harms = [line for line in skew(sd15.model, **widgets)[1].plan.splitlines() if HARM in line]
    assert [line.partition(" in the first third")[0] for line in harms] == ([said] if said else [])


def test_what_it_says_holds_on_every_model_that_was_measured(sd15):
    """Every setting that gets the sentence has a Fréchet distance that is significantly larger, in all numbers."""
    said = {name for name, node in WHOLE.items() if HARM in outputs_of(node, model=sd15.model)[1]}
    assert {"γ 2", "γ 3", "γ -1", "γ, β 3 1.5", "γ, first third 2", "γ falling to 1 2"} <= said
    for network in NETWORKS.values():
        rows = json.loads(network.numbers.read_text(encoding="utf-8"))["arms"]
        assert "γ 2" in rows
        for name in said & set(rows):
            assert rows[name]["changes"]["frechet"][1] > 0, f"{name} in {network.numbers.name}"
