"""A small NextDiT: a diffusion transformer of the class that Lumina Image 2.0 and Z-Image belong to, in plain PyTorch.

The tokens of the condition and the pixels of the latent go through one stream of self-attention, with rotary positions
on three axes: place in the condition, row, column (Qin et al. 2025, https://arxiv.org/abs/2503.21758). The weights have
ComfyUI's names and the network its options, so that ComfyUI loads them as they are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FREQUENCIES = 256  # numbers that a moment is written in
LONGEST_PERIOD = 10_000.0
WIDTH_STEP = 256  # the width of a feed-forward network is a multiple of it
NORM_EPSILON = 1e-5
QUERY_EPSILON = torch.finfo(torch.float32).eps


class RMSNorm(nn.Module):
    """Each token's numbers over their root mean square, times a learned number a channel."""

    def __init__(self, width: int, epsilon: float = NORM_EPSILON) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., width)."""
        return F.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), self.epsilon)


class Attention(nn.Module):
    """Self-attention with normalised and rotated queries and keys."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.q_norm = RMSNorm(width // heads, QUERY_EPSILON)
        self.k_norm = RMSNorm(width // heads, QUERY_EPSILON)

    def forward(self, x: Tensor, rotation: Tensor) -> Tensor:
        """(B, L, width) -> (B, L, width); `rotation` as `rotations` gives it for the L tokens."""
        queries, keys, values = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        queries, keys = rotate(self.q_norm(queries), rotation), rotate(self.k_norm(keys), rotation)
        # Faster on CPUs, backwards, than the fused attention.
        weights = (queries @ keys.mT * queries.shape[-1] ** -0.5).softmax(dim=-1, dtype=torch.float32)
        retrieved: Tensor = self.out((weights.to(values.dtype) @ values).transpose(1, 2).flatten(-2))
        return retrieved


class FeedForward(nn.Module):
    """silu(w1 x) · w3 x, then w2."""

    def __init__(self, width: int, factor: float) -> None:
        super().__init__()
        inner = WIDTH_STEP * math.ceil(int(factor * width) / WIDTH_STEP)
        self.w1 = nn.Linear(width, inner, bias=False)
        self.w2 = nn.Linear(inner, width, bias=False)
        self.w3 = nn.Linear(width, inner, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., width)."""
        answer: Tensor = self.w2(F.silu(self.w1(x)) * self.w3(x))
        return answer


class Block(nn.Module):
    """Attention and feed-forward; where it is `modulated`, the moment scales what goes in and what comes out."""

    def __init__(self, width: int, heads: int, factor: float, modulated: bool = True) -> None:
        super().__init__()
        self.attention = Attention(width, heads)
        self.feed_forward = FeedForward(width, factor)
        self.attention_norm1, self.ffn_norm1, self.attention_norm2, self.ffn_norm2 = (RMSNorm(width) for _ in range(4))
        if modulated:
            self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 4 * width))

    def forward(self, x: Tensor, rotation: Tensor, moment: Tensor | None = None) -> Tensor:
        """(B, L, width) -> (B, L, width), at a moment (B, width)."""
        if moment is None:
            x = x + self.attention_norm2(self.attention(self.attention_norm1(x), rotation))
            condition: Tensor = x + self.ffn_norm2(self.feed_forward(self.ffn_norm1(x)))
            return condition
        scale, gate, other_scale, other_gate = self.adaLN_modulation(moment)[:, None].chunk(4, dim=-1)
        retrieved = self.attention(self.attention_norm1(x) * (1 + scale), rotation)
        x = x + gate.tanh() * self.attention_norm2(retrieved)
        inner = self.ffn_norm1(x) * (1 + other_scale)
        out: Tensor = x + other_gate.tanh() * self.ffn_norm2(self.feed_forward(inner))
        return out


class Moment(nn.Module):
    """The embedding of how far a sample is."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, moment: Tensor) -> Tensor:
        """(B,) -> (B, width)."""
        half = FREQUENCIES // 2
        rates = torch.exp(-math.log(LONGEST_PERIOD) / half * torch.arange(half, device=moment.device))
        angles = moment[:, None].float() * rates
        embedded: Tensor = self.mlp(torch.cat([angles.cos(), angles.sin()], dim=-1))
        return embedded


class FinalLayer(nn.Module):
    """From tokens to the channels of a latent."""

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, channels)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, width))

    def forward(self, x: Tensor, moment: Tensor) -> Tensor:
        """(B, L, width) -> (B, L, channels)."""
        scale = self.adaLN_modulation(moment)[:, None]
        answer: Tensor = self.linear(F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale))
        return answer


