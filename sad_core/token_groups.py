"""Retrieval in joint attention with a γ for the image tokens, one for the other tokens and one between the groups.

The rows of each group are one call of the inner attention. Its keys carry the γ of their column:

    q̃ᵢ = [qᵢ, s·kᵢ]        k̃ⱼ = [c₊(i, j)·kⱼ, c₋(i, j)/s·qⱼ],    s² the largest |c₋| of the group
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

from .blending import blend, keep_neutral
from .decomposition import after_plain_keys, scaled, skew_coefficients
from .inner_attention import PreparedCall
from .parameters import FloatOrTensor, is_exactly, wants_derivative


def skew_each_group(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gammas: tuple[FloatOrTensor, FloatOrTensor, FloatOrTensor],
    beta: FloatOrTensor,
    image_tokens: slice,
    norm: str,
    call: PreparedCall,
) -> Tensor:
    """The retrieval with γ, γ_text and γ_cross, which are `gammas`."""
    gamma, gamma_text, gamma_cross = gammas
    before, after = slice(0, image_tokens.start), slice(image_tokens.stop, q.shape[2])
    segments = (before, image_tokens, after)
    own_keys = k[:, :, k.shape[2] - q.shape[2] :]
    # The rows of a group, the γ among them, and the γ of the columns, segment by segment.
    groups = (
        ((image_tokens,), gamma, (gamma_cross, gamma, gamma_cross)),
        ((before, after), gamma_text, (gamma_text, gamma_cross, gamma_text)),
    )
    blends = not is_exactly(beta, 1.0)
    is_pure = not blends and not any(isinstance(each, Tensor) for each in gammas)
    plain = None if is_pure else call.retrieve(q, k, v)
    parts = []
    for rows, gamma_among, column_gammas in groups:
        if all(part.start == part.stop for part in rows):
            parts.append(v[:, :, :0])
        elif is_exactly(gamma_among, 1.0) and is_exactly(gamma_cross, 1.0):
            parts.append(call.retrieve(_take(q, rows), k, v, *rows) if plain is None else _take(plain, rows))
        else:
            queries, keys = _double_head_dim(q, own_keys, rows, segments, column_gammas, in_place=call.in_place)
            if q.shape[2] < k.shape[2]:
                keys = after_plain_keys(k, keys)
            result = call.retrieve(queries, keys, v, *rows)
            if plain is not None:
                plain_rows = _take(plain, rows)
                if blends:
                    result = blend(plain_rows, result, beta, v.shape[-1], norm, in_place=call.in_place)
                at_one = _one_where_both_are(gamma_among, gamma_cross)
                differentiable = not call.in_place and any(wants_derivative(each) for each in gammas)
                result = keep_neutral(result, plain_rows, at_one, beta, differentiable=differentiable)
            parts.append(result)
    image, others = parts
    return torch.cat([others[:, :, before], image, others[:, :, image_tokens.start :]], dim=-2)


def _take(x: Tensor, rows: Sequence[slice]) -> Tensor:
    """The tokens `rows` of `(B, H, L, d)`, one run after the other; a view where there is only one run."""
    parts = [x[:, :, part] for part in rows if part.start < part.stop]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-2)


def _double_head_dim(
    q: Tensor,
    k: Tensor,
    rows: Sequence[slice],
    segments: Sequence[slice],
    gammas: Sequence[FloatOrTensor],
    *,
    in_place: bool,
) -> tuple[Tensor, Tensor]:
    """Queries of `rows` and keys of all tokens, of twice the head dim, for one γ per segment of columns.

    c₋ is shared out between both sides as in `decomposition.double_head_dim`, by the largest one, because a kernel
    that quantises the keys with one scale would lose it where it is small.
    """
    share, head_dim = _share(gammas), q.shape[-1]
    coefficients = [skew_coefficients(gamma) for gamma in gammas]
    own_queries, own_keys = _take(q, rows), _take(k, rows)
    if not in_place:
        columns = [
            torch.cat([scaled(k[:, :, part], c_plus), scaled(q[:, :, part], c_minus / share)], dim=-1)
            for part, (c_plus, c_minus) in zip(segments, coefficients, strict=True)
        ]
        return torch.cat([own_queries, scaled(own_keys, share)], dim=-1), torch.cat(columns, dim=-2)
    queries, keys = (x.new_empty((*x.shape[:-1], 2 * head_dim)) for x in (own_queries, k))
    queries[..., :head_dim].copy_(own_queries)
    torch.mul(own_keys, share, out=queries[..., head_dim:])
    for part, (c_plus, c_minus) in zip(segments, coefficients, strict=True):
        if part.start < part.stop:
            torch.mul(k[:, :, part], c_plus, out=keys[:, :, part, :head_dim])
            torch.mul(q[:, :, part], c_minus / share, out=keys[:, :, part, head_dim:])
    return queries, keys


def _share(gammas: Sequence[FloatOrTensor]) -> FloatOrTensor:
    """The root of the largest |c₋|, by sample and head where one γ is a tensor; 1 where all of them are 0."""
    sizes: list[FloatOrTensor] = [
        (1 - gamma).abs() / 2 if isinstance(gamma, Tensor) else abs(1 - gamma) / 2 for gamma in gammas
    ]
    # Not `max(…, default=0.0)`: the argument `default` breaks a compiled graph on PyTorch 2.11.
    number: float = max([0.0, *[size for size in sizes if not isinstance(size, Tensor)]])
    tensors: list[Tensor] = [size for size in sizes if isinstance(size, Tensor)]
    if not tensors:
        return float(number**0.5) or 1.0
    largest = reduce(torch.maximum, tensors[1:], tensors[0]).clamp_min(number)
    return torch.where(largest == 0, 1.0, largest).sqrt()


def _one_where_both_are(gamma: FloatOrTensor, gamma_cross: FloatOrTensor) -> FloatOrTensor:
    """1 in the samples and heads where both γ are 1, which stay plain; 0 in all others."""
    if isinstance(gamma, Tensor) or isinstance(gamma_cross, Tensor):
        is_neutral = (torch.as_tensor(gamma) == 1) & (torch.as_tensor(gamma_cross) == 1)
        return torch.where(is_neutral, 1.0, 0.0)
    return 0.0
