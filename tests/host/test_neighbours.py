"""Nodes that users stack with ours, the real ones that come with ComfyUI, before ours and after it.

What is asked of each: at every site it still is what the definition says of the queries, keys and values that reach it,
the neighbour still does its work, and the order of the two nodes makes no difference.
"""

from __future__ import annotations

import comfy.controlnet
import comfy.sd
import comfy.supported_models
import comfy_extras.nodes_model_advanced
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from comfy_extras.nodes_context_windows import ContextWindowsManualNode
from comfy_extras.nodes_easycache import EasyCacheNode
from comfy_extras.nodes_freelunch import FreeU_V2
from comfy_extras.nodes_lt import LTXVAddGuide
from comfy_extras.nodes_nag import NAGuidance

from lab.testing.families.building import build
from lab.testing.families.configs import FLUX, SD15
from lab.testing.families.family import draw
from lab.testing.families.rows import HOSTED
from lab.testing.neighbours import ORDERS, in_order
from lab.testing.recorder import distance, effect, stated, watch_attention
from lab.testing.run_nodes import execute, skew

FAMILIES = ["SD15", "Flux"]


@pytest.fixture(params=FAMILIES)
def family(families, request):
    return families[request.param]


def both_orders(family, theirs, **options) -> torch.Tensor:
    """Return the image of both nodes together. It must not depend on their order, nor equal that of a single node."""
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


@pytest.mark.parametrize("order", ORDERS)
def test_the_attention_of_comfyuis_backend_node_does_the_inner_work(family, order):
    node = comfy_extras.nodes_model_advanced.NODE_CLASS_MAPPINGS.get("ModelAttentionBackend")
    if node is None:
        pytest.skip("this host has no Model Attention Backend node")
    patched, report = in_order(order, family.model, lambda model: node().patch(model, "pytorch attention")[0])
    assert_stated(family, patched)
    assert set(report.runs[-1].site_calls) == set(family.sites)
    assert report.runs[-1].warning is None


def test_context_windows_are_skewed_window_by_window():
    """A video of six latent frames in windows of three: every window is a call of the model with its own tokens."""
    row = HOSTED["WAN21_T2V"]
    noise = draw("six frames", (1, 16, 6, 8, 8))
    names = ("context_schedule", "fuse_method", "context_stride", "closed_loop", "freenoise")
    given = dict(zip(names, ("standard_static", "pyramid", 1, False, False), strict=True))

    def theirs(model):
        settings = {"context_length": 3, "context_overlap": 1, "dim": 2, **given}
        return execute(ContextWindowsManualNode, model=model, **settings)[0]

    first, later = (in_order(order, row.model, theirs) for order in ORDERS)
    with watch_attention(first[0]) as calls:
        together = row.sample(first[0], noise=noise)
    assert together.equal(row.sample(later[0], noise=noise))
    alone = [row.sample(model, noise=noise) for model in (row.model, theirs(row.model), skew(row.model)[0])]
    for other in alone:
        assert distance(together, other) > 1e-3 * other.norm()
    record = first[1].runs[-1]
    assert record.model_calls > 1
    assert set(record.site_calls) == set(row.paths)
    assert not record.untouched
    sites = [seen for seen in calls if row.site_of(seen.path)]
    assert all(seen.q.shape[2] < 6 * 16 for seen in sites)
    for seen in sites:
        assert distance(seen.out, stated(row, seen, 1.5)) <= 1e-3 * effect(row, seen, 1.5), seen.path
    row.forget()


