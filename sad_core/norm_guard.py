"""Keeping the length of a blended retrieval near that of the skewed one.

    ρ = clamp(max(‖R_γ‖, 1e-6) / max(‖R‖, 1e-6), 1/4, 4)      one number a token and a head

The norms belong to patterns. Which patterns is the choice of mode: those of the values (cheap, any model), of the block
input x (the paper's), or of x projected on a few directions (near the paper's at nearly the price of the values).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .parameters import accumulation_dtype

NORMS = ("value", "projected", "input", "none")
SMALLEST_NORM = 1e-6
LARGEST_RATIO = 4.0
RANK_TIMES_TOLERANCE = 0.64


def norm_ratio(skewed: Tensor, blended: Tensor) -> Tensor:
    """ρ of every token and head.

    Args:
        skewed: R_γ, `(B, H, L, P)`.
        blended: R = R₁ + β(R_γ − R₁), the same shape.

    Returns:
        `(B, H, L, 1)` in [1/4, 4], float32 or wider.
    """
    precise = accumulation_dtype(blended.dtype)
    wanted = torch.linalg.vector_norm(skewed, dim=-1, keepdim=True, dtype=precise).clamp_min(SMALLEST_NORM)
    found = torch.linalg.vector_norm(blended, dim=-1, keepdim=True, dtype=precise).clamp_min(SMALLEST_NORM)
    ratio: Tensor = wanted / found
    return ratio.clamp(1 / LARGEST_RATIO, LARGEST_RATIO)


def projection_rank(tokens: int, channels: int, tolerance: float) -> int:
    """The number of directions of x that the "projected" norm keeps: min(L, C, ⌈0.64 / tolerance⌉).

    It depends only on the shape and the tolerance, so no batch mate can change it. `tolerance` is the relative error
    of ρ aimed at for γ = 1.05, β = 3 (0.01 keeps 64 directions); it is a target, not a bound. Where the rank reaches
    min(L, C) the norm is exact.

    Raises:
        ValueError: a tolerance outside (0, 1].
    """
    if not 0 < tolerance <= 1:
        raise ValueError(f"tolerance is {tolerance}, but it must be above 0 and at most 1.")
    return min(tokens, channels, math.ceil(RANK_TIMES_TOLERANCE / tolerance))


def project_input(x: Tensor, rank: int) -> Tensor:
    """x·B, with B an orthonormal basis of about the `rank` leading principal directions of x, uncentred, per sample.

    B comes from two subspace iterations on xᵀx that start from cosines, so there is no random number in it.
    With rank = min(L, C) no length is lost: ‖p·x·B‖ = ‖p·x‖ for every row p.

    Args:
        x: `(B, L, C)`, the normalised input of the attention block.
        rank: 1 … min(L, C).

    Returns:
        `(B, L, rank)`, float32 or wider.
    """
    tokens, channels = x.shape[-2:]
    x = x.to(accumulation_dtype(x.dtype))
    if rank == channels:
        return x
    if rank == tokens:
        return x @ orthonormal(x.mT)
    position = torch.arange(channels, device=x.device, dtype=x.dtype) + 0.5
    frequency = torch.arange(rank, device=x.device, dtype=x.dtype)
    basis = torch.cos(position[:, None] * frequency * (math.pi / channels))
    for _ in range(2):
        basis = orthonormal(x.mT @ (x @ basis))
    return x @ basis


def orthonormal(columns: Tensor) -> Tensor:
    """An orthonormal basis of the span of `columns`, `(…, C, rank)`; Apple's GPUs lack the QR, the CPU does theirs."""
    basis: Tensor
    if columns.device.type == "mps":
        basis = torch.linalg.qr(columns.cpu()).Q.to(columns.device)
    else:
        basis = torch.linalg.qr(columns).Q
    return basis
