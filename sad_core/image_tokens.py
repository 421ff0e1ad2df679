"""Retrieval in joint attention with γ only among the image tokens, where γ_text = γ_cross = 1.

Only the rows of image tokens change, and in those only the weights that the image columns have among each other:

    q̃ᵢ = [qᵢ, √|c₋|·kᵢ]        k̃ⱼ = [c₊·kⱼ, ±√|c₋|·qⱼ] for image tokens j,  [kⱼ, 0] for the others
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .blending import blend, keep_neutral
from .decomposition import after_plain_keys, double_head_dim, triple_head_dim
from .inner_attention import PreparedCall
from .parameters import FloatOrTensor, is_by_row, is_exactly, rows_of, wants_derivative


def skew_image_tokens(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gamma: FloatOrTensor,
    beta: FloatOrTensor,
    image_tokens: slice,
    norm: str,
    call: PreparedCall,
    *,
    neutral_bits: bool,
) -> Tensor:
    """The retrieval with γ only among the image tokens."""
    if image_tokens.start == image_tokens.stop:
        return call.retrieve(q, k, v)
    before, after = slice(0, image_tokens.start), slice(image_tokens.stop, q.shape[2])
    own_keys = k[:, :, k.shape[2] - q.shape[2] :]
    gamma, beta = rows_of(gamma, image_tokens), rows_of(beta, image_tokens)
    if is_by_row(gamma):
        queries, keys = _triple_image_tokens(q, own_keys, gamma, image_tokens, in_place=call.in_place)
    else:
        queries, keys = _double_image_tokens(q, own_keys, gamma, image_tokens, in_place=call.in_place)
    if q.shape[2] < k.shape[2]:
        keys = after_plain_keys(k, keys)
    skewed = call.retrieve(queries, keys, v, image_tokens)
    blends = not is_exactly(beta, 1.0)
    if not blends and not (neutral_bits and isinstance(gamma, Tensor)):
        outside = [
            None if rows.start == rows.stop else call.retrieve(q[:, :, rows], k, v, rows) for rows in (before, after)
        ]
        return torch.cat([part for part in (outside[0], skewed, outside[1]) if part is not None], dim=-2)
    plain = call.retrieve(q, k, v)
    plain_image = plain[:, :, image_tokens]
    if blends:
        skewed = blend(plain_image, skewed, beta, v.shape[-1], norm, in_place=call.in_place)
    differentiable = not call.in_place and wants_derivative(gamma)
    changed = keep_neutral(skewed, plain_image, gamma, beta, differentiable=differentiable)
    return torch.cat([plain[:, :, before], changed, plain[:, :, after]], dim=-2)


def _triple_image_tokens(
    q: Tensor, k: Tensor, gamma: Any, image_tokens: slice, *, in_place: bool
) -> tuple[Tensor, Tensor]:
    """Queries of the image tokens and keys of all, of three times the head dim, for a γ `(B, H, M, 1)` of every row."""
    queries, tripled = triple_head_dim(q[:, :, image_tokens], k[:, :, image_tokens], gamma, in_place=in_place)
    outside = slice(0, image_tokens.start), slice(image_tokens.stop, q.shape[2])
    before, after = (F.pad(k[:, :, part], (0, 2 * q.shape[-1])) for part in outside)
    return queries, torch.cat([before, tripled, after], dim=-2)


def _double_image_tokens(
    q: Tensor, k: Tensor, gamma: FloatOrTensor, image_tokens: slice, *, in_place: bool
) -> tuple[Tensor, Tensor]:
    """Queries of the image tokens and keys of all tokens, of twice the head dim, for a γ among the image tokens."""
    before, after = slice(0, image_tokens.start), slice(image_tokens.stop, q.shape[2])
    image_queries, image_keys = q[:, :, image_tokens], k[:, :, image_tokens]
    head_dim = q.shape[-1]
    if not in_place:
        queries, doubled = double_head_dim(image_queries, image_keys, gamma, in_place=False)
        outside = [F.pad(k[:, :, part], (0, head_dim)) for part in (before, after)]
        return queries, torch.cat([outside[0], doubled, outside[1]], dim=-2)
    keys = k.new_empty((*k.shape[:-1], 2 * head_dim))
    queries, _ = double_head_dim(image_queries, image_keys, gamma, in_place=True, keys=keys[:, :, image_tokens])
    for part in (before, after):
        if part.start < part.stop:
            keys[:, :, part, :head_dim].copy_(k[:, :, part])
            keys[:, :, part, head_dim:].zero_()
    return queries, keys