class Encoder:
    """A VAE that gives noise for any picture."""

    downscale_index_formula = (8, 32, 32)

    def encode(self, pixels):
        return draw("a guide", (1, 128, 1, pixels.shape[1] // 32, pixels.shape[2] // 32))


@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_guides_of_ltx_video_are_skewed_or_skipped_and_counted(strength):
    """A guide joins the tokens of the video. For a weak one newer hosts attend part by part, which stays plain."""
    row = HOSTED["LTXV"]
    latent = {"samples": torch.zeros(1, *row.latent)}
    texts = (row.conditioning("cond"), row.conditioning("uncond"))
    inputs = {"vae": Encoder(), "latent": latent, "image": torch.zeros(1, 128, 128, 3), "frame_idx": 0}
    *texts, guided = execute(LTXVAddGuide, positive=texts[0], negative=texts[1], strength=strength, **inputs)
    noise = draw("noise with a guide", tuple(guided["samples"].shape))
    run = {"texts": tuple(texts), "noise": noise, "latent": guided["samples"], "noise_mask": guided["noise_mask"]}
    patched, report = skew(row.model)
    with watch_attention(patched) as calls:
        picture = row.sample(patched, **run)
    plain = row.sample(**run)
    record = report.runs[-1]
    sites = [seen for seen in calls if row.site_of(seen.path)]
    assert sites
    if all(seen.q.shape == seen.k.shape for seen in sites):
        assert {seen.q.shape[2] for seen in sites} == {3 * 16}
        for seen in sites:
            assert distance(seen.out, stated(row, seen, 1.5)) <= 1e-3 * effect(row, seen, 1.5), seen.path
        assert not record.untouched
        assert distance(picture, plain) > 1e-3 * plain.norm()
    else:
        assert strength != 1.0
        assert not record.site_calls
        assert record.untouched == {"queries and keys are not the same tokens": len(sites)}
        assert "All were skipped" in record.warning
        assert picture.equal(plain)
    row.forget()


def with_weights_in_fp8(name: str, config: dict) -> ModelPatcher:
    """A model whose weights are stored in eight bits and cast for every use, as with --fp8_e4m3fn-unet."""
    settings = getattr(comfy.supported_models, name)(dict(config))
    settings.set_inference_dtype(torch.float8_e4m3fn, torch.float32)
    model = settings.get_model({}, "")
    own = build(name, config).model.diffusion_model.state_dict()
    with torch.no_grad():
        for path, weight in (*model.diffusion_model.named_parameters(), *model.diffusion_model.named_buffers()):
            if path in own:
                weight.copy_(own[path])
    cpu = torch.device("cpu")
    return ModelPatcher(model, load_device=cpu, offload_device=cpu)


class Packed(torch.nn.Module):
    """A Linear as loaders of packed weights have them: it unpacks inside of its forward and has no weight to read."""

    def __init__(self, linear: torch.nn.Linear):
        super().__init__()
        weight = linear.weight.detach()
        self.scale = float(weight.abs().max()) / 127
        self.packed = torch.nn.Buffer((weight / self.scale).round().to(torch.int8))
        self.offset = None if linear.bias is None else torch.nn.Buffer(linear.bias.detach().clone())

    @property
    def weight(self):
        raise AssertionError("somebody read a packed weight")

    def forward(self, x):
        return torch.nn.functional.linear(x, self.packed.to(x.dtype) * self.scale, self.offset)


def with_packed_weights(name: str, config: dict) -> ModelPatcher:
    """A model whose queries, keys and values come out of weights that cannot be read."""
    patcher = build(name, config)
    network = patcher.model.diffusion_model
    places = [path for path, _ in network.named_modules() if path.rpartition(".")[2] in ("to_q", "to_k", "to_v", "qkv")]
    assert places
    for path in places:
        network.set_submodule(path, Packed(network.get_submodule(path)))
    return patcher


@pytest.mark.parametrize("make", [with_weights_in_fp8, with_packed_weights])
def test_weights_that_are_no_plain_tensors_are_never_read(family, make):
    model = make(family.name, {"SD15": SD15, "Flux": FLUX}[family.name])
    plain = family.sample(model)
    assert plain.isfinite().all()
    assert family.sample(skew(model, gamma=1.0)[0]).equal(plain)
    patched, report = skew(model)
    assert_stated(family, patched)
    assert set(report.runs[-1].site_calls) == set(family.sites)
    assert family.sample(model).equal(plain)
