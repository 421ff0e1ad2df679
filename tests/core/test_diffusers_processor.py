"""The diffusers processor: reference numbers through a real UNet2DConditionModel, and the plain model given back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from lab.testing import reference_cases
from lab.testing.definition import relative_error
from sad_core import set_skew_attention
from sad_core.diffusers_processor import SkewAttentionProcessor

diffusers = pytest.importorskip("diffusers")
REFERENCE = Path(reference_cases.__file__).parent / "reference" / "small.safetensors"


def sdxl_shaped_unet(channels: int = 32, heads: int = 4) -> torch.nn.Module:
    """SDXL's pattern made small: no attention at the first level, depth 2 below, text_time conditioning."""
    return diffusers.UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(channels, channels),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=2,
        attention_head_dim=(heads, heads),
        cross_attention_dim=16,
        norm_num_groups=8,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=8 * 6 + 16,
    ).eval()


def predict(unet: torch.nn.Module, batch: int = 2) -> torch.Tensor:
    draw = torch.Generator().manual_seed(3)
    latents, text, pooled = (torch.randn(shape, generator=draw) for shape in ((4, 4, 8, 8), (4, 7, 16), (4, 16)))
    conditions = {"text_embeds": pooled[:batch], "time_ids": torch.zeros(batch, 6)}
    with torch.no_grad():
        return unet(latents[:batch], 500, text[:batch], added_cond_kwargs=conditions).sample


def attention_with_reference_weights(data: dict) -> torch.nn.Module:
    unet = sdxl_shaped_unet()
    attention = next(module for name, module in unet.named_modules() if name.endswith("attn1"))
    for layer, weight in ((attention.to_q, "w_q"), (attention.to_k, "w_k"), (attention.to_v, "w_v")):
        layer.weight.data.copy_(data[weight])
    attention.to_out[0].weight.data.copy_(torch.eye(32))
    attention.to_out[0].bias.data.zero_()
    attention.unet = [unet]  # a list, so that the model is kept but not registered as a part of its own layer
    return attention


@pytest.fixture
def reference():
    with safe_open(REFERENCE, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()["spec"])  # noqa: SIM118


def test_static_reference_cases_come_out_of_a_diffusers_layer(reference):
    data, spec = reference
    attention = attention_with_reference_weights(data)
    for index, case in enumerate(spec["static"]):
        set_skew_attention(attention.unet[0], case["gamma"], case["beta"], norm="input")
        with torch.no_grad():
            assert relative_error(attention(data["x"]), data[f"static.{index}.out"]) < 1e-5, case


def test_adaptive_reference_cases_come_out_of_a_diffusers_layer(reference):
    data, spec = reference
    attention = attention_with_reference_weights(data)
    tried = 0
    for index, case in enumerate(spec["adaptive"]):
        if case["mode"] == "dev" and case["adapt_gamma"] and case["adapt_beta"]:
            set_skew_attention(
                attention.unet[0], case["gamma"], case["beta"], norm="input", adaptive=True, average_over="batch"
            )
            with torch.no_grad():
                assert relative_error(attention(data["x"]), data[f"adaptive.{index}.out"]) < 1e-5
            tried += 1
    assert tried


def test_gamma_one_gives_the_plain_model_back_bit_for_bit():
    unet = sdxl_shaped_unet()
    before, processors = predict(unet), dict(unet.attn_processors)
    names = set_skew_attention(unet, gamma=1.5)
    assert len(names) == 8
    assert (predict(unet) - before).norm() > 1e-5 * before.norm()
    set_skew_attention(unet, gamma=1.0)
    assert torch.equal(predict(unet), before)
    assert unet.attn_processors == processors


@pytest.mark.parametrize("settings", [{}, {"adaptive": True}, {"norm": "projected"}], ids=str)
def test_a_picture_does_not_depend_on_its_batch_mates(settings):
    unet = sdxl_shaped_unet()
    set_skew_attention(unet, gamma=1.5, beta=3.0, **settings)
    torch.testing.assert_close(predict(unet, batch=4)[:1], predict(unet, batch=1), rtol=0, atol=1e-5)


def test_settings_are_replaced_not_stacked():
    unet = sdxl_shaped_unet()
    set_skew_attention(unet, gamma=0.5, beta=1.0)
    once = predict(unet)
    set_skew_attention(unet, gamma=2.0, beta=3.0)
    set_skew_attention(unet, gamma=0.5, beta=1.0)
    assert torch.equal(predict(unet), once)


def test_a_model_without_self_attention_is_refused():
    class Plain:
        attn_processors = {"mid.attentions.0.processor": None}  # noqa: RUF012

    with pytest.raises(ValueError, match="Plain has no self-attention"):
        set_skew_attention(Plain())


def test_gamma_is_put_on_the_wanted_layers_alone():
    unet = sdxl_shaped_unet()
    set_skew_attention(unet, gamma=2.0)
    names = set_skew_attention(unet, gamma=0.5, layers="up_blocks")
    assert names
    assert all(name.startswith("up_blocks.") for name in names)
    skewed = [name for name, each in unet.attn_processors.items() if isinstance(each, SkewAttentionProcessor)]
    assert sorted(skewed) == sorted(names)


@pytest.mark.parametrize("layers", ["left_blocks", "up_block"])
def test_layers_that_the_model_does_not_have_are_refused(layers):
    with pytest.raises(ValueError, match=f'begins with "{layers}"; here they begin with down_blocks'):
        set_skew_attention(sdxl_shaped_unet(), gamma=0.5, layers=layers)
