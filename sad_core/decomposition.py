"""Splitting attention logits into an energy landscape and a circulation on it (the paper's decomposition).

A = S + C,    S = (A + Aᵀ)/2 symmetric,    C = (A − Aᵀ)/2 skew-symmetric
A_γ = S + γ·C = c₊·A + c₋·Aᵀ,    c₊ = (1 + γ)/2,  c₋ = (1 − γ)/2
"""

from __future__ import annotations

from typing import overload

import torch
from torch import Tensor

from .parameters import FloatOrTensor, accumulation_dtype


def decompose(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The symmetric and the skew-symmetric part of square logits.

    Args:
        logits: `(…, L, L)`, pre-softmax self-attention logits, any float dtype.

    Returns:
        `(symmetric, skew)`, each like `logits`; they add up to `logits`.

    Raises:
        ValueError: the last two dimensions differ, so that there is no transpose to compare with.
    """
    if logits.dim() < 2 or logits.shape[-1] != logits.shape[-2]:
        raise ValueError(
            f"logits have shape {tuple(logits.shape)}, but only square logits (…, L, L) split into a symmetric and "
            "a skew part; cross-attention has none."
        )
    half = logits / 2  # halved before the sum, which half precision might not hold
    return half + half.mT, half - half.mT


@overload
def skew_coefficients(gamma: float) -> tuple[float, float]: ...
@overload
def skew_coefficients(gamma: Tensor) -> tuple[Tensor, Tensor]: ...
def skew_coefficients(gamma: FloatOrTensor) -> tuple[FloatOrTensor, FloatOrTensor]:
    """`(c₊, c₋)` = `((1 + γ)/2, (1 − γ)/2)`, the weights of A and Aᵀ in A_γ; floats, or shaped like a tensor γ."""
    return (1 + gamma) / 2, (1 - gamma) / 2


def double_head_dim(q: Tensor, k: Tensor, gamma: FloatOrTensor) -> tuple[Tensor, Tensor]:
    """Queries and keys of twice the head dim whose plain product is the skewed logits.

        q̃ k̃ᵀ = c₊·q kᵀ + c₋·k qᵀ,    q̃ = [q, √|c₋|·k],  k̃ = [c₊·k, ±√|c₋|·q]    (± the sign of c₋)

    so any fused attention kernel computes A_γ, and no L×L matrix is ever formed here. c₋ is shared out between both
    sides because it is small near γ = 1: a kernel that quantises blocks of k̃ with one scale would lose it there.

    Args:
        q, k: `(B, H, L, d)`.
        gamma: a float or a tensor that broadcasts over `(B, H, 1, 1)`.

    Returns:
        `(q̃, k̃)`, each `(B, H, L, 2d)` in the dtype of q. The softmax scale stays that of d, not of 2d.
    """
    # Scaled in the precision of sums: a rounded c₊ would shift all logits alike, a rounded product only adds noise.
    precise = accumulation_dtype(k.dtype)
    c_plus, c_minus = skew_coefficients(gamma)
    root: FloatOrTensor
    sign: FloatOrTensor
    if isinstance(c_minus, Tensor):
        root, sign = c_minus.abs().sqrt(), c_minus.sign()
    else:
        root, sign = abs(c_minus) ** 0.5, 1.0 if c_minus >= 0 else -1.0
    queries = torch.cat([q.to(precise), k.to(precise) * root], dim=-1)
    keys = torch.cat([k.to(precise) * c_plus, q.to(precise) * (root * sign)], dim=-1)
    return queries.to(q.dtype), keys.to(q.dtype)
