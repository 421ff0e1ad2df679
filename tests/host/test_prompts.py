"""A row is positive or negative by the prompt it was made from, whatever guider or node called the model."""

from __future__ import annotations

import comfy_extras.nodes_perpneg as perpneg
import pytest
from comfy_extras.nodes_context_windows import ContextWindowsManualNode
from comfy_extras.nodes_sag import SelfAttentionGuidance

from lab.testing.families.family import draw
from lab.testing.families.rows import HOSTED
from lab.testing.neighbours import ORDERS, in_order
from lab.testing.prompted import AREA, TEXTS, assert_acts_on, cfg_guider, dual_cfg, sample_by, watch_texts
from lab.testing.run_nodes import execute, skew

SAG_SITE = "middle_block.1.transformer_blocks.0.attn1"


# --- guiders


@pytest.mark.parametrize("apply_to", ["cond", "uncond"])
@pytest.mark.parametrize("style", ["regular", "nested"])
def test_of_three_prompts_only_the_named_one_is_changed(sd15, memory, style, apply_to):
    patched, report = skew(sd15.model, apply_to=apply_to)
    with watch_texts(patched, sd15, TEXTS) as calls:
        sample_by(sd15, dual_cfg(sd15, patched, style=style), batch=2)
    assert {name for _, names in calls for name in names} == {*TEXTS}
    assert_acts_on(sd15, calls, lambda name: name == apply_to)
    other = "negative" if apply_to == "cond" else "positive"
    (line,) = [line for line in report.describe().splitlines() if line.startswith('With "apply_to" ')]
    assert set(line.partition(": ")[2].rstrip(".").split(", ")) == {other, "middle"}


@pytest.mark.parametrize(
    ("names", "apply_to", "acts_on"),
    [
        (("cond", "cond", "uncond"), "cond", {"cond"}),
        (("cond", "cond", "uncond"), "uncond", {"uncond"}),
        (("cond", "uncond", "uncond"), "uncond", {"uncond"}),
        (("cond", "uncond", "uncond"), "cond", {"cond"}),
    ],
)
def test_a_middle_prompt_is_of_the_side_whose_prompt_it_is(sd15, memory, names, apply_to, acts_on):
    patched, _ = skew(sd15.model, apply_to=apply_to)
    with watch_texts(patched, sd15, TEXTS) as calls:
        sample_by(sd15, dual_cfg(sd15, patched, names))
    assert_acts_on(sd15, calls, acts_on.__contains__)


@pytest.mark.parametrize("apply_to", ["cond", "uncond"])
def test_perp_neg_has_a_third_prompt_that_is_of_no_side(sd15, memory, apply_to):
    patched, _ = skew(sd15.model, apply_to=apply_to)
    positive, empty, negative = (sd15.conditioning(name) for name in TEXTS)
    inputs = {"positive": positive, "negative": negative, "empty_conditioning": empty, "cfg": 3.0, "neg_scale": 1.0}
    with watch_texts(patched, sd15, TEXTS) as calls:
        sample_by(sd15, execute(perpneg.PerpNegGuider, model=patched, **inputs)[0])
    assert {name for _, names in calls for name in names} == {*TEXTS}
    assert_acts_on(sd15, calls, lambda name: name == apply_to)


@pytest.mark.parametrize("apply_to", ["cond", "uncond"])
def test_a_prompt_that_a_node_brings_along_is_skipped_and_said_so(sd15, memory, apply_to):
    empty = sd15.conditioning("middle")
    theirs = execute(perpneg.PerpNeg, model=sd15.model, empty_conditioning=empty, neg_scale=1.0)[0]
    patched, report = skew(theirs, apply_to=apply_to)
    with watch_texts(patched, sd15, TEXTS) as calls:
        sd15.sample(patched, steps=2)
    assert {name for _, names in calls for name in names} == {*TEXTS}
    assert_acts_on(sd15, calls, lambda name: name == apply_to)
    assert "Reason: the guider did not say which prompt one of them is (2 model calls). Set" in report.describe()


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("apply_to", ["cond", "uncond"])
def test_the_second_pass_of_self_attention_guidance_is_negative(sd15, order, apply_to):
    def theirs(model):
        return execute(SelfAttentionGuidance, model=model, scale=0.5, blur_sigma=2.0)[0]

    patched, report = in_order(order, sd15.model, theirs, apply_to=apply_to)
    noise = draw("large enough for guidance", (2, 4, 16, 16))
    with watch_texts(patched, sd15, TEXTS) as calls:
        sample_by(sd15, cfg_guider(patched, sd15.conditioning("cond"), sd15.conditioning("uncond")), noise=noise)
    assert ["uncond", "uncond"] in [names for _, names in calls]  # the second pass
    assert_acts_on(sd15, calls, lambda name: name == apply_to, without=[SAG_SITE])
    assert not report.runs[-1].unplaced


