"""γ in diffusers models: reference numbers through a real UNet2DConditionModel, and the plain model given back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open

from lab.testing import definition, reference_cases
from lab.testing.definition import relative_error
from sad_core import set_skew_attention
from sad_core.diffusers.interception import SkewSettings, skewed_call
from sad_core.diffusers.layouts import Layout
from sad_core.diffusers.site import site_of

diffusers = pytest.importorskip("diffusers")
diffusers_models = pytest.importorskip("lab.testing.diffusers_models")
diffusers_definition = pytest.importorskip("lab.testing.diffusers_definition")
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
    unet = sdxl_shaped_unet()
    for block in (*unet.down_blocks, unet.mid_block, *unet.up_blocks):
        block.attentions = None
    with pytest.raises(ValueError, match="UNet2DConditionModel has no self-attention layer"):
        set_skew_attention(unet)


def test_a_model_of_another_package_is_refused_with_what_is_known():
    class UNet2DConditionModel(torch.nn.Module):
        """Not that of diffusers."""

    with pytest.raises(
        ValueError, match=r"its class is not supported\. Pass one of these classes of diffusers: UNet2DConditionModel, "
    ):
        set_skew_attention(UNet2DConditionModel())


def test_gamma_is_put_only_on_the_wanted_layers():
    unet = sdxl_shaped_unet()
    set_skew_attention(unet, gamma=2.0)
    names = set_skew_attention(unet, gamma=0.5, layers="up_blocks")
    assert names
    assert all(name.startswith("up_blocks.") for name in names)
    skewed = [f"{name}.processor" for name, module in unet.named_modules() if site_of(module) is not None]
    assert sorted(skewed) == sorted(names)


def test_gamma_stays_where_processors_are_reset_fused_or_cut_into_slices():
    unet = sdxl_shaped_unet()
    plain = predict(unet)
    set_skew_attention(unet, gamma=1.5)
    wanted = predict(unet) - plain
    for change in (
        lambda: unet.set_default_attn_processor(),
        lambda: unet.set_attention_slice("max"),
        lambda: unet.fuse_qkv_projections(),
    ):
        change()
        assert relative_error(predict(unet) - plain, wanted) < 1e-2


def test_the_queries_of_deepfloyd_are_the_last_rows_of_its_keys():
    """γ acts in their square block; the columns of the added text keys stay."""
    row = next(row for row in diffusers_models.ROWS if row.name.endswith("DeepFloyd IF"))
    model = row.build()
    plain = diffusers_definition.predict(row, model)
    with diffusers_definition.by_definition(row, 1.5, 2.0):
        wanted = diffusers_definition.predict(row, model)
    set_skew_attention(model, 1.5, 2.0)
    assert relative_error(diffusers_definition.predict(row, model) - plain, wanted - plain) < 1e-3
    set_skew_attention(model, 1.0)
    assert torch.equal(diffusers_definition.predict(row, model), plain)


@pytest.mark.parametrize("kind", ["bool", "additive"])
def test_masks_of_a_call_with_added_keys_keep_their_columns(kind, monkeypatch):
    q, k, v = (torch.randn(2, 3, tokens, 8) for tokens in (5, 9, 9))
    attended = torch.rand(2, 1, 5, 9) > 0.3
    attended[..., 0] = True
    mask = attended if kind == "bool" else torch.where(attended, torch.randn(2, 1, 5, 9), -torch.inf)
    plain, rows = F.scaled_dot_product_attention, []

    def attention(query, *args, **kwargs):
        rows.append(query.shape[2])
        return plain(query, *args, **kwargs)

    monkeypatch.setattr(F, "scaled_dot_product_attention", attention)
    found = skewed_call(q, k, v, mask, None, Layout(5, 9, 0, 5), SkewSettings(1.5, 2.0))
    assert rows == [5, 5], "rows were computed that have no query"
    logits = q.double() @ k.mT.double() / 8**0.5
    square = logits[..., 4:]
    skew = torch.cat([logits[..., :4], (square + square.mT) / 2 + 1.5 * (square - square.mT) / 2], dim=-1)
    plain_values, skew_values = (definition.weights(each, mask) @ v.double() for each in (logits, skew))
    blended = plain_values + 2.0 * (skew_values - plain_values)
    ratio = (definition.length(skew_values) / definition.length(blended)).clamp(0.25, 4)
    torch.testing.assert_close(found, (ratio * blended).float(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("layers", ["left_blocks", "up_block"])
def test_layers_that_the_model_does_not_have_are_refused(layers):
    with pytest.raises(ValueError, match=f'begins with "{layers}". The names begin with down_blocks'):
        set_skew_attention(sdxl_shaped_unet(), gamma=0.5, layers=layers)
