"""The nodes as ComfyUI sees them: ids, inputs and defaults that saved graphs rely on; what the schedule node gives."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import math
import sys

import comfy.samplers
import pytest
import symmetric_attention
import torch
from comfy_api.latest import io
from comfy_api.latest._io import Hidden
from symmetric_attention.demo_model.shape import CATEGORIES
from symmetric_attention.nodes.gamma_schedule import GammaScheduleNode
from symmetric_attention.nodes.report import ReportNode
from symmetric_attention.nodes.skew_attention import SkewAttentionNode

from lab.testing.in_process_host import load_pack
from lab.testing.run_nodes import NODE_ID, execute, skew

# A promise to saved graphs: widgets are stored by their order. New inputs go to the end of their group; nothing moves.
PROMISED = {
    "SADSkewAttention": {
        "inputs": [
            ("model", "MODEL", None),
            ("gamma", "FLOAT", 1.05),
            ("beta", "FLOAT", 3.0),
            ("adaptive", "COMBO", "off"),
            ("norm", "COMBO", "value"),
            ("blocks", "STRING", ""),
            ("start_percent", "FLOAT", 0.0),
            ("end_percent", "FLOAT", 1.0),
            ("apply_to", "COMBO", "both"),
            ("schedule", "SAD_SCHEDULE", None),
            ("gamma_text", "FLOAT", 1.0),
            ("gamma_cross", "FLOAT", 1.0),
            ("act_where_unverified", "BOOLEAN", False),
            ("mask", "MASK", None),
        ],
        "optional": {
            *("adaptive", "norm", "blocks", "start_percent", "end_percent", "apply_to"),
            *("schedule", "gamma_text", "gamma_cross", "act_where_unverified", "mask"),
        },
        "outputs": ["MODEL", "STRING", "SAD_REPORT"],
    },
    "SADGammaSchedule": {
        "inputs": [
            ("shape", "COMBO", "linear"),
            ("start_gamma", "FLOAT", 1.2),
            ("end_gamma", "FLOAT", 1.0),
            ("start", "FLOAT", 0.0),
            ("end", "FLOAT", 1.0),
            ("keyframes", "STRING", "0:1, 0.3:1.05, 1:1"),
            ("curve_min", "FLOAT", 0.5),
            ("curve_max", "FLOAT", 1.5),
            ("values", "STRING,FLOAT", "1, 1.05, 1.2, 1.05, 1"),
            ("curve", "CURVE", [(0.0, 0.0), (1.0, 1.0)]),
            ("model", "MODEL", None),
            ("sigmas", "SIGMAS", None),
        ],
        "optional": {
            *("shape", "start_gamma", "end_gamma", "start", "end", "keyframes", "curve_min", "curve_max", "values"),
            *("curve", "model", "sigmas"),
        },
        "outputs": ["SAD_SCHEDULE", "IMAGE"],
    },
    "SADReport": {
        "inputs": [("report", "SAD_REPORT", None), ("after", "LATENT,IMAGE", None)],
        "optional": {"report", "after"},
        "outputs": ["STRING"],
    },
    "SADGammaSweep": {
        "inputs": [("values", "STRING", "0, 0.5, 1, 1.5, 2"), ("seeds", "INT", 1), ("first_seed", "INT", 0)],
        "optional": {"values", "seeds", "first_seed"},
        "outputs": ["FLOAT", "STRING", "INT"],
    },
    "SADGammaGrid": {
        "inputs": [("images", "IMAGE", None), ("gamma", "FLOAT", None)],
        "optional": set(),
        "outputs": ["IMAGE", "STRING"],
    },
    "SADStabilityProbe": {
        "inputs": [
            ("model", "MODEL", None),
            ("blocks", "STRING", ""),
            ("every_nth_step", "INT", 1),
            ("depth_and_curvature", "BOOLEAN", False),
            ("patterns", "COMBO", "value"),
            ("map_site", "STRING", ""),
            ("act_where_unverified", "BOOLEAN", False),
            ("baseline", "SAD_BASELINE", None),
        ],
        "optional": {
            *("blocks", "every_nth_step", "depth_and_curvature", "patterns", "map_site", "act_where_unverified"),
            "baseline",
        },
        "outputs": ["MODEL", "SAD_TRACE"],
    },
    "SADStabilityPlot": {
        "inputs": [
            ("trace", "SAD_TRACE", None),
            ("layout", "COMBO", "heat map"),
            ("passes", "COMBO", "both"),
            ("site", "STRING", ""),
            ("after", "LATENT,IMAGE", None),
            ("compare_with", "SAD_TRACE", None),
            ("baseline", "SAD_BASELINE", None),
        ],
        "optional": {"trace", "layout", "passes", "site", "after", "compare_with", "baseline"},
        "outputs": ["IMAGE", "STRING", "STRING"],
    },
    "SADSaveStabilityTrace": {
        "inputs": [
            ("trace", "SAD_TRACE", None),
            ("after", "LATENT,IMAGE", None),
            ("filename_prefix", "STRING", "stability/trace"),
            ("format", "COMBO", "trace"),
        ],
        "optional": {"trace", "after", "filename_prefix", "format"},
        "outputs": ["STRING"],
    },
    "SADLoadStabilityTrace": {
        "inputs": [("file", "COMBO", None)],  # the list of saved traces; until version 0.2.0 a STRING
        "optional": set(),
        "outputs": ["SAD_TRACE", "STRING"],
    },
    "SADDiversityReport": {
        "inputs": [
            ("images", "IMAGE", None),
            ("gamma", "FLOAT", None),
            ("clip_vision", "CLIP_VISION", None),
            ("conditioning", "CONDITIONING", None),
        ],
        "optional": {"clip_vision", "conditioning"},
        "outputs": ["IMAGE", "STRING", "STRING"],
    },
    "SADStabilityBaseline": {
        "inputs": [("trace", "SAD_TRACE", None), ("baseline", "SAD_BASELINE", None), ("after", "LATENT,IMAGE", None)],
        "optional": {"trace", "baseline", "after"},
        "outputs": ["SAD_BASELINE", "STRING"],
    },
    "SADSaveStabilityBaseline": {
        "inputs": [("baseline", "SAD_BASELINE", None), ("filename_prefix", "STRING", "stability/baseline")],
        "optional": {"baseline", "filename_prefix"},
        "outputs": ["STRING"],
    },
    "SADLoadStabilityBaseline": {
        "inputs": [("file", "COMBO", None)],  # the list of saved baselines; until version 0.2.0 a STRING
        "optional": set(),
        "outputs": ["SAD_BASELINE", "STRING"],
    },
    "SADStabilityFeedback": {
        "inputs": [
            ("model", "MODEL", None),
            ("gain", "FLOAT", 0.05),
            ("direction", "COMBO", "toward 1"),
            ("measure", "COMBO", "alignment"),
            ("fall_back", "FLOAT", 0.0),
            ("start_percent", "FLOAT", 0.0),
            ("end_percent", "FLOAT", 1.0),
            ("dead_band", "FLOAT", 0.0),
            ("most_change", "FLOAT", 0.02),
            ("lowest_gamma", "FLOAT", 0.8),
            ("highest_gamma", "FLOAT", 1.3),
            ("first_steps", "INT", 3),
            ("blocks", "STRING", ""),
            ("baseline", "SAD_BASELINE", None),
            ("act_where_unverified", "BOOLEAN", False),
        ],
        "optional": {
            *(
                "gain",
                "direction",
                "measure",
                "fall_back",
                "start_percent",
                "end_percent",
                "dead_band",
                "most_change",
                "lowest_gamma",
                "highest_gamma",
                "first_steps",
                "blocks",
                "baseline",
                "act_where_unverified",
            )
        },
        "outputs": ["MODEL", "SAD_TRACE"],
    },
    "SADBestOfSampler": {
        "inputs": [
            ("noise", "NOISE", None),
            ("guider", "GUIDER", None),
            ("sampler", "SAMPLER", None),
            ("sigmas", "SIGMAS", None),
            ("latent_image", "LATENT", None),
            ("choose", "COMBO", "most stable"),
            ("candidates", "INT", 8),
            ("keep", "INT", 2),
            ("decide_at", "FLOAT", 0.3),
            ("rounds", "INT", 1),
            ("measure", "COMBO", "alignment"),
            ("sites", "STRING", ""),
            ("max_tries", "INT", 1),
            ("threshold", "FLOAT", 0.0),
            ("images_at_once", "INT", 0),
            ("vae", "VAE", None),
            ("clip_vision", "CLIP_VISION", None),
        ],
        "optional": {
            *("choose", "candidates", "keep", "decide_at", "rounds", "measure", "sites", "max_tries", "threshold"),
            *("images_at_once", "vae", "clip_vision"),
        },
        "outputs": ["LATENT", "FLOAT", "STRING", "SAD_TRACE", "STRING"],
    },
    "SADDemoModel": {
        "inputs": [("picture", "COMBO", CATEGORIES[0]), ("count", "INT", 1)],
        "optional": {"picture", "count"},
        "outputs": ["MODEL", "CONDITIONING", "CONDITIONING", "VAE", "LATENT"],
    },
    "SADCalibrate": {
        "inputs": [
            ("images", "IMAGE", None),
            ("gamma", "FLOAT", None),
            ("model", "MODEL", None),
            ("clip_vision", "CLIP_VISION", None),
            ("largest_drift", "FLOAT", 0.2),
            ("filename_prefix", "STRING", "calibration/own"),
        ],
        "optional": {"clip_vision", "largest_drift", "filename_prefix"},
        "outputs": ["STRING", "STRING"],
    },
    "SADCreativity": {
        "inputs": [("model", "MODEL", None), ("position", "FLOAT", 0.5), ("file", "COMBO", "no calibration")],
        "optional": {"position", "file"},
        "outputs": ["MODEL", "STRING", "SAD_REPORT"],
    },
    "SADMeasureCheckpoint": {
        "inputs": [
            ("model", "MODEL", None),
            ("vae", "VAE", None),
            ("latent_image", "LATENT", None),
            ("clip", "CLIP", None),
            ("positive", "CONDITIONING", None),
            ("negative", "CONDITIONING", None),
            ("clip_vision", "CLIP_VISION", None),
            ("minutes", "FLOAT", 15.0),
            ("steps", "INT", 20),
            ("cfg", "FLOAT", 7.0),
            ("sampler_name", "COMBO", "euler"),
            ("scheduler", "COMBO", "normal"),
            ("prompts", "STRING", ""),
            ("first_seed", "INT", 0),
            ("most_seeds", "INT", 192),
            ("images_at_once", "INT", 4),
            ("largest_drift", "FLOAT", 0.3),
            ("name", "STRING", ""),
            ("tell_prompts", "BOOLEAN", False),
            ("filename_prefix", "STRING", "trial/own"),
            ("act_where_unverified", "BOOLEAN", False),
        ],
        "optional": {
            *("clip", "positive", "negative", "clip_vision", "minutes", "steps", "cfg", "sampler_name", "scheduler"),
            *("prompts", "first_seed", "most_seeds", "images_at_once", "largest_drift", "name", "tell_prompts"),
            *("filename_prefix", "act_where_unverified"),
        },
        "outputs": ["IMAGE", "STRING", "STRING", "STRING", "STRING"],
    },
}
OPTIONS = {
    ("SADDemoModel", "picture"): list(CATEGORIES),
    ("SADStabilityProbe", "patterns"): ["value", "input"],
    ("SADStabilityPlot", "layout"): ["heat map", "curves", "heads", "difference", "map", "z-scores"],
    ("SADBestOfSampler", "choose"): ["most stable", "most different", "stable and different"],
    ("SADBestOfSampler", "measure"): [
        *("energy", "instability", "alignment", "symmetricity", "depth", "relative curvature"),
    ],
    ("SADStabilityPlot", "passes"): ["both", "cond", "uncond"],
    ("SADStabilityFeedback", "direction"): ["toward 1", "away from 1"],
    ("SADStabilityFeedback", "measure"): [
        *("energy", "instability", "alignment", "symmetricity", "depth", "relative curvature")
    ],
    ("SADSaveStabilityTrace", "format"): ["trace", "CSV", "JSON"],
    ("SADSkewAttention", "adaptive"): ["off", "gamma", "gamma and beta"],
    ("SADSkewAttention", "norm"): ["value", "projected", "input", "none"],
    ("SADSkewAttention", "apply_to"): ["both", "cond", "uncond"],
    ("SADGammaSchedule", "shape"): [
        *("constant", "linear", "cosine", "ease in", "ease out", "ease in and out", "window"),
        *("keyframes", "curve", "values"),
    ],
}
RANGES = {
    ("SADDemoModel", "count"): (1, 64),
    ("SADStabilityProbe", "every_nth_step"): (1, 100),
    ("SADStabilityFeedback", "gain"): (0.0, 2.0),
    ("SADStabilityFeedback", "fall_back"): (0.0, 20.0),
    ("SADStabilityFeedback", "start_percent"): (0.0, 1.0),
    ("SADStabilityFeedback", "end_percent"): (0.0, 1.0),
    ("SADStabilityFeedback", "dead_band"): (0.0, 10.0),
    ("SADStabilityFeedback", "most_change"): (0.0, 1.0),
    ("SADStabilityFeedback", "lowest_gamma"): (-2.0, 3.0),
    ("SADStabilityFeedback", "highest_gamma"): (-2.0, 3.0),
    ("SADStabilityFeedback", "first_steps"): (1, 100),
    ("SADBestOfSampler", "candidates"): (1, 64),
    ("SADBestOfSampler", "keep"): (1, 64),
    ("SADBestOfSampler", "decide_at"): (0.0, 1.0),
    ("SADBestOfSampler", "rounds"): (1, 8),
    ("SADBestOfSampler", "max_tries"): (1, 100),
    ("SADBestOfSampler", "images_at_once"): (0, 64),
    ("SADMeasureCheckpoint", "minutes"): (0.1, 1440),
    ("SADMeasureCheckpoint", "cfg"): (0.0, 100.0),
    ("SADMeasureCheckpoint", "most_seeds"): (4, 192),
    ("SADMeasureCheckpoint", "images_at_once"): (1, 64),
    ("SADMeasureCheckpoint", "largest_drift"): (0.001, 1.0),
    ("SADSkewAttention", "gamma"): (-2.0, 3.0),
    ("SADSkewAttention", "gamma_text"): (-2.0, 3.0),
    ("SADSkewAttention", "gamma_cross"): (-2.0, 3.0),
    ("SADSkewAttention", "beta"): (0.0, 10.0),
    ("SADSkewAttention", "start_percent"): (0.0, 1.0),
    ("SADSkewAttention", "end_percent"): (0.0, 1.0),
    ("SADGammaSchedule", "start_gamma"): (-2.0, 3.0),
    ("SADGammaSchedule", "end_gamma"): (-2.0, 3.0),
    ("SADGammaSchedule", "start"): (0.0, 1.0),
    ("SADGammaSchedule", "end"): (0.0, 1.0),
}
# Their defaults follow the evidence. An API prompt without them would get another picture when they change.
NAMED_IN_EVERY_PROMPT = {("SADSkewAttention", name) for name in ("gamma", "beta")}
FLAT = {"start_gamma": 1.0, "end_gamma": 1.0, "start": 0.0, "end": 1.0}


@pytest.fixture
def nodes() -> dict:
    extension = asyncio.run(symmetric_attention.comfy_entrypoint())
    return {node.GET_SCHEMA().node_id: node for node in asyncio.run(extension.get_node_list())}


def schedule(**inputs):
    """The schedule and the picture of Gamma Schedule."""
    return execute(GammaScheduleNode, **{**FLAT, **inputs})


def test_the_pack_gives_exactly_these_nodes(nodes):
    assert set(nodes) == set(PROMISED)


@pytest.mark.parametrize("node_id", PROMISED)
def test_inputs_their_order_and_their_defaults_are_the_promised_ones(nodes, node_id):
    inputs = nodes[node_id].GET_SCHEMA().inputs
    # An input of several types carries its widget inside.
    widgets = [getattr(each, "input_override", None) or each for each in inputs]
    found = [
        (each.id, each.get_io_type(), getattr(widget, "default", None))
        for each, widget in zip(inputs, widgets, strict=True)
    ]
    assert found == PROMISED[node_id]["inputs"]
    assert {each.id for each in inputs if each.optional} == PROMISED[node_id]["optional"]


@pytest.mark.newest
def test_what_has_a_default_may_be_missing_and_is_then_the_default(nodes):
    """A prompt of an older version, or one that a person wrote, names only some inputs."""
    for node_id, node in nodes.items():
        arguments = inspect.signature(node.execute).parameters
        for each in node.GET_SCHEMA().inputs:
            default = getattr(getattr(each, "input_override", None) or each, "default", None)
            if default is None:
                continue
            is_named = (node_id, each.id) in NAMED_IN_EVERY_PROMPT
            assert each.optional != is_named, (node_id, each.id)
            missing = arguments[each.id].default
            default = [default] if node.GET_SCHEMA().is_input_list else default
            wanted = inspect.Parameter.empty if is_named else default
            assert (list(missing) if isinstance(missing, tuple) else missing) == wanted, (node_id, each.id)


def test_a_prompt_with_model_gamma_and_beta_only_is_valid(nodes, monkeypatch):
    import execution

    class Model(io.ComfyNode):
        """A node that only says it has a MODEL."""

        @classmethod
        def define_schema(cls) -> io.Schema:
            return io.Schema(node_id="SADTestModel", inputs=[], outputs=[io.Model.Output()])

        @classmethod
        def execute(cls) -> io.NodeOutput:
            return io.NodeOutput(None)

    host_nodes = importlib.import_module("nodes")  # ComfyUI's; a plain import would be taken for the pack's by mypy
    monkeypatch.setattr(host_nodes, "NODE_CLASS_MAPPINGS", {**nodes, "SADTestModel": Model})
    model = {"1": {"class_type": "SADTestModel", "inputs": {}}}
    for node_id, inputs in {
        "SADSkewAttention": {"model": ["1", 0], "gamma": 1.2, "beta": 3.0},
        "SADGammaSchedule": {},
        "SADGammaSweep": {},
        "SADStabilityProbe": {"model": ["1", 0]},
    }.items():
        prompt = {**model, "2": {"class_type": node_id, "inputs": inputs}}
        assert asyncio.run(execution.validate_inputs("prompt", prompt, "2", {})) == (True, [], "2")


@pytest.mark.parametrize("node_id", PROMISED)
def test_outputs_are_the_promised_ones(nodes, node_id):
    assert [each.get_io_type() for each in nodes[node_id].GET_SCHEMA().outputs] == PROMISED[node_id]["outputs"]


@pytest.mark.parametrize(("node_id", "name"), OPTIONS)
def test_the_choices_are_the_promised_ones(nodes, node_id, name):
    (combo,) = (each for each in nodes[node_id].GET_SCHEMA().inputs if each.id == name)
    assert combo.options == OPTIONS[node_id, name]


@pytest.mark.parametrize(("node_id", "name"), RANGES)
def test_the_ranges_are_the_promised_ones(nodes, node_id, name):
    (number,) = (each for each in nodes[node_id].GET_SCHEMA().inputs if each.id == name)
    assert (number.min, number.max) == RANGES[node_id, name]


@pytest.mark.parametrize("node_id", PROMISED)
def test_the_frontend_gets_the_description_of_the_node(nodes, node_id):
    """The response of /object_info, which each host derives from the schema in its own way, is complete."""
    node = nodes[node_id]
    given = node.INPUT_TYPES()
    assert set(given.get("required", {})) | set(given.get("optional", {})) == {
        name for name, *_ in PROMISED[node_id]["inputs"]
    }
    assert set(given.get("optional", {})) == PROMISED[node_id]["optional"]
    info = node.GET_NODE_INFO_V1()
    assert info["category"] == "model/patch/symmetric attention"
    assert info["display_name"].endswith("(SAD)")
    saves = {"SADReport", "SADSaveStabilityTrace", "SADSaveStabilityBaseline", "SADCalibrate"}
    saves |= {"SADMeasureCheckpoint"}
    assert info["output_node"] is (node_id in saves)
    assert all(info["output_tooltips"])


@pytest.mark.parametrize("node_id", PROMISED)
def test_every_input_but_the_model_has_a_tooltip(nodes, node_id):
    schema = nodes[node_id].GET_SCHEMA()
    assert not [each.id for each in schema.inputs if not each.tooltip and each.get_io_type() != "MODEL"]
    assert schema.description
    assert schema.search_aliases


def test_rare_widgets_are_advanced_and_the_first_ones_are_not(nodes):
    inputs = nodes["SADSkewAttention"].GET_SCHEMA().inputs
    advanced = {each.id for each in inputs if each.advanced}
    assert advanced == {
        *("norm", "blocks", "start_percent", "end_percent", "apply_to", "gamma_text", "gamma_cross"),
        "act_where_unverified",
    }


def test_the_nodes_that_show_something_know_their_own_id(nodes):
    for node_id in ("SADSkewAttention", "SADReport", "SADStabilityProbe"):
        assert Hidden.unique_id in nodes[node_id].GET_SCHEMA().hidden


def test_the_defaults_of_the_widgets_work_as_they_are(sd15):
    widgets = {name: default for name, _, default in PROMISED["SADSkewAttention"]["inputs"] if default is not None}
    patched, plan, report = execute(SkewAttentionNode, model=sd15.model, **widgets)
    assert not sd15.sample(patched).equal(sd15.sample())
    assert plan == report.plan
    widgets = {name: default for name, _, default in PROMISED["SADGammaSchedule"]["inputs"] if default is not None}
    curve, picture = execute(GammaScheduleNode, **widgets)
    assert (curve.at(0), curve.at(1)) == (1.2, 1.0)
    assert picture.dim() == 4


@pytest.mark.parametrize(
    ("inputs", "points"),
    [
        ({"shape": "constant", "start_gamma": 1.2}, {0: 1.2, 0.5: 1.2, 1: 1.2}),
        ({"shape": "linear", "start_gamma": 1.2, "end_gamma": 0.8}, {0: 1.2, 0.25: 1.1, 1: 0.8}),
        ({"shape": "linear", "start_gamma": 2, "start": 0.2, "end": 0.6}, {0.1: 2, 0.2: 2, 0.4: 1.5, 0.6: 1, 0.9: 1}),
        ({"shape": "cosine", "start_gamma": 2}, {0: 2, 0.25: 2 - (1 - math.cos(math.pi / 4)) / 2, 0.5: 1.5, 1: 1}),
        ({"shape": "ease in", "start_gamma": 2}, {0: 2, 0.5: 1.75, 1: 1}),
        ({"shape": "ease out", "start_gamma": 2}, {0: 2, 0.5: 1.25, 1: 1}),
        ({"shape": "ease in and out", "start_gamma": 2}, {0: 2, 0.25: 2 - 0.15625, 0.5: 1.5, 1: 1}),
        ({"shape": "window", "start_gamma": 2, "start": 0.2, "end": 0.6}, {0.1: 1, 0.2: 2, 0.5: 2, 0.6: 1, 0.9: 1}),
        ({"shape": "window", "start_gamma": 2}, {0: 2, 0.5: 2, 1: 2}),
        ({"shape": "keyframes", "keyframes": "0:1, 0.5:2\n1:0.5"}, {0: 1, 0.25: 1.5, 0.75: 1.25, 1: 0.5}),
        ({"shape": "values", "values": "1, 2, 0.5"}, {0: 1, 0.25: 1.5, 0.5: 2, 0.75: 1.25, 1: 0.5}),
        ({"shape": "values", "values": [1.0, 2.0]}, {0: 1, 0.5: 1.5, 1: 2}),
        ({"shape": "values", "values": 1.3}, {0: 1.3, 1: 1.3}),
        ({"shape": "curve", "curve": [(0, 0), (1, 1)]}, {0: 0.5, 0.5: 1.0, 1: 1.5}),
        (
            {"shape": "curve", "curve": {"points": [(0, 0), (0.5, 1), (1, 0)], "interpolation": "linear"}},
            {0: 0.5, 0.25: 1, 0.5: 1.5, 1: 0.5},
        ),
        (
            {"shape": "curve", "curve": [(0, 1), (1, 0)], "curve_min": -1.0, "curve_max": 3.0},
            {0: 3, 0.5: 1, 1: -1},
        ),
    ],
)
def test_every_shape_gives_its_curve(inputs, points):
    curve, _ = schedule(**inputs)
    assert {place: curve.at(place) for place in points} == pytest.approx(points, abs=1e-6)


def test_a_wired_curve_of_the_hosts_own_type_is_taken():
    from comfy_api.input import CurveInput

    drawn = CurveInput.from_raw({"points": [(0, 0.2), (0.4, 0.9), (1, 0.5)], "interpolation": "monotone_cubic"})
    curve, _ = schedule(shape="curve", curve=drawn)
    for place in (0, 0.1, 0.33, 0.4, 0.8, 1):
        assert curve.at(place) == pytest.approx(0.5 + drawn.interp(place), abs=1e-4)


@pytest.mark.parametrize("shape", ["constant", "cosine", "window", "keyframes", "curve", "values"])
def test_the_picture_is_a_comfyui_image_and_shows_something(shape):
    _, picture = schedule(shape=shape, keyframes="0:1, 1:2", curve=[(0, 0), (1, 1)], values="1, 2", start_gamma=1.2)
    assert picture.dtype == torch.float32
    assert picture.shape == (1, 512, 768, 3)
    assert 0 <= picture.min() < 0.3
    assert 0.9 < picture.max() <= 1


def test_the_picture_marks_the_real_steps_where_they_are_known(sd15):
    sigmas = comfy.samplers.calculate_sigmas(sd15.model.get_model_object("model_sampling"), "karras", 6)
    inputs = {"shape": "linear", "start_gamma": 1.5}
    bare = schedule(**inputs)[1]
    marked = schedule(**inputs, model=sd15.model, sigmas=sigmas)[1]
    assert not marked.equal(bare)
    assert schedule(**inputs, model=sd15.model)[1].equal(bare)
    assert schedule(**inputs, sigmas=sigmas)[1].equal(bare)
    orange = torch.tensor([0xD5, 0x5E, 0x00]) / 255
    is_orange = (marked[0] - orange).abs().amax(dim=-1) < 0.02
    assert is_orange.sum() > 6 * 10
    assert not ((bare[0] - orange).abs().amax(dim=-1) < 0.02).any()


@pytest.mark.parametrize("name", ["SD15", "SD3"])
def test_the_marked_steps_are_the_steps_of_the_run(families, name):
    from symmetric_attention.nodes.host.progress import steps_of_run

    family = families[name]
    patched, report = skew(family.model)
    family.sample(patched, steps=4, scheduler="simple")
    sigmas = comfy.samplers.calculate_sigmas(patched.get_model_object("model_sampling"), "simple", 4)
    assert steps_of_run(patched, sigmas) == [call.progress for call in report.runs[-1].calls]


def test_loading_the_pack_needs_no_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    again = load_pack("symmetric_attention_again")
    try:
        assert asyncio.run(again.comfy_entrypoint()) is not None
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "symmetric_attention_again"]:
            del sys.modules[name]


def test_a_picture_is_drawn_without_pyplot(monkeypatch):
    """pyplot keeps figures and a backend for the whole process, which belongs to ComfyUI."""
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    assert schedule(shape="linear")[1].shape[-1] == 3


def test_the_report_node_waits_for_a_latent_or_an_image():
    (after,) = (each for each in ReportNode.GET_SCHEMA().inputs if each.id == "after")
    assert set(after.get_io_type().split(",")) == {io.Latent.io_type, io.Image.io_type}


def test_a_node_that_knows_its_id_is_not_served_from_the_cache_of_another(nodes):
    """ComfyUI shares cached results between equal nodes, and then reports would appear on the first of them."""
    for node in nodes.values():
        schema = node.GET_SCHEMA()
        assert schema.not_idempotent == (Hidden.unique_id in (schema.hidden or [])), schema.node_id


def test_a_neutral_node_says_so_in_place_of_the_last_report(sd15, monkeypatch):
    shown = []
    monkeypatch.setattr("symmetric_attention.nodes.skew_attention.show_on_node", lambda *text: shown.append(text))
    _, plan, _ = execute(SkewAttentionNode, model=sd15.model, gamma=1.0, beta=1.0)
    assert shown == [(plan, NODE_ID)]
    execute(SkewAttentionNode, model=sd15.model, gamma=1.5, beta=1.0)
    assert len(shown) == 1  # the run tells
