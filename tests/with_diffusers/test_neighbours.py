"""γ beside what else diffusers does to attention, in both orders: γ stays, or a sentence says why it cannot."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers.hooks import (
    HookRegistry,
    ModelHook,
    PyramidAttentionBroadcastConfig,
    apply_pyramid_attention_broadcast,
)
from diffusers.models import attention_processor as processors
from diffusers.models.embeddings import IPAdapterTimeImageProjection
from torch import Tensor, nn

from lab.testing.definition import relative_error
from lab.testing.diffusers_definition import by_definition, predict
from lab.testing.diffusers_models import ROWS, normal, sd3, unet
from sad_core import set_skew_attention

BY_NAME = {row.name: row for row in ROWS}
UNET, IF = BY_NAME["UNet2DConditionModel"], BY_NAME["UNet2DConditionModel of DeepFloyd IF"]
FLUX = BY_NAME["FluxTransformer2DModel"]
# diffusers cannot fuse the second attention of a dual layer, and leaves out the norms of queries and keys.
SINGLE_SD3 = replace(BY_NAME["SD3Transformer2DModel"], build=lambda: sd3((), None), layers=3)


def image_projection(width: int) -> dict[str, Any]:
    """A projection of an image's embedding to four tokens of this width."""
    return {
        "proj.weight": normal(4 * width, 12, seed=90),
        "proj.bias": normal(4 * width, 1, seed=91)[:, 0],
        "norm.weight": torch.ones(width),
        "norm.bias": torch.zeros(width),
    }


def adapt_unet(model: Any) -> None:
    """Load an IP-Adapter for every cross-attention of a UNet, as its file has it."""
    weights: dict[str, Tensor] = {}
    number = 1
    for name in model.attn_processors:
        if name.endswith("attn2.processor"):
            layer = model.get_submodule(name.removesuffix(".processor"))
            for part in ("to_k_ip", "to_v_ip"):
                weights[f"{number}.{part}.weight"] = normal(layer.to_k.out_features, 16, seed=number)
            number += 2
    model._load_ip_adapter_weights([{"image_proj": image_projection(16), "ip_adapter": weights}])


def adapt_flux(model: Any) -> None:
    """Load an IP-Adapter for every block of Flux with text."""
    weights: dict[str, Tensor] = {}
    for number in range(len(model.transformer_blocks)):
        for part in ("to_k_ip", "to_v_ip"):
            weights[f"{number}.{part}.weight"] = normal(32, 16, seed=number)
            weights[f"{number}.{part}.bias"] = normal(32, 1, seed=number)[:, 0]
    model._load_ip_adapter_weights([{"image_proj": image_projection(16), "ip_adapter": weights}])


def adapt_sd3(model: Any) -> None:
    """Load an IP-Adapter for every block of Stable Diffusion 3."""
    torch.manual_seed(7)
    projection = IPAdapterTimeImageProjection(
        embed_dim=12, output_dim=32, hidden_dim=16, heads=1, num_queries=3, timestep_in_dim=8
    )
    weights: dict[str, Tensor] = {}
    for number in range(len(model.attn_processors)):
        of_block = processors.SD3IPAdapterJointAttnProcessor2_0(32, 32, 8, timesteps_emb_dim=16)
        weights |= {f"{number}.{name}": weight for name, weight in of_block.state_dict().items()}
    model._load_ip_adapter_weights({"image_proj": projection.state_dict(), "ip_adapter": weights})


# The row, what loads an adapter, the argument that carries images, and how the images are given in it.
ADAPTERS: dict[str, tuple[Any, Callable[[Any], None], str, dict[str, Any]]] = {
    "UNet": (UNET, adapt_unet, "added_cond_kwargs", {"image_embeds": [normal(2, 1, 12, seed=9)]}),
    "Flux": (FLUX, adapt_flux, "joint_attention_kwargs", {"ip_adapter_image_embeds": [normal(2, 1, 12, seed=9)]}),
    "SD3": (SINGLE_SD3, adapt_sd3, "joint_attention_kwargs", {"ip_adapter_image_embeds": normal(2, 5, 12, seed=9)}),
}

