"""Splitting attention logits into an energy landscape and a circulation on it (the paper's decomposition).

A = S + C,    S = (A + Aᵀ)/2 symmetric,    C = (A − Aᵀ)/2 skew-symmetric
A_γ = S + γ·C = c₊·A + c₋·Aᵀ,    c₊ = (1 + γ)/2,  c₋ = (1 − γ)/2
"""

from __future__ import annotations

import math
from typing import Any, overload

import torch
from torch import Tensor

from .parameters import FloatOrTensor, wants_derivative


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
            f"logits have shape {tuple(logits.shape)}, but only square logits (…, L, L) can be split into a symmetric "
            "and a skew part. Those of cross-attention cannot."
        )
    half = logits / 2  # halved before the sum, which half precision might not hold
    return half + half.mT, half - half.mT


@overload
def skew_coefficients(gamma: float) -> tuple[float, float]: ...
@overload
def skew_coefficients(gamma: Tensor) -> tuple[Tensor, Tensor]: ...
def skew_coefficients(gamma: FloatOrTensor) -> tuple[FloatOrTensor, FloatOrTensor]:
    """`(c₊, c₋)` = `((1 + γ)/2, (1 − γ)/2)`, the weights of A and Aᵀ in A_γ; floats, or shaped like a tensor γ."""
    if isinstance(gamma, Tensor):  # an operation each, and the bits of the quotient: halving never rounds
        return torch.rsub(gamma, 0.5, alpha=-0.5), torch.rsub(gamma, 0.5, alpha=0.5)
    return (1 + gamma) / 2, (1 - gamma) / 2


