"""The preview of a schedule is the curve the node makes, or the sentence it fails with."""

from __future__ import annotations

import json
import shutil
import subprocess

import numpy as np
import pytest
from comfy_api.latest import io
from symmetric_attention.nodes.gamma_schedule import GammaScheduleNode
from symmetric_attention.nodes.gamma_schedule_preview import LONGEST_TEXT, preview
from symmetric_attention.nodes.schedule_shapes import FIELDS, SHAPES, make_schedule

from lab.folders import ROOT
from lab.testing.run_nodes import execute

DRAWN = {"points": [[0, 0.2], [0.4, 0.9], [1, 0.1]], "interpolation": "monotone_cubic"}
WIDGETS = {
    "shape": "linear",
    "start_gamma": 1.4,
    "end_gamma": 0.6,
    "start": 0.1,
    "end": 0.7,
    "keyframes": "0.2:1, 0.3:1.5, 0.9:0.2",
    "curve": DRAWN,
    "curve_min": 0.4,
    "curve_max": 1.9,
    "values": "1, 1.5, 0.2",
}


def ask(wired=(), **changes) -> dict:
    """The preview's answer, over the wire and back."""
    question = {"widgets": {**WIDGETS, **changes}, "wired": list(wired)}
    return json.loads(json.dumps(preview(json.loads(json.dumps(question))), allow_nan=False))


def node(**changes):
    """The schedule the node gives out for the same widgets."""
    return execute(GammaScheduleNode, **{**WIDGETS, **changes})[0]


@pytest.mark.parametrize("shape", SHAPES)
def test_straight_lines_between_its_points_are_the_curve_of_the_node(shape):
    points = ask(shape=shape)["points"]
    progress, gamma = np.array(points).T
    assert (progress[0], progress[-1]) == (0, 1)
    assert (np.diff(progress) >= 0).all()
    schedule = node(shape=shape)
    places = (np.arange(500) + 0.5) / 500  # on no keyframe
    want = [schedule.at(place) for place in places]
    is_eased = shape in ("cosine", "ease in", "ease out", "ease in and out")
    assert np.interp(places, progress, gamma) == pytest.approx(want, abs=1e-3 if is_eased else 1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_fields_that_count_are_those_that_move_the_curve(shape):
    """FIELDS says which; here every other one is changed, and then each of them."""
    other = {
        **{"start_gamma": 0.9, "end_gamma": 1.1, "start": 0.2, "end": 0.8, "keyframes": "0:2"},
        **{"curve": {**DRAWN, "points": [[0, 1], [1, 0]]}, "curve_min": 0.0, "curve_max": 2.5, "values": "1, 3"},
    }
    before = ask(shape=shape)
    for field, value in other.items():
        assert (ask(**{"shape": shape, field: value}) != before) == (field in FIELDS[shape])


@pytest.mark.parametrize(
    "wrong",
    [
        {"shape": "keyframes", "keyframes": "0:1, then 2"},
        {"shape": "keyframes", "keyframes": "0.5:1, 0.2:1"},
        {"shape": "keyframes", "keyframes": ""},
        {"shape": "values", "values": "1, two"},
        {"shape": "linear", "start": 0.8, "end": 0.2},
        {"shape": "curve", "curve": None},
        {"shape": "spiral"},
    ],
)
def test_errors_of_the_node_are_given_in_the_same_sentence(wrong):
    with pytest.raises(ValueError, match=r"\.$") as refused:
        node(**wrong)
    assert ask(**wrong) == {"problem": str(refused.value)}


@pytest.mark.parametrize(
    ("shape", "wired", "what"),
    [
        ("curve", ["curve", "model"], "curve"),
        ("values", ["values"], "values"),
        ("linear", ["start_gamma", "end"], "start_gamma and end"),
        ("linear", ["shape"], "shape"),
    ],
)
def test_a_curve_from_a_wire_is_said_to_be_one(shape, wired, what):
    assert ask(wired, shape=shape)["note"].startswith(f"The curve comes from the wire at {what}.")


def test_wires_that_do_not_count_for_the_shape_change_nothing():
    assert ask(["curve", "values", "model", "sigmas"], shape="linear") == ask(shape="linear")


def test_nonsense_gets_an_answer_all_the_same():
    assert preview({})["problem"].endswith(".")
    assert ask(start_gamma=None)["problem"].startswith("A number is missing")
    assert "not previewed" in ask(shape="values", values="1," * LONGEST_TEXT)["note"]
    assert "γ overflows" in ask(shape="cosine", start_gamma=1e308, end_gamma=-1e308)["problem"]


def test_the_browser_greys_the_fields_that_do_not_count():
    """web/lib/live.js has the same table, because a widget turns grey without asking the server."""
    script = "import(process.argv[1]).then(m => console.log(JSON.stringify(m.FIELDS)))"
    node = shutil.which("node")
    if node is None:
        pytest.skip("NO NODE.JS: the table of the browser was not compared")
    module = (ROOT / "web" / "lib" / "live.js").as_uri()
    told = subprocess.run([node, "-e", script, module], capture_output=True, text=True, check=True).stdout
    assert {shape: tuple(fields) for shape, fields in json.loads(told).items()} == FIELDS


def test_a_gamma_beyond_the_widgets_is_warned_of():
    asked = ask(shape="keyframes", keyframes="0:1, 1:9")
    assert asked["warning"] == "γ 9 is outside the range of the widgets, -2 to 3, and has not been tested."
    assert "warning" not in ask(shape="keyframes", keyframes="0:-2, 1:3")


def test_every_field_is_an_input_of_the_node():
    inputs = {each.id for each in GammaScheduleNode.define_schema().inputs}
    assert {field for fields in FIELDS.values() for field in fields} <= inputs
    assert issubclass(GammaScheduleNode, io.ComfyNode)
    assert set(FIELDS) == set(SHAPES)
    assert make_schedule("constant", start_gamma=1.0).is_neutral