class NextDiT(nn.Module):
    """The network of ComfyUI's options (`lab.testbed.shape.COMFYUI_DIT_CONFIG`), one token a pixel of the latent.

    Args:
        options: of ComfyUI's "lumina2"; a patch is one pixel, and there are as many key heads as query heads.
        size: height and width of a latent.
        tokens: of the condition.
    """

    rotation: Tensor

    def __init__(self, options: Mapping[str, Any], size: int, tokens: int) -> None:
        super().__init__()
        width, shape = options["dim"], (options["dim"], options["n_heads"], options["ffn_dim_multiplier"])
        refiners = range(options["n_refiner_layers"])
        self.time_scale, self.tokens = options["time_scale"], tokens
        self.x_embedder = nn.Linear(options["in_channels"], width)
        self.noise_refiner = nn.ModuleList(Block(*shape) for _ in refiners)
        self.context_refiner = nn.ModuleList(Block(*shape, modulated=False) for _ in refiners)
        self.t_embedder = Moment(width)
        self.cap_embedder = nn.Sequential(RMSNorm(options["cap_feat_dim"]), nn.Linear(options["cap_feat_dim"], width))
        self.layers = nn.ModuleList(Block(*shape) for _ in range(options["n_layers"]))
        self.final_layer = FinalLayer(width, options["in_channels"])
        positions = torch.cat([places_of_condition(tokens), places_of_pixels(size, tokens)])
        angles = rotations(positions, options["axes_dims"], options["rope_theta"])
        self.register_buffer("rotation", angles, persistent=False)
        self.apply(begin)

    def forward(self, noisy: Tensor, sigmas: Tensor, context: Tensor) -> Tensor:
        """The velocity (B, C, H, W), noise less latent, of `noisy` = (1 − σ)·latent + σ·noise.

        σ is (B,) in 0 ... 1, `context` the condition (B, tokens, cap_feat_dim).
        """
        moment = self.t_embedder((1 - sigmas) * self.time_scale)
        condition = self.cap_embedder(context)
        for block in self.context_refiner:
            condition = block(condition, self.rotation[: self.tokens])
        pixels = self.x_embedder(noisy.flatten(2).mT)
        for block in self.noise_refiner:
            pixels = block(pixels, self.rotation[self.tokens :], moment)
        stream = torch.cat([condition, pixels], dim=1)
        for block in self.layers:
            stream = block(stream, self.rotation, moment)
        towards_latent = self.final_layer(stream[:, self.tokens :], moment)
        velocity: Tensor = -towards_latent.mT.unflatten(2, noisy.shape[2:])
        return velocity


def begin(module: nn.Module) -> None:
    """Random weights. Blocks answer with nothing at first, and so does the network (adaLN-Zero)."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    if isinstance(module, (Block, FinalLayer)) and hasattr(module, "adaLN_modulation"):
        nn.init.zeros_(module.adaLN_modulation.get_parameter("1.weight"))
    if isinstance(module, FinalLayer):
        nn.init.zeros_(module.linear.weight)


def places_of_condition(tokens: int) -> Tensor:
    """(tokens, 3): 1, 2 ... on the first axis."""
    return torch.stack([torch.arange(tokens) + 1, torch.zeros(tokens), torch.zeros(tokens)], dim=-1)


def places_of_pixels(size: int, tokens: int) -> Tensor:
    """(size², 3): after the condition on the first axis, then row and column."""
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    after = torch.full((size, size), tokens + 1)
    return torch.stack([after, rows, columns], dim=-1).flatten(0, 1)


def rotations(positions: Tensor, widths: list[int], base: float) -> Tensor:
    """Cosine and sine (L, d/2, 2) of each pair of numbers, for positions (L, axes); d is the sum of the widths."""
    angles = []
    for axis, width in enumerate(widths):
        rates = base ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
        angles.append(positions[:, axis, None].double() * rates)
    each = torch.cat(angles, dim=-1)
    return torch.stack([each.cos(), each.sin()], dim=-1).float()


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """(B, heads, L, d), neighbouring numbers as pairs, each turned by its angle."""
    cosine, sine = rotation.to(x.dtype).unbind(-1)
    first, second = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([first * cosine - second * sine, first * sine + second * cosine], dim=-1).flatten(-2)
