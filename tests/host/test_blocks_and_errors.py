"""The sites that the blocks field selects, and the one sentence that a wrong input raises at the node."""

from __future__ import annotations

import math

import pytest
from symmetric_attention.nodes.gamma_schedule import GammaScheduleNode

from lab.testing.families.building import build
from lab.testing.families.configs import SD15
from lab.testing.run_nodes import execute, skew

SHAPE = {"start_gamma": 1.2, "end_gamma": 1.0, "start": 0.0, "end": 1.0}
UNET = "input.1.0, input.3.0, middle.0.0, output.0.0, output.1.0, output.2.0, output.3.0"


@pytest.mark.parametrize(
    ("name", "blocks", "chosen"),
    [
        ("SD15", "middle.0.0", "middle.0.0"),
        ("SD15", "middle", "middle.0.0"),
        ("SD15", "input", "input.1.0, input.3.0"),
        ("SD15", "input.3", "input.3.0"),
        ("SD15", "input.0-2", "input.1.0"),
        ("SD15", "output.1-2", "output.1.0, output.2.0"),
        ("SD15", " Output.2 ,\nmiddle;", "middle.0.0, output.2.0"),
        ("SD15", "output.2, output", "output.0.0, output.1.0, output.2.0, output.3.0"),
        ("SD15", "self", UNET),
        ("SD15", "", UNET),
        ("SDXL", "input.5.1", "input.5.1"),
        ("SDXL", "output.0-1.0", "output.0.0, output.1.0"),
        ("SD3", "joint", "joint.0, joint.1"),
        ("SD3", "joint.1", "joint.1"),
        ("Flux", "double", "double.0, double.1"),
        ("Flux", "single.1-2, double.0", "double.0, single.1, single.2"),
        ("Flux", "joint", "double.0, double.1, single.0, single.1, single.2"),
    ],
)
def test_a_blocks_text_chooses_these_sites_and_no_others(families, name, blocks, chosen):
    patched, report = skew(families[name].model, blocks=blocks)
    families[name].sample(patched, steps=1)
    assert ", ".join(site for site in families[name].sites if report.runs[-1].site_calls[site]) == chosen
    assert len(patched.object_patches) == len(chosen.split(", "))


def test_all_sites_are_chosen_where_no_text_is(family):
    _, report = skew(family.model)
    assert f"{len(family.sites)} of {len(family.sites)} attention sites" in report.plan


@pytest.mark.newest
@pytest.mark.parametrize(
    ("blocks", "meant"),
    [("inptu.3", "input.3"), ("outptu", "output"), ("midle.0.0", "middle.0.0"), ("Selff", "self"), ("blocks", None)],
)
def test_a_typo_in_blocks_is_asked_about(sd15, blocks, meant):
    with pytest.raises(ValueError, match="this model has no attention site") as caught:
        skew(sd15.model, blocks=blocks)
    if meant is None:
        assert "Did you mean" not in str(caught.value)
    else:
        assert str(caught.value).endswith(f'. Did you mean "{meant}"?')


@pytest.mark.parametrize(
    "blocks", ["inptu.3", "input.9", "input.1.0.0", "joint", "double.0-9", "input.1, outptu", "1", "input.1-²"]
)
def test_an_unknown_block_is_refused_with_a_list_of_what_there_is(sd15, blocks):
    with pytest.raises(ValueError, match="this model has no attention site") as caught:
        skew(sd15.model, blocks=blocks)
    wrong = blocks.split(", ")[-1]
    assert f'"{wrong}"' in str(caught.value)
    assert "input.1.0, input.3.0, middle.0.0" in str(caught.value)
    assert " and the group self. Ranges" in str(caught.value)


@pytest.mark.parametrize(
    ("widgets", "words"),
    [
        ({"gamma": math.nan}, "nan"),
        ({"gamma": math.inf}, "inf"),
        ({"beta": math.nan}, "beta is nan"),
        ({"beta": math.inf}, "beta is inf"),
        ({"gamma_text": math.nan}, "gamma_text is nan"),
        ({"gamma_cross": math.inf}, "gamma_cross is inf"),
        ({"start_percent": 0.5, "end_percent": 0.5}, "end_percent is 0.5, but start_percent must be smaller than"),
        ({"start_percent": 0.8, "end_percent": 0.2}, "start_percent is 0.8 and end_percent is 0.2"),
        ({"start_percent": -0.1}, "start_percent is -0.1"),
        ({"end_percent": 1.1}, "end_percent is 1.1"),
        ({"start_percent": math.nan}, "start_percent is nan"),
        ({"norm": "lenght"}, 'norm is "lenght", but it must be one of value, projected, input, none'),
        ({"adaptive": "on"}, 'adaptive is "on", but it must be one of off, gamma, gamma and beta'),
        ({"apply_to": "all"}, 'apply_to is "all", but it must be one of both, cond, uncond'),
    ],
)
@pytest.mark.parametrize("name", ["SD15", "Flux"])
def test_a_wrong_setting_is_refused_by_the_node_in_one_sentence(families, name, widgets, words):
    with pytest.raises(ValueError, match="must be") as caught:
        skew(families[name].model, **{"gamma": 1.5, "beta": 3.0, **widgets})
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("widgets", [{"gamma": math.nan}, {"blocks": "nowhere"}, {"norm": "lenght"}])
def test_an_error_leaves_the_model_as_it_was(sd15, widgets):
    before = sd15.sample()
    with pytest.raises(ValueError, match=r"must be|has no"):
        skew(sd15.model, **widgets)
    assert not sd15.model.object_patches
    assert not any(sd15.model.wrappers.values())
    assert sd15.sample().equal(before)