# --- prompts


@pytest.mark.parametrize("apply_to", ["cond", "uncond"])
def test_several_prompts_of_a_side_are_all_of_it(sd15, memory, apply_to):
    patched, _ = skew(sd15.model, apply_to=apply_to)
    positive = [*sd15.conditioning("cond"), *sd15.conditioning("more of cond")]
    negative = [*sd15.conditioning("uncond"), *sd15.conditioning("more of uncond")]
    with watch_texts(patched, sd15, ("cond", "more of cond", "uncond", "more of uncond")) as calls:
        sample_by(sd15, cfg_guider(patched, positive, negative), batch=2)
    assert_acts_on(sd15, calls, lambda name: name.removeprefix("more of ") == apply_to)


@pytest.mark.parametrize("with_rest", [False, True], ids=["only the area", "and a prompt for all"])
@pytest.mark.parametrize("apply_to", ["cond", "uncond"])
def test_a_copy_of_an_area_is_of_the_side_that_it_serves(sd15, memory, apply_to, with_rest):
    """ComfyUI gives the negative prompt of an area the id of the positive one."""
    patched, report = skew(sd15.model, apply_to=apply_to)
    positive = [*sd15.conditioning("cond", **AREA), *(sd15.conditioning("more of cond") if with_rest else [])]
    with watch_texts(patched, sd15, ("cond", "more of cond", "uncond")) as calls:
        sample_by(sd15, cfg_guider(patched, positive, sd15.conditioning("uncond")), batch=2)
    assert_acts_on(sd15, calls, lambda name: name.removeprefix("more of ") == apply_to)
    assert not report.runs[-1].unplaced


def test_a_prompt_for_a_part_of_the_run_is_of_its_side_there(sd15, memory):
    patched, _ = skew(sd15.model, apply_to="uncond")
    positive = [*sd15.conditioning("cond", end_percent=0.5), *sd15.conditioning("more of cond", start_percent=0.5)]
    negative = sd15.conditioning("uncond", start_percent=0.5)
    with watch_texts(patched, sd15, ("cond", "more of cond", "uncond")) as calls:
        sample_by(sd15, cfg_guider(patched, positive, negative), steps=4)
    assert len({tuple(names) for _, names in calls}) > 1
    assert_acts_on(sd15, calls, lambda name: name == "uncond")


@pytest.mark.parametrize("apply_to", ["cond", "uncond"])
def test_windows_of_a_video_keep_the_sides_of_their_prompts(apply_to):
    row = HOSTED["WAN21_T2V"]
    given = {"context_schedule": "standard_static", "fuse_method": "pyramid", "closed_loop": False, "freenoise": False}
    window = {"context_length": 3, "context_overlap": 1, "context_stride": 1, "dim": 2, **given}
    patched, report = skew(execute(ContextWindowsManualNode, model=row.model, **window)[0], apply_to=apply_to)
    guider = cfg_guider(patched, row.conditioning("cond"), row.conditioning("uncond"))
    with watch_texts(patched, row, ("cond", "uncond")) as calls:
        sample_by(row, guider, noise=draw("six frames", (1, 16, 6, 8, 8)))
    sites = [(seen, names) for seen, names in calls if row.site_of(seen.path)]
    assert len(sites) > len(row.paths)
    assert_acts_on(row, sites, lambda name: name == apply_to)
    assert not report.runs[-1].unplaced
    row.forget()
