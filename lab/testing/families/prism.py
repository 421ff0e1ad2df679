"""A stand-in for Prism, two networks of video and one of sound, as the code of a pull request of ComfyUI calls them.

It has the class names, the arguments and the attention calls of the real one, and none of its code.
"""

from __future__ import annotations

import inspect
from typing import Any

import comfy.ldm.modules.attention
import torch
from comfy.ldm.common_dit import rms_norm
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from lab.testing.families.stand_ins import in_sd15
from lab.testing.newer_contract import LayerAttention, TensorContainer, by_contract

optimized_attention = by_contract(inspect.unwrap(comfy.ldm.modules.attention.optimized_attention))

HEADS, WIDTH = 2, 64


class AttentionModule(nn.Module):
    """The call of the host's attention; the options come by place."""

    def __init__(self) -> None:
        super().__init__()
        self.comfy_attention = LayerAttention()

    def forward(self, q: Tensor, k: Tensor, v: Tensor, transformer_options: dict[str, Any]) -> Tensor:
        """`(B, N, C)` queries, keys and values."""
        given = map(TensorContainer, (q, k, v))
        preferred = self.comfy_attention
        result: Tensor = optimized_attention(
            *given, HEADS, preferred_attention=preferred, transformer_options=transformer_options
        )
        return result


class SelfAttention(nn.Module):
    """Attention of tokens to themselves, or of the last of them to all."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(4))
        self.attn = AttentionModule()
        self.first = 0  # the tokens before this one go through a sparse attention of their own, left out here

    def forward(self, x: Tensor, freqs: None, grid: None, sparse: bool, options: dict[str, Any]) -> Tensor:
        """`(B, N, C)` tokens."""
        attended = self.attn(self.q(x)[:, self.first :], self.k(x), self.v(x), options)
        result: Tensor = torch.cat([x[:, : self.first], self.o(attended)], dim=1)
        return result


class CrossAttention(nn.Module):
    """Attention of tokens to others."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(4))
        self.attn = AttentionModule()

    def forward(self, x: Tensor, context: Tensor, options: dict[str, Any]) -> Tensor:
        """`(B, N, C)` tokens, `(B, M, C)` the others."""
        result: Tensor = self.o(self.attn(self.q(x), self.k(context), self.v(context), options))
        return result


class Conditioner(nn.Module):
    """The attention of one stream to the other."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = CrossAttention()

    def forward(self, x: Tensor, context: Tensor, options: dict[str, Any]) -> Tensor:
        """`(B, N, C)` tokens of one stream, `(B, M, C)` of the other."""
        result: Tensor = self.inner(rms_norm(x), rms_norm(context), options)
        return result


class DiTBlock(nn.Module):
    """Self-attention, and attention to the text."""

    def __init__(self) -> None:
        super().__init__()
        self.self_attn, self.cross_attn = SelfAttention(), CrossAttention()

    def forward(self, x: Tensor, context: Tensor, sparse: bool, options: dict[str, Any]) -> Tensor:
        """`(B, N, C)` tokens, `(B, M, C)` text."""
        x = x + self.self_attn(rms_norm(x), None, None, sparse, options)
        result: Tensor = x + self.cross_attn(rms_norm(x), context, options)
        return result


class Tower(nn.Module):
    """A stream; its blocks are where the streams are put together."""

    def __init__(self, channels: int, text: int, blocks: int) -> None:
        super().__init__()
        self.patch_embedding, self.text_embedding = nn.Linear(channels, WIDTH), nn.Linear(text, WIDTH)
        self.blocks = nn.ModuleList([DiTBlock() for _ in range(blocks)])
        self.head = nn.Linear(WIDTH, channels)


class FusedBlock(nn.Module):
    """A block of each stream."""

    def __init__(self, video_block: nn.Module, audio_block: nn.Module) -> None:
        super().__init__()
        self.video_block, self.audio_block = video_block, audio_block
        self.a2v_conditioner, self.v2a_conditioner = Conditioner(), Conditioner()


class Prism(nn.Module):
    """Three blocks of video, two of them beside one of sound, which is a part of the latent here.

    With `low_noise` the video's are those of the second network.
    """

    def __init__(self, dtype: torch.dtype, channels: int, text: int) -> None:
        super().__init__()
        self.dtype, self.low_noise = dtype, False
        self.video_dit, self.video_dit_2 = Tower(channels, text, 3), Tower(channels, text, 3)
        self.audio_dit = Tower(channels, text, 2)
        pairs = zip(self.video_dit.blocks, self.audio_dit.blocks, strict=False)
        self.fusion_blocks = nn.ModuleList([FusedBlock(*pair) for pair in pairs])
        self.remaining_video_blocks = nn.ModuleList(list(self.video_dit.blocks)[2:])
        self.video_dit.blocks = self.audio_dit.blocks = nn.ModuleList()

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor | None = None,
        context: Tensor | None = None,
        control: Any = None,
        transformer_options: dict[str, Any] = {},  # noqa: B006
        **others: Any,
    ) -> Tensor:
        """A latent `(B, C, h, w)` for a latent, whose last row of pixels is the sound."""
        video_dit: Any = self.video_dit_2 if self.low_noise else self.video_dit
        audio_dit: Any = self.audio_dit
        video_text, audio_text = (each.text_embedding(context) for each in (video_dit, audio_dit))
        video, audio = video_dit.patch_embedding(x[:, :, :-1].flatten(2).mT), audio_dit.patch_embedding(x[:, :, -1].mT)
        for index, fused in enumerate(self.fusion_blocks):
            both: Any = fused
            before = video
            video = video + both.a2v_conditioner(video, audio, transformer_options)
            audio = audio + both.v2a_conditioner(audio, before, transformer_options)
            block = self.video_dit_2.blocks[index] if self.low_noise else both.video_block
            video = block(video, video_text, True, transformer_options)
            audio = both.audio_block(audio, audio_text, False, transformer_options)
        for block in list(self.video_dit_2.blocks)[2:] if self.low_noise else self.remaining_video_blocks:
            video = block(video, video_text, True, transformer_options)
        drawn, sound = video_dit.head(rms_norm(video)), audio_dit.head(rms_norm(audio))
        result: Tensor = torch.cat([drawn.mT.unflatten(2, (-1, x.shape[3])), sound.mT[:, :, None]], dim=2)
        return result


for stand_in in (AttentionModule, SelfAttention, Prism):
    stand_in.__module__ = "comfy.ldm.prism.model"


def prism(dtype: torch.dtype = torch.float32) -> ModelPatcher:
    """A MODEL of it."""
    return in_sd15(Prism(dtype, 4, 48), "Prism", ("self_attn.q", "self_attn.k"), dtype)