CHANGES: dict[str, tuple[Any, Callable[[Any], object]]] = {
    "fused projections": (UNET, lambda model: model.fuse_qkv_projections()),
    "attention slicing": (UNET, lambda model: model.set_attention_slice("max")),
    "attention slicing with added keys": (IF, lambda model: model.set_attention_slice("max")),
    "the default processors": (UNET, lambda model: model.set_default_attn_processor()),
    "the default processors with added keys": (IF, lambda model: model.set_default_attn_processor()),
    "one processor for all": (UNET, lambda model: model.set_attn_processor(processors.AttnProcessor2_0())),
    "xformers": (IF, lambda model: model.set_attn_processor(processors.XFormersAttnAddedKVProcessor())),
    "fused Flux": (FLUX, lambda model: model.fuse_qkv_projections()),
    "fused SD3": (SINGLE_SD3, lambda model: model.fuse_qkv_projections()),
    "fused Wan": (BY_NAME["WanTransformer3DModel"], lambda model: model.fuse_qkv_projections()),
    "fused PixArt": (BY_NAME["PixArtTransformer2DModel"], lambda model: model.fuse_qkv_projections()),
    "fused Hunyuan": (BY_NAME["HunyuanDiT2DModel"], lambda model: model.fuse_qkv_projections()),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("is_first", [True, False], ids=["before", "after"])
def test_gamma_stays_whatever_replaces_the_processors(change, is_first):
    row, apply = CHANGES[change]
    model = row.build()
    plain = predict(row, model)
    with by_definition(row, 1.5, 2.0):
        wanted = predict(row, model)
    steps = [lambda: apply(model), lambda: set_skew_attention(model, 1.5, 2.0)]
    for step in steps if is_first else reversed(steps):
        step()
    assert relative_error(predict(row, model) - plain, wanted - plain) < 1e-2
    set_skew_attention(model, 1.0)
    untouched = row.build()
    apply(untouched)
    if change != "xformers":  # which is not installed
        assert torch.equal(predict(row, model), predict(row, untouched))


@pytest.mark.parametrize("name", ADAPTERS)
@pytest.mark.parametrize("is_first", [True, False], ids=["before", "after"])
def test_gamma_stays_with_an_ip_adapter(name, is_first):
    row, load, argument, images = ADAPTERS[name]

    def with_adapter(model: Any) -> Tensor:
        with torch.no_grad():
            return row.result(model(**row.inputs(2), **{argument: dict(images)}))

    reference = row.build()
    without = predict(row, reference)
    load(reference)
    plain = with_adapter(reference)
    assert relative_error(plain, without) > 1e-2, "the adapter does nothing"
    with by_definition(row, 1.5, 2.0) as counts:
        wanted = with_adapter(reference)
    assert counts["skewed"] == row.layers
    model = row.build()
    steps = [lambda: load(model), lambda: set_skew_attention(model, 1.5, 2.0)]
    for step in steps if is_first else reversed(steps):
        step()
    assert relative_error(with_adapter(model) - plain, wanted - plain) < 1e-3
    set_skew_attention(model, 1.0)
    assert torch.equal(with_adapter(model), plain)


class LowRank(nn.Linear):
    """A LoRA as peft puts it in the place of a projection, with a scale that may change."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__(base.in_features, base.out_features, bias=False)
        self.base, self.strength = base, 1.0

    def forward(self, tokens: Tensor) -> Tensor:
        return self.base(tokens) + self.strength * super().forward(tokens)


@pytest.mark.parametrize("is_first", [True, False], ids=["before", "after"])
def test_gamma_acts_on_what_a_lora_and_its_scale_make_of_the_projections(is_first):
    def put(model: nn.Module, strength: float) -> None:
        torch.manual_seed(7)
        for name, layer in model.named_modules():
            if name.endswith(("attn1", "attn2")):
                layer.to_q, layer.to_v = LowRank(layer.to_q), LowRank(layer.to_v)
                layer.to_q.strength = layer.to_v.strength = strength

    def with_scale(model: Any) -> Tensor:
        with torch.no_grad():
            return model(**UNET.inputs(2), cross_attention_kwargs={"scale": 0.6}).sample

    reference, model = UNET.build(), UNET.build()
    put(reference, 0.6)
    plain = with_scale(reference)
    with by_definition(UNET, 1.5, 2.0):
        wanted = with_scale(reference)
    steps = [lambda: put(model, 0.6), lambda: set_skew_attention(model, 1.5, 2.0)]
    for step in steps if is_first else reversed(steps):
        step()
    assert relative_error(with_scale(model) - plain, wanted - plain) < 1e-3


@pytest.mark.parametrize("kind", ["PAGIdentitySelfAttnProcessor2_0", "PAGCFGIdentitySelfAttnProcessor2_0"])
@pytest.mark.parametrize("norm", ["value", "input"])
def test_perturbed_rows_stay_and_the_others_are_skewed(kind, norm):
    """Such a processor has the perturbed samples last in its batch, and its attention sees the others only."""
    tokens = normal(6, 64, 32, seed=4)
    model = unet()
    layer = next(module for name, module in model.named_modules() if name.endswith("attn1"))
    set_skew_attention(model, 1.5, 2.0, norm=norm)
    attended = 3 if kind.startswith("PAGIdentity") else 4
    with torch.no_grad():
        skewed = layer(tokens[:attended])
        layer.set_processor(getattr(processors, kind)())
        both = layer(tokens)
        set_skew_attention(model, 1.0)
        plain = layer(tokens)
    torch.testing.assert_close(both[:attended], skewed, rtol=0, atol=1e-6)
    assert torch.equal(both[attended:], plain[attended:])
    assert (both[:attended] - plain[:attended]).norm() > 1e-3 * plain.norm()


def test_a_hook_of_diffusers_that_skips_the_scores_still_skips_them():
    """Its guiders put a function mode around a layer and take it away again, step by step."""
    from diffusers.hooks.layer_skip import AttentionProcessorSkipHook

    model = unet()
    layer = next(module for name, module in model.named_modules() if name.endswith("attn1"))
    tokens = normal(2, 64, 32, seed=4)

    def skipped() -> Tensor:
        registry = HookRegistry.check_if_exists_or_initialize(layer)
        registry.register_hook(AttentionProcessorSkipHook(None, skip_attention_scores=True), "skip")
        with torch.no_grad():
            out = layer(tokens)
        registry.remove_hook("skip")
        return out

    plain = skipped()
    set_skew_attention(model, 1.5, 2.0)
    with torch.no_grad():
        skewed = layer(tokens)
    torch.testing.assert_close(skipped(), plain, rtol=0, atol=1e-6)
    with torch.no_grad():
        assert torch.equal(layer(tokens), skewed), "γ is gone after the hook"


class Passing(ModelHook):
    """A hook that calls the layer as it is."""

    def new_forward(self, module: Any, *args: Any, **kwargs: Any) -> Any:
        return self.fn_ref.original_forward(*args, **kwargs)


def test_gamma_over_the_hook_of_somebody_else_says_when_it_goes():
    model = UNET.build()
    plain = predict(UNET, model)
    set_skew_attention(model, 1.5, 2.0)
    wanted = predict(UNET, model)
    set_skew_attention(model, 1.0)
    layer = next(module for name, module in model.named_modules() if name.endswith("attn1"))
    HookRegistry.check_if_exists_or_initialize(layer).register_hook(Passing(), "passing")
    with pytest.warns(UserWarning, match="replaced the forward of 1 attention layers .* Call set_skew_attention again"):
        set_skew_attention(model, 1.5, 2.0)
    assert torch.equal(predict(UNET, model), wanted)
    set_skew_attention(model, 1.0)
    assert torch.equal(predict(UNET, model), plain)
    assert list(layer._diffusers_hook.hooks) == ["passing"]


def test_gamma_under_the_hook_of_somebody_else_can_be_taken_away():
    model = UNET.build()
    plain = predict(UNET, model)
    set_skew_attention(model, 1.5, 2.0)
    wanted = predict(UNET, model)
    layer = next(module for name, module in model.named_modules() if name.endswith("attn1"))
    HookRegistry.check_if_exists_or_initialize(layer).register_hook(Passing(), "passing")
    assert torch.equal(predict(UNET, model), wanted)
    set_skew_attention(model, 1.0)
    assert torch.equal(predict(UNET, model), plain)
    layer._diffusers_hook.remove_hook("passing")
    assert torch.equal(predict(UNET, model), plain)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        set_skew_attention(model, 1.5, 2.0)
    assert torch.equal(predict(UNET, model), wanted)


def test_a_processor_that_is_not_known_is_refused_with_those_that_are():
    class Own(processors.AttnProcessor2_0):
        pass

    model = UNET.build()
    model.set_attn_processor(Own())
    message = (
        "its processor Own is not supported. Set one of these processors of diffusers: AttnProcessor, "
        "AttnProcessor2_0, "
    )
    with pytest.raises(ValueError, match=message):
        set_skew_attention(model, 1.5)
    model.set_attn_processor(processors.AttnProcessor2_0())
    set_skew_attention(model, 1.5)
    model.set_attn_processor(Own())
    with pytest.raises(ValueError, match=message):
        predict(UNET, model)
    set_skew_attention(model, 1.0)
    predict(UNET, model)


def test_another_attention_backend_is_named_and_not_passed_over(monkeypatch):
    row = BY_NAME["FluxTransformer2DModel"]
    model = row.build()
    set_skew_attention(model, 1.5)
    from diffusers.models.transformers import transformer_flux

    monkeypatch.setattr(transformer_flux, "dispatch_attention_fn", lambda query, key, value, **_: value)
    with pytest.raises(
        RuntimeError, match=r"did not call PyTorch's attention there\. Call set_attention_backend\(\"native\"\)"
    ):
        predict(row, model)


def test_saved_weights_know_nothing_of_gamma(tmp_path):
    model = UNET.build()
    plain = predict(UNET, model)
    set_skew_attention(model, 1.5, 2.0)
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    assert torch.equal(predict(UNET, loaded), plain)
    assert loaded.state_dict().keys() == model.state_dict().keys()


def test_a_second_gamma_under_the_hook_of_somebody_else_stacks_no_site():
    """Such a hook, as Pyramid Attention Broadcast, keeps what it is put around, and goes without asking."""
    model = UNET.build()
    set_skew_attention(model, 1.5, 2.0)
    wanted = predict(UNET, model)
    set_skew_attention(model, 0.5)
    config = PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2, current_timestep_callback=lambda: 900
    )
    apply_pyramid_attention_broadcast(model, config)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        set_skew_attention(model, 1.5, 2.0)
    assert torch.equal(predict(UNET, model), wanted)
    HookRegistry.check_if_exists_or_initialize(model).remove_hook("pyramid_attention_broadcast")
    assert torch.equal(predict(UNET, model), wanted), "the second γ went with the hook"
    set_skew_attention(model, 1.0)
    sites = [getattr(module.forward, "__self__", None) for module in model.modules()]
    assert all(type(site).__name__ != "SkewSite" or site.settings is None for site in sites)
    assert torch.equal(predict(UNET, model), predict(UNET, UNET.build()))
