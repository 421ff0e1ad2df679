"""Going along the change that γ makes, further or less far, at the length it has (the paper's β and norm guard).

R = R₁ + β(R_γ − R₁)        out = ρ·R        (ρ: norm_guard.py)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .norm_guard import norm_ratio
from .parameters import FloatOrTensor


def blend(plain: Tensor, skewed: Tensor, beta: FloatOrTensor, value_dim: int, norm: str, *, in_place: bool) -> Tensor:
    """ρ·(R₁ + β(R_γ − R₁)).

    Args:
        plain, skewed: R₁ and R_γ, `(B, H, L, dv + P)`: the values first, then the P patterns ρ is taken of
            (P = 0: of the values themselves).
        beta: a float or a tensor that broadcasts over `(B, H, L, dv)`.
        value_dim: dv.
        norm: one of `norm_guard.NORMS`; "none" means ρ = 1.
        in_place: whether results may be written over others, see `parameters.writes_in_place`; with the same bits.

    Returns:
        `(B, H, L, dv)` in the dtype of `plain`.
    """
    in_place = in_place and not (plain.requires_grad or skewed.requires_grad)  # as by an inner attention with weights
    blended = go_along(plain, skewed, beta, in_place=in_place)
    result = blended[..., :value_dim]
    if norm == "none":
        return result
    first = value_dim if plain.shape[-1] > value_dim else 0
    ratio = norm_ratio(skewed[..., first:], blended[..., first:])
    return result.mul_(ratio) if in_place else (result * ratio).to(plain.dtype)


def go_along(plain: Tensor, skewed: Tensor, beta: FloatOrTensor, *, in_place: bool) -> Tensor:
    """R₁ + β(R_γ − R₁) in the dtype of R₁, computed in float32 at least. The bits do not depend on `in_place`."""
    if not isinstance(beta, Tensor):
        return torch.lerp(plain, skewed, beta)
    change = skewed - plain  # `lerp` would need β in the dtype of the retrievals, and so rounded to half precision
    if in_place:
        return torch.addcmul(plain, change, beta, out=change)
    return torch.addcmul(plain, change, beta).to(plain.dtype)


def keep_neutral(
    result: Tensor, plain: Tensor, gamma: FloatOrTensor, beta: FloatOrTensor, *, differentiable: bool = False
) -> Tensor:
    """`result` `(B, H, L, dv)`, with `plain` `(B, H, L, dv or more)` in the samples and heads at γ = 1 or β = 0.

    Args:
        differentiable: whether a derivative in γ is wanted (`parameters.wants_derivative`). Those at γ = 1 then have
            the derivative of `result`, so that γ can be learned from 1 on. At β = 0, where ρ jumps, it is that of
            `plain`.
    """
    is_neutral: Any  # a number is not neutral here, because the caller gave such a call to plain attention
    if isinstance(gamma, Tensor) and isinstance(beta, Tensor):
        # γβ = β only at γ = 1 and at β = 0: no other γ is so near to 1 that the product rounds to β.
        is_neutral = gamma * beta == beta
    elif isinstance(gamma, Tensor):
        is_neutral = gamma == 1.0
    elif isinstance(beta, Tensor):
        is_neutral = beta == 0.0
    else:
        return result
    plain = plain[..., : result.shape[-1]]
    if differentiable:
        change = torch.nan_to_num(result - result.detach(), nan=0.0)  # 0 with the derivative of `result`
        moved = plain.detach() + change
        plain = torch.where(beta == 0.0, plain, moved) if isinstance(beta, Tensor) else moved
    return torch.where(is_neutral, plain, result)