@pytest.fixture
def ernie():
    """A real model whose attention gets no transformer_options."""
    config = {"hidden_size": 128, "num_attention_heads": 2, "num_layers": 1, "ffn_hidden_size": 64, "text_in_dim": 48}
    return build("ErnieImage", config)


@pytest.fixture
def unet_without_self_attention():
    return build("SD15", {**SD15, "disable_self_attentions": [True, True], "disable_middle_self_attn": True})


def test_a_model_out_of_reach_is_refused_by_name_with_the_reason(ernie):
    with pytest.raises(
        ValueError, match=r"cannot work on ErnieImage, because ComfyUI versions before 0\.40 do not let other nodes"
    ):
        skew(ernie)
    assert not ernie.object_patches


def test_a_model_with_only_cross_attention_is_refused_by_name(unet_without_self_attention):
    with pytest.raises(ValueError, match="SD15 has no self-attention that Skew Attention"):
        skew(unet_without_self_attention)
    assert not unet_without_self_attention.object_patches


def test_blocks_whose_self_attention_is_switched_off_are_not_sites():
    partly = build("SD15", {**SD15, "disable_self_attentions": [True, False], "disable_middle_self_attn": True})
    _, report = skew(partly)
    assert "3 of 3 attention sites (3 self): input.3.0, output.0.0, output.1.0." in report.plan


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"shape": "keyframes", "keyframes": ""}, "keyframes is empty. Write progress:gamma, as in 0:1"),
        ({"shape": "keyframes", "keyframes": " , "}, "keyframes is empty"),
        ({"shape": "keyframes", "keyframes": "0.5:1, 0.2:1.1"}, "rising order"),
        ({"shape": "keyframes", "keyframes": "0.5:1, 0.5:1.1"}, "rising order"),
        ({"shape": "keyframes", "keyframes": "0:1, 1.5:1.1"}, "progress runs from 0"),
        ({"shape": "keyframes", "keyframes": "-0.5:1"}, "progress runs from 0"),
        ({"shape": "keyframes", "keyframes": "0:nan"}, "finite"),
        ({"shape": "keyframes", "keyframes": "nan:1"}, "progress runs from 0"),
        ({"shape": "keyframes", "keyframes": "0:1, soon:2"}, '"soon:2" is not understood'),
        ({"shape": "keyframes", "keyframes": "0=1"}, '"0=1" is not understood'),
        ({"shape": "values", "values": ""}, "values is empty. Write at least one γ, as in 1, 1.05, 1."),
        ({"shape": "values", "values": "1, much"}, "is not a list of numbers"),
        ({"shape": "values", "values": [1.0, math.nan]}, "finite"),
        ({"shape": "values", "values": [1.0, None]}, "is not a list of numbers"),
        ({"shape": "values", "values": 10**400}, "is not a list of numbers"),
        ({"shape": "values", "values": "\u202e" + "x" * 9999}, "…"),
        ({"shape": "curve", "curve": None}, "curve is empty. Draw one in the curve widget, wire a CURVE"),
        ({"shape": "curve", "curve": "a curve"}, "not a drawn curve"),
        ({"shape": "curve", "curve": 1.0}, "not a drawn curve"),
        ({"shape": "curve", "curve": {"interpolation": "linear"}}, "not a drawn curve"),
        ({"shape": "curve", "curve": {"points": []}}, "curve"),
        ({"shape": "curve", "curve": [(0, 0), (1, math.nan)]}, "finite"),
        ({"shape": "linear", "start": 0.5, "end": 0.5}, "start must be smaller than end"),
        ({"shape": "window", "start": 0.7, "end": 0.2}, "start must be smaller than end"),
        ({"shape": "linear", "start_gamma": math.nan}, "finite"),
        ({"shape": "wave"}, "must be one of"),
    ],
)
def test_a_wrong_schedule_is_refused_in_one_sentence(inputs, words):
    with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
        execute(GammaScheduleNode, **{**SHAPE, **inputs})
    assert words in str(caught.value)


@pytest.mark.parametrize("schedule", ["0:1, 1:2", 1.05, [1.0, 1.1]])
def test_something_else_than_a_schedule_is_refused(sd15, schedule):
    with pytest.raises(ValueError, match="schedule"):
        skew(sd15.model, schedule=schedule)
