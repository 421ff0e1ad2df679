"""Tiny models of diffusers' own classes with random weights, and what a call of each is given.

The lengths are chosen so that no text is as long as an image: 7 tokens of text, 16 and 64 of image.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import diffusers
import torch
from torch import Tensor, nn

TEXT = 7


@dataclass(frozen=True)
class DiffusersRow:
    """A model class with a tiny model, and where its image tokens are, read in diffusers' code and not in the pack.

    Attributes:
        name: for people.
        build: makes the model.
        inputs: the arguments of a call with a batch of the given size.
        layers: how many layers γ acts in.
        image: the first and the one after the last image token of a call, by its numbers of queries and keys; calls
            that are not here are no self-attention of image tokens.
        norms: the norms that the model takes.
        result: what to compare of the model's answer.
    """

    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[int], dict[str, Any]]
    layers: int
    image: dict[tuple[int, int], tuple[int, int]]
    norms: tuple[str, ...] = ("value", "none", "projected", "input")
    result: Callable[[Any], Tensor] = field(default=lambda out: out.sample)


def normal(*shape: int, seed: int = 0) -> Tensor:
    """The same random numbers each time; the first samples do not depend on how many there are."""
    draws = [
        torch.randn(shape[1:], generator=torch.Generator().manual_seed(100 * seed + row)) for row in range(shape[0])
    ]
    return torch.stack(draws)


def made(kind: str, **options: Any) -> nn.Module:
    """A model with weights in which attention is far from uniform, the same ones each time."""
    torch.manual_seed(1)
    model: nn.Module = getattr(diffusers, kind)(**options).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            layer = f".{name}".split(".")[-2]
            if weight.dim() == 2 and layer in ("to_q", "to_k", "add_q_proj", "add_k_proj"):
                weight.mul_(3)
            elif weight.dim() == 1 and name.endswith("bias"):
                weight.normal_(std=0.1)
            elif weight.dim() >= 2 and not weight.any():
                weight.normal_(std=0.2)  # a last layer that starts at zero would hide what is before it
            elif weight.dim() >= 1 and (name.endswith(("_token", "scale_shift_table"))):
                weight.normal_(std=0.2)
    return model


def unet(**options: Any) -> nn.Module:
    """Stable Diffusion's pattern made small: one level with attention on 8 by 8 latents, one on 4 by 4."""
    shape: dict[str, Any] = {
        "sample_size": 8,
        "block_out_channels": (32, 64),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "attention_head_dim": 4,
        "cross_attention_dim": 16,
        "norm_num_groups": 8,
    }
    return made("UNet2DConditionModel", **{**shape, **options})


def unet_inputs(batch: int) -> dict[str, Any]:
    return {
        "sample": normal(batch, 4, 8, 8),
        "timestep": torch.tensor(500),
        "encoder_hidden_states": normal(batch, TEXT, 16, seed=1),
    }


def square(*lengths: int) -> dict[tuple[int, int], tuple[int, int]]:
    """Calls in which every token is an image token, of images of these lengths."""
    return {(length, length): (0, length) for length in lengths}


def audioldm() -> nn.Module:
    return unet(
        cross_attention_dim=(32, 64),
        class_embed_type="simple_projection",
        projection_class_embeddings_input_dim=12,
        class_embeddings_concat=True,
    )


def gligen() -> nn.Module:
    """Every block has another attention, of the image and of grounding tokens, behind a gate."""
    model = unet(attention_type="gated")
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(".alpha_attn"):  # closed at first
                weight.fill_(1.0)
    return model


def deepfloyd() -> nn.Module:
    return made(
        "UNet2DConditionModel",
        sample_size=8,
        in_channels=3,
        out_channels=6,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        attention_head_dim=16,
        encoder_hid_dim=16,
        cross_attention_dim=64,
        norm_num_groups=8,
        act_fn="gelu",
        class_embed_type=None,
        resnet_time_scale_shift="scale_shift",
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
    )


