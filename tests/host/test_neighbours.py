"""Nodes that users stack with ours, the real ones that come with ComfyUI, before ours and after it.

What is asked of each: at every site it still is what the definition says of the queries, keys and values that reach it,
the neighbour still does its work, and the order of the two nodes makes no difference.
"""

from __future__ import annotations

import comfy.controlnet
import comfy.sd
import pytest
import torch
from comfy_extras.nodes_easycache import EasyCacheNode
from comfy_extras.nodes_freelunch import FreeU_V2
from comfy_extras.nodes_nag import NAGuidance

from .models import draw
from .running import execute, skew
from .watching import distance, effect, stated, watch_attention

FAMILIES = ["SD15", "Flux"]


@pytest.fixture(params=FAMILIES)
def family(families, request):
    return families[request.param]


def both_orders(family, theirs, **options) -> torch.Tensor:
    """The picture of both nodes together, which must not depend on which comes first, nor be that of one alone."""
    plain = family.sample(**options)
    of_theirs, of_ours = family.sample(theirs(family.model), **options), family.sample(skew(family.model)[0], **options)
    first, later = skew(theirs(family.model)), skew(family.model)
    together = family.sample(first[0], **options)
    assert together.equal(family.sample(theirs(later[0]), **options))
    for other in (plain, of_theirs, of_ours):
        assert distance(together, other) > 1e-3 * other.norm()
    for _, report in (first, later):
        assert set(report.runs[-1].site_calls) == set(family.sites)
        assert report.runs[-1].warning is None
    return together


def assert_stated(family, patched, **options) -> None:
    """Every site gives what the definition says."""
    with watch_attention(patched) as calls:
        family.sample(patched, **options)
    sites = [seen for seen in calls if not seen.is_cross]
    assert sites
    for seen in sites:
        assert distance(seen.out, stated(family, seen, 1.5, 1.0)) <= 1e-3 * effect(family, seen, 1.5), seen.path


def with_lora(model):
    """A LoRA on queries and keys, through ComfyUI's own loader."""
    weights = {}
    for name, weight in model.model.diffusion_model.named_parameters():
        if name.endswith(("attn1.to_q.weight", "img_attn.qkv.weight")):
            module = f"diffusion_model.{name.removesuffix('.weight')}"
            weights[f"{module}.lora_up.weight"] = draw(f"{name} up", (weight.shape[0], 4)) * 0.5
            weights[f"{module}.lora_down.weight"] = draw(f"{name} down", (4, weight.shape[1])) * 0.5
    assert weights
    return comfy.sd.load_lora_for_models(model, None, weights, 1.0, 0)[0]


def test_a_lora_is_part_of_what_is_skewed(family):
    both_orders(family, with_lora)
    assert_stated(family, skew(with_lora(family.model))[0])


def test_a_lora_leaves_no_trace_in_the_model_without_it(family):
    before = family.sample(skew(family.model)[0])
    family.sample(skew(with_lora(family.model))[0])
    assert family.sample(skew(family.model)[0]).equal(before)
    assert family.sample().equal(family.picture)


class FixedControl(comfy.controlnet.ControlBase):
    """A control net that always answers the same, as ComfyUI asks for it."""

    def __init__(self, residual: torch.Tensor):
        super().__init__()
        self.residual = residual

    def get_control(self, x_noisy, t, cond, batched_number, transformer_options):
        control = self.residual.repeat(len(x_noisy), 1, 1, 1)
        return {"middle": [control], "output": []}

    def copy(self):
        return FixedControl(self.residual)

    def get_models(self):
        return []


def test_a_control_net_reaches_the_picture_and_gamma_too(sd15):
    def texts(control=None):
        extra = {} if control is None else {"control": control, "control_apply_to_uncond": True}
        return sd15.conditioning("cond", **extra), sd15.conditioning("uncond", **extra)

    control = texts(FixedControl(draw("control", (1, 64, 4, 6))))
    patched, report = skew(sd15.model)
    pictures = [sd15.sample(model, texts=which) for model in (None, patched) for which in (texts(), control)]
    for index, one in enumerate(pictures):
        for other in pictures[index + 1 :]:
            assert distance(one, other) > 1e-3 * one.norm()
    assert set(report.runs[-1].site_calls) == set(sd15.sites)
    assert_stated(sd15, patched, texts=control)


def test_normalized_attention_guidance_acts_on_what_we_give(family):
    theirs = lambda model: execute(NAGuidance, model=model, nag_scale=5.0, nag_alpha=0.5, nag_tau=1.5)[0]  # noqa: E731
    if family.name == "Flux":
        # It writes into the attention's output in place, which its blocks hand on; both orders must still agree.
        assert family.sample(skew(theirs(family.model))[0]).equal(family.sample(theirs(skew(family.model)[0])))
    else:
        both_orders(family, theirs)


def test_freeu_changes_features_outside_of_attention(sd15):
    def theirs(model):
        return FreeU_V2.execute(model=model, b1=1.3, b2=1.4, s1=0.9, s2=0.2)[0]

    both_orders(sd15, theirs)
    assert_stated(sd15, skew(theirs(sd15.model))[0])


def test_a_step_cache_skips_model_calls_and_the_report_counts_the_rest(sd15):
    def theirs(model):
        settings = {"reuse_threshold": 3.0, "start_percent": 0.1, "end_percent": 1.0, "verbose": False}
        return execute(EasyCacheNode, model=model, **settings)[0]

    both_orders(sd15, theirs, steps=6)
    patched, report = skew(theirs(sd15.model))
    sd15.sample(patched, steps=6)
    assert 0 < report.runs[-1].site_calls[sd15.sites[0]] < 6
    assert report.runs[-1].status == "finished"
