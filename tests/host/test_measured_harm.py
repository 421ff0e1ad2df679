"""The report says where the pack's measurements found harm, and says it only where they did."""

from __future__ import annotations

import json

import pytest
from symmetric_attention.nodes.creativity import CreativityNode
from symmetric_attention.sad_core.schedule import GammaSchedule

from lab.testbed.comparisons import STATIC, is_ours
from lab.testbed.in_comfyui import outputs_of
from lab.testbed.networks import NETWORKS
from lab.testing.run_nodes import execute, skew

pytestmark = pytest.mark.newest

HARM = "worse images on all three small models"
OURS = {arm.name: arm for network in NETWORKS.values() for arm in network.arms if is_ours(arm.knob)}
WHOLE = {name: arm.uses[0] for name, arm in OURS.items() if "blocks" not in dict(arm.uses[0].inputs)}  # on all sites
STRONG = {"gamma": 2.0, "beta": 1.0}


@pytest.mark.parametrize(
    ("widgets", "said"),
    [
        (STRONG, "2"),
        ({"gamma": -1.0, "beta": 1.0}, "-1"),
        ({"gamma": 0.0, "beta": 1.0}, "0"),
        ({"gamma": 1.5, "beta": 3.0}, "1.5"),
        (STRONG | {"end_percent": 0.2}, "1.6"),
        ({"schedule": GammaSchedule.from_keyframes("0:3, 0.5:1"), "beta": 1.0}, "2.4"),
        ({"gamma": 1.4, "beta": 1.0}, None),
        ({"gamma": 1.05, "beta": 3.0}, None),
        (STRONG | {"beta": 0.5}, None),
        (STRONG | {"start_percent": 0.33}, None),
        (STRONG | {"end_percent": 0.05}, None),
        (STRONG | {"blocks": "middle"}, None),
        (STRONG | {"apply_to": "cond"}, None),
        (STRONG | {"adaptive": "gamma"}, None),
        (STRONG | {"norm": "input"}, None),
        ({"gamma": 9.0, "beta": 1.0}, None),
    ],
)
def test_the_plan_says_where_a_setting_did_harm(sd15, widgets, said):
    """Beyond the range of the widgets nothing was measured, and another sentence says so."""
    harms = [line for line in skew(sd15.model, **widgets)[1].plan.splitlines() if HARM in line]
    assert [line.partition(" on average")[0] for line in harms] == ([f"γ is {said}"] if said else [])


def test_the_slider_of_a_calibration_is_not_contradicted(sd15):
    _, text, _ = execute(CreativityNode, model=sd15.model, position=1.0)
    assert "γ 1.5" in text
    assert HARM not in text


def test_it_is_said_of_all_that_did_harm_and_of_nothing_else(sd15):
    """Harm is a Fréchet distance that is significantly larger, in the numbers of every network that has the setting."""
    said = {name for name, node in WHOLE.items() if HARM in outputs_of(node, model=sd15.model)[1]}
    assert {"γ 2", "γ 3", "γ -1", "γ, β 3 1.5", "γ, first third 2", "γ falling to 1 2"} <= said
    every = [json.loads(network.numbers.read_text(encoding="utf-8"))["arms"] for network in NETWORKS.values()]
    for name, arm in OURS.items():
        harmed = [rows[name]["changes"]["frechet"][1] > 0 for rows in every if name in rows]
        if name in said:
            assert all(harmed), name
        elif arm.knob in STATIC and len(harmed) == len(every):
            assert not all(harmed), f"{name} did harm everywhere"
