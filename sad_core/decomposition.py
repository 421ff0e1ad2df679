"""Splitting attention logits into an energy landscape and a circulation on it (the paper's decomposition).

A = S + C,    S = (A + Aᵀ)/2 symmetric,    C = (A − Aᵀ)/2 skew-symmetric
A_γ = S + γ·C = c₊·A + c₋·Aᵀ,    c₊ = (1 + γ)/2,  c₋ = (1 − γ)/2
"""

from __future__ import annotations

import torch
from torch import Tensor

from .parameters import Strength, wide


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


def double_head_dim(q: Tensor, k: Tensor, gamma: Strength) -> tuple[Tensor, Tensor]:
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
    # Scaled in wide precision: a rounded c₊ would shift all logits alike, a rounded product only adds noise.
    precise = wide(k.dtype)
    plain, transposed = (1 + gamma) / 2, (1 - gamma) / 2
    share: Strength
    sign: Strength
    if isinstance(transposed, Tensor):
        share, sign = transposed.abs().sqrt(), transposed.sign()
    else:
        share, sign = abs(transposed) ** 0.5, 1.0 if transposed >= 0 else -1.0
    queries = torch.cat([q.to(precise), k.to(precise) * share], dim=-1)
    keys = torch.cat([k.to(precise) * plain, q.to(precise) * (share * sign)], dim=-1)
    return queries.to(q.dtype), keys.to(q.dtype)