def sd3(dual_attention_layers: tuple[int, ...] = (0,), qk_norm: str | None = "rms_norm") -> nn.Module:
    """Stable Diffusion 3.5's pattern; a dual layer has a second attention for the image only."""
    return made(
        "SD3Transformer2DModel",
        sample_size=8,
        patch_size=2,
        in_channels=4,
        num_layers=3,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_projection_dim=32,
        joint_attention_dim=16,
        pooled_projection_dim=24,
        out_channels=4,
        dual_attention_layers=dual_attention_layers,
        qk_norm=qk_norm,
    )


ROWS = (
    DiffusersRow("UNet2DConditionModel", unet, unet_inputs, 4, square(64, 16)),
    DiffusersRow(
        "UNet2DConditionModel with blocks without text",
        lambda: unet(
            down_block_types=("AttnDownBlock2D", "DownBlock2D"),
            mid_block_type=None,
            up_block_types=("UpBlock2D", "AttnUpBlock2D"),
        ),
        unet_inputs,
        3,
        square(64),
        norms=("value", "none"),
    ),
    DiffusersRow(
        "UNet2DConditionModel of GLIGEN",
        gligen,
        lambda batch: {
            **unet_inputs(batch),
            "cross_attention_kwargs": {
                "gligen": {
                    "boxes": normal(batch, 5, 4, seed=2),
                    "positive_embeddings": normal(batch, 5, 16, seed=3),
                    "masks": torch.ones(batch, 5),
                }
            },
        },
        8,
        {**square(64, 16), (69, 69): (0, 64), (21, 21): (0, 16)},
        norms=("value", "none"),
    ),
    DiffusersRow(
        "UNet2DConditionModel of AudioLDM",
        audioldm,
        lambda batch: {
            "sample": normal(batch, 4, 8, 8),
            "timestep": torch.tensor(500),
            "encoder_hidden_states": None,
            "class_labels": normal(batch, 12, seed=1),
        },
        8,
        square(64, 16),
    ),
    DiffusersRow(
        "UNet2DConditionModel of DeepFloyd IF",
        deepfloyd,
        lambda batch: {
            "sample": normal(batch, 3, 8, 8),
            "timestep": torch.tensor(500),
            "encoder_hidden_states": normal(batch, TEXT, 16, seed=1),
        },
        4,
        {(16, 16 + TEXT): (0, 16)},
        norms=("value", "none"),
    ),
    DiffusersRow(
        "AudioLDM2UNet2DConditionModel",
        lambda: made(
            "AudioLDM2UNet2DConditionModel",
            sample_size=8,
            block_out_channels=(32, 64),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            attention_head_dim=4,
            cross_attention_dim=((None, 16, 24), (None, 16, 24)),
            norm_num_groups=8,
        ),
        lambda batch: {
            "sample": normal(batch, 4, 8, 8),
            "timestep": torch.tensor(500),
            "encoder_hidden_states": normal(batch, TEXT, 16, seed=1),
            "encoder_hidden_states_1": normal(batch, TEXT, 24, seed=2),
        },
        16,
        square(64, 16),
    ),
    DiffusersRow(
        "UNetMotionModel",
        lambda: made(
            "UNetMotionModel",
            sample_size=8,
            block_out_channels=(32, 64),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion"),
            up_block_types=("UpBlockMotion", "CrossAttnUpBlockMotion"),
            num_attention_heads=4,
            motion_num_attention_heads=4,
            cross_attention_dim=16,
            norm_num_groups=8,
        ),
        lambda batch: {
            "sample": normal(batch, 4, 3, 8, 8),
            "timestep": torch.tensor(500),
            "encoder_hidden_states": normal(batch, TEXT, 16, seed=1).repeat_interleave(3, dim=0),
        },
        18,
        square(64, 16, 3),
    ),
    DiffusersRow(
        "UNet3DConditionModel",
        lambda: made(
            "UNet3DConditionModel",
            sample_size=8,
            block_out_channels=(32, 64),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
            up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
            attention_head_dim=8,
            cross_attention_dim=16,
            norm_num_groups=8,
        ),
        lambda batch: {
            "sample": normal(batch, 4, 3, 8, 8),
            "timestep": torch.tensor(500),
            "encoder_hidden_states": normal(batch, TEXT, 16, seed=1),
        },
        14,
        square(64, 16, 3),
    ),
    DiffusersRow(
        "UNetSpatioTemporalConditionModel",
        lambda: made(
            "UNetSpatioTemporalConditionModel",
            sample_size=8,
            in_channels=8,
            block_out_channels=(32, 64),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
            up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
            num_attention_heads=(4, 4),
            cross_attention_dim=16,
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=24,
            num_frames=3,
        ),
        lambda batch: {
            "sample": normal(batch, 3, 8, 8, 8),
            "timestep": torch.tensor(500),
            "encoder_hidden_states": normal(batch, 1, 16, seed=1),
            "added_time_ids": torch.zeros(batch, 3),
        },
        8,
        square(64, 16, 3),
    ),
    DiffusersRow(
        "PixArtTransformer2DModel",
        lambda: made(
            "PixArtTransformer2DModel",
            num_attention_heads=2,
            attention_head_dim=8,
            in_channels=4,
            out_channels=8,
            num_layers=2,
            cross_attention_dim=16,
            sample_size=8,
            patch_size=2,
            caption_channels=12,
            use_additional_conditions=False,
        ),
        lambda batch: {
            "hidden_states": normal(batch, 4, 8, 8),
            "timestep": torch.full((batch,), 500),
            "encoder_hidden_states": normal(batch, TEXT, 12, seed=1),
            "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
        },
        2,
        square(16),
    ),
    DiffusersRow(
        "HunyuanDiT2DModel",
        lambda: made(
            "HunyuanDiT2DModel",
            num_attention_heads=2,
            attention_head_dim=8,
            in_channels=4,
            patch_size=2,
            sample_size=8,
            hidden_size=16,
            num_layers=4,
            mlp_ratio=2.0,
            cross_attention_dim=16,
            cross_attention_dim_t5=24,
            pooled_projection_dim=16,
            text_len=TEXT,
            text_len_t5=TEXT,
        ),
        lambda batch: {
            "hidden_states": normal(batch, 4, 8, 8),
            "timestep": torch.full((batch,), 500.0),
            "encoder_hidden_states": normal(batch, TEXT, 16, seed=1),
            "text_embedding_mask": torch.ones(batch, TEXT),
            "encoder_hidden_states_t5": normal(batch, TEXT, 24, seed=2),
            "text_embedding_mask_t5": torch.ones(batch, TEXT),
            "image_meta_size": torch.ones(batch, 6),
            "style": torch.zeros(batch, dtype=torch.long),
            "image_rotary_emb": (normal(16, 8, seed=3).cos(), normal(16, 8, seed=3).sin()),
        },
        4,
        square(16),
    ),
    DiffusersRow(
        "LuminaNextDiT2DModel",
        lambda: made(
            "LuminaNextDiT2DModel",
            sample_size=8,
            patch_size=2,
            in_channels=4,
            hidden_size=32,
            num_layers=2,
            num_attention_heads=4,
            num_kv_heads=2,
            multiple_of=16,
            cross_attention_dim=16,
        ),
        lambda batch: {
            "hidden_states": normal(batch, 4, 8, 8),
            "timestep": torch.full((batch,), 0.5),
            "encoder_hidden_states": normal(batch, TEXT, 16, seed=1),
            "encoder_mask": torch.ones(batch, TEXT),
            "image_rotary_emb": torch.polar(torch.ones(4, 4, 4), normal(4, 4, 4, seed=3)),
            "cross_attention_kwargs": {},
        },
        2,
        square(16),
    ),
    DiffusersRow(
        "WanTransformer3DModel",
        lambda: made(
            "WanTransformer3DModel",
            patch_size=(1, 2, 2),
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=4,
            out_channels=4,
            text_dim=16,
            freq_dim=16,
            ffn_dim=32,
            num_layers=2,
            cross_attn_norm=True,
            qk_norm="rms_norm_across_heads",
            rope_max_seq_len=32,
        ),
        lambda batch: {
            "hidden_states": normal(batch, 4, 2, 8, 8),
            "timestep": torch.full((batch,), 500),
            "encoder_hidden_states": normal(batch, TEXT, 16, seed=1),
        },
        2,
        square(32),
    ),
    DiffusersRow(
        "SD3Transformer2DModel",
        sd3,
        lambda batch: {
            "hidden_states": normal(batch, 4, 8, 8),
            "timestep": torch.full((batch,), 500),
            "encoder_hidden_states": normal(batch, TEXT, 16, seed=1),
            "pooled_projections": normal(batch, 24, seed=2),
        },
        4,
        {(16, 16): (0, 16), (16 + TEXT, 16 + TEXT): (0, 16)},
        norms=("value", "none"),
    ),
    DiffusersRow(
        "FluxTransformer2DModel",
        lambda: made(
            "FluxTransformer2DModel",
            patch_size=1,
            in_channels=4,
            num_layers=2,
            num_single_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=16,
            pooled_projection_dim=24,
            axes_dims_rope=(4, 4, 8),
        ),
        lambda batch: {
            "hidden_states": normal(batch, 16, 4),
            "timestep": torch.full((batch,), 0.5),
            "encoder_hidden_states": normal(batch, TEXT, 16, seed=1),
            "pooled_projections": normal(batch, 24, seed=2),
            "txt_ids": torch.zeros(TEXT, 3),
            "img_ids": torch.stack([torch.zeros(16), torch.arange(16) // 4, torch.arange(16) % 4], dim=1),
        },
        4,
        {(16 + TEXT, 16 + TEXT): (TEXT, TEXT + 16)},
        norms=("value", "none"),
    ),
    DiffusersRow(
        "QwenImageTransformer2DModel",
        lambda: made(
            "QwenImageTransformer2DModel",
            patch_size=2,
            in_channels=16,
            out_channels=4,
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=16,
            axes_dims_rope=(8, 4, 4),
        ),
        lambda batch: {
            "hidden_states": normal(batch, 16, 16),
            "timestep": torch.full((batch,), 0.5),
            "encoder_hidden_states": normal(batch, TEXT, 16, seed=1),
            "encoder_hidden_states_mask": torch.ones(batch, TEXT, dtype=torch.bool).index_fill(
                1, torch.tensor([TEXT - 1]), False
            ),
            "img_shapes": [[(1, 4, 4)]] * batch,
        },
        2,
        {(16 + TEXT, 16 + TEXT): (TEXT, TEXT + 16)},
        norms=("value", "none"),
    ),
    DiffusersRow(
        "ZImageTransformer2DModel",
        lambda: made(
            "ZImageTransformer2DModel",
            all_patch_size=(2,),
            all_f_patch_size=(1,),
            in_channels=4,
            dim=32,
            n_layers=2,
            n_refiner_layers=1,
            n_heads=2,
            n_kv_heads=2,
            cap_feat_dim=16,
            axes_dims=[8, 4, 4],
            axes_lens=[256, 32, 32],
        ),
        lambda batch: {
            "x": list(normal(batch, 4, 1, 16, 20)),
            "t": torch.full((batch,), 0.5),
            "cap_feats": [normal(1, TEXT + 32 * (row % 2), 16, seed=1)[0] for row in range(batch)],
        },
        3,
        {(96, 96): (0, 80), (128, 128): (0, 80), (160, 160): (0, 80)},  # padded from 80 tokens to 96
        norms=("value", "none"),
        result=lambda out: torch.stack(out.sample),
    ),
    DiffusersRow(
        "StableAudioDiTModel",
        lambda: made(
            "StableAudioDiTModel",
            sample_size=16,
            in_channels=4,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=4,
            num_key_value_attention_heads=2,
            out_channels=4,
            cross_attention_dim=16,
            time_proj_dim=8,
            global_states_input_dim=12,
            cross_attention_input_dim=16,
        ),
        lambda batch: {
            "hidden_states": normal(batch, 4, 16),
            "timestep": torch.full((batch,), 0.5),
            "encoder_hidden_states": normal(batch, TEXT, 16, seed=1),
            "global_hidden_states": normal(batch, 1, 12, seed=2),
            "rotary_embedding": (normal(17, 4, seed=3).cos(), normal(17, 4, seed=3).sin()),
        },
        2,
        {(17, 17): (1, 17)},
        norms=("value", "none"),
    ),
)
