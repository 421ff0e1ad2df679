"""Going along the change that γ makes, further or less far, at the length it has (the paper's β and norm guard).

R = R₁ + β(R_γ − R₁)        out = ρ·R        (ρ: norm_guard.py)
"""

from __future__ import annotations

import torch
from torch import Tensor

from .norm_guard import norm_ratio
from .parameters import FloatOrTensor, accumulation_dtype, is_exactly


def blend(plain: Tensor, skewed: Tensor, beta: FloatOrTensor, value_dim: int, norm: str) -> Tensor:
    """ρ·(R₁ + β(R_γ − R₁)).

    Args:
        plain, skewed: R₁ and R_γ, `(B, H, L, dv + P)`: the values first, then the P patterns ρ is taken of
            (P = 0: of the values themselves).
        beta: a float or a tensor that broadcasts over `(B, H, L, dv)`.
        value_dim: dv.
        norm: one of `norm_guard.NORMS`; "none" means ρ = 1.

    Returns:
        `(B, H, L, dv)` in the dtype of `plain`.
    """
    precise = accumulation_dtype(plain.dtype)
    base, target = plain.to(precise), skewed.to(precise)
    is_pure = is_exactly(beta, 1.0)
    blended = target if is_pure else base + beta * (target - base)
    result = blended[..., :value_dim]
    if norm != "none" and not is_pure:
        first = value_dim if plain.shape[-1] > value_dim else 0
        result = result * norm_ratio(target[..., first:], blended[..., first:])
    return result.to(plain.dtype)


def keep_neutral(result: Tensor, plain: Tensor, gamma: FloatOrTensor, beta: FloatOrTensor) -> Tensor:
    """`result` `(B, H, L, dv)`, with `plain` `(B, H, L, dv or more)` in the samples and heads at γ = 1 or β = 0."""
    for value, neutral in ((gamma, 1.0), (beta, 0.0)):
        if isinstance(value, Tensor):
            result = torch.where(value == neutral, plain[..., : result.shape[-1]], result)
    return result