def double_head_dim(
    q: Tensor, k: Tensor, gamma: FloatOrTensor, *, in_place: bool, keys: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Queries and keys of twice the head dim whose plain product is the skewed logits.

        q̃ k̃ᵀ = c₊·q kᵀ + c₋·k qᵀ,    q̃ = [q, √|c₋|·k],  k̃ = [c₊·k, ±√|c₋|·q]    (± the sign of c₋)

    so any fused attention kernel computes A_γ, and no L×L matrix is ever formed here. c₋ is shared out between both
    sides because it is small near γ = 1: a kernel that quantises blocks of k̃ with one scale would lose it there.

    Every half is one operation that writes into an empty tensor. Where that is not possible the halves are joined, with
    the same bits.

    Args:
        q, k: `(B, H, L, d)`.
        gamma: a float, or a tensor in float32 or wider that broadcasts over `(B, H, 1, 1)`.
        in_place: whether that is possible, see `parameters.writes_in_place`.
        keys: with `in_place`, a tensor `(B, H, L, 2d)` to write k̃ to, such as a part of a larger one. By default a new
            one.

    Returns:
        `(q̃, k̃)`, each `(B, H, L, 2d)` in the dtype of q. The softmax scale stays that of d, not of 2d.
    """
    c_plus, c_minus = skew_coefficients(gamma)
    root, signed_root = share_out(c_minus)
    if not in_place:
        if wants_derivative(c_minus):
            root, signed_root = _differentiable(c_minus, root, signed_root)
        queries = torch.cat([q, scaled(k, root)], dim=-1)
        return queries, torch.cat([scaled(k, c_plus), scaled(q, signed_root)], dim=-1)
    head_dim = q.shape[-1]
    queries = q.new_empty((*q.shape[:-1], 2 * head_dim))
    keys = torch.empty_like(queries) if keys is None else keys
    queries[..., :head_dim].copy_(q)
    torch.mul(k, root, out=queries[..., head_dim:])
    torch.mul(k, c_plus, out=keys[..., :head_dim])
    torch.mul(q, signed_root, out=keys[..., head_dim:])
    return queries, keys


def triple_head_dim(q: Tensor, k: Tensor, gamma: Tensor, *, in_place: bool) -> tuple[Tensor, Tensor]:
    """Queries and keys of three times the head dim whose plain product is the skewed logits, with a γ for every row.

        q̃ k̃ᵀ = q kᵀ + c₋·(k qᵀ − q kᵀ),    q̃ᵢ = [qᵢ, (c₋ᵢ/s)·kᵢ, −(c₋ᵢ/s)·qᵢ],  k̃ = [k, s·q, s·k]

    with s² the largest |c₋| of the head. The first part has no c₋, so that keys `[k, 0, 0]` keep their plain logits.

    Every third is one operation that writes into an empty tensor, or they are joined, with the same bits.

    Args:
        q, k: `(B, H, L, d)`.
        gamma: `(B, H, L, 1)` in float32 or wider.
        in_place: whether to write into empty tensors, see `parameters.writes_in_place`.

    Returns:
        `(q̃, k̃)`, each `(B, H, L, 3d)` in the dtype of q.
    """
    c_minus = torch.rsub(gamma, 0.5, alpha=0.5)  # as in `skew_coefficients`
    largest = torch.linalg.vector_norm(c_minus, ord=math.inf, dim=-2, keepdim=True)
    share = largest.masked_fill(largest == 0, 1.0).sqrt()
    rows = c_minus / share
    if not in_place:
        queries = torch.cat([q, scaled(k, rows), scaled(q, -rows)], dim=-1)
        return queries, torch.cat([k, scaled(q, share), scaled(k, share)], dim=-1)
    head_dim = q.shape[-1]
    first, second, third = (slice(part * head_dim, (part + 1) * head_dim) for part in range(3))
    queries = q.new_empty((*q.shape[:-1], 3 * head_dim))
    keys = torch.empty_like(queries)
    queries[..., first].copy_(q)
    torch.mul(k, rows, out=queries[..., second])
    torch.mul(q, -rows, out=queries[..., third])
    keys[..., first].copy_(k)
    torch.mul(q, share, out=keys[..., second])
    torch.mul(k, share, out=keys[..., third])
    return queries, keys


def after_plain_keys(k: Tensor, keys: Tensor) -> Tensor:
    """The keys k̃ of the last M tokens behind those of all tokens before, `[k, 0]`, whose logits stay plain.

    Args:
        k: `(B, H, L, d)`, the keys of all tokens.
        keys: k̃, `(B, H, M, …)`.

    Returns:
        `(B, H, L, …)`.
    """
    before = k[:, :, : k.shape[2] - keys.shape[2]]
    return torch.cat([torch.constant_pad_nd(before, (0, keys.shape[-1] - k.shape[-1])), keys], dim=-2)


def share_out(c_minus: FloatOrTensor) -> tuple[FloatOrTensor, FloatOrTensor]:
    """`(√|c₋|, ±√|c₋|)`, the share of c₋ that goes to the queries and, with its sign, the one that goes to the keys."""
    if isinstance(c_minus, Tensor):
        root = c_minus.abs().sqrt()
        return root, torch.copysign(root, c_minus)
    number = abs(c_minus) ** 0.5
    return number, math.copysign(number, c_minus)


def _differentiable(c_minus: Any, root: Any, signed_root: Any) -> tuple[Tensor, Tensor]:
    """The same shares of a tensor, with a derivative at c₋ = 0 too, where a root has none.

    All of it goes to the second share. The first is constant, and 1 where c₋ is 0 and the second wipes it out.
    """
    root = torch.where(c_minus == 0, 1.0, root.detach())
    return root, signed_root.detach() + (c_minus - c_minus.detach()) / root


def scaled(x: Tensor, factor: FloatOrTensor) -> Tensor:
    """x·factor in the dtype of x, rounded once, as `torch.mul(x, factor, out=…)` rounds it.

    PyTorch multiplies half precision by a number in float32, so the factor is never rounded to half precision. A
    rounded c₊ would shift all logits alike, a rounded product only adds noise.
    """
    return (x * factor).to(x.dtype)
