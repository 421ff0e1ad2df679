"""Skew attention with a circulation of its own for each pair of modalities in one sequence.

    A_Γ = S + Γ∘C,    Γᵢⱼ = γ        where i and j are both inner (image, video, audio)
                            γ_text   where both are not
                            γ_cross  where one of them is

Γ is symmetric, so S stays symmetric and C skew. The rows of one group are one call of the inner attention, with keys
that carry the factors of the columns:

    q̃ᵢ = [qᵢ, s·kᵢ]        k̃ⱼ = [c₊(i, j)·kⱼ, c₋(i, j)/s·qⱼ],    s² the largest |c₋| of the group
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

from .blending import blend, keep_neutral
from .inner_attention import Attend, check_tokens, prepare
from .joint_attention import check_joint_norm, inner_run, joint_skew_attention
from .parameters import Strength, is_exactly, per_head, wide


def modal_skew_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gamma: Strength,
    beta: Strength = 1.0,
    *,
    inner: slice,
    gamma_text: Strength = 1.0,
    gamma_cross: Strength = 1.0,
    norm: str = "value",
    scale: float | None = None,
    mask: Tensor | None = None,
    attend: Attend | None = None,
) -> Tensor:
    """`joint_skew_attention` with factors for the logits among the other tokens and between the two groups.

    Args:
        q, k, v, gamma, beta, inner, norm, scale, mask, attend: as for `joint_skew_attention`.
        gamma_text: circulation among the tokens outside `inner`.
        gamma_cross: circulation between those and the inner ones.

    Returns:
        `(B, H, L, dv)`; rows whose factors are all 1 are plain attention.

    Raises:
        ValueError: as `joint_skew_attention`, and for factors that are not finite or of another shape.
    """
    check_tokens(q, k, v)
    start, stop = inner_run(inner, q.shape[2])
    check_joint_norm(norm)
    batch, heads, tokens, _ = q.shape
    text = per_head(gamma_text, "gamma_text", batch, heads, q.device)
    cross = per_head(gamma_cross, "gamma_cross", batch, heads, q.device)
    if is_exactly(text, 1.0) and is_exactly(cross, 1.0):
        return joint_skew_attention(
            q, k, v, gamma, beta, inner=slice(start, stop), norm=norm, scale=scale, mask=mask, attend=attend
        )
    gamma, beta, call = prepare(q, k, v, gamma, beta, scale, mask, attend)
    if is_exactly(beta, 0.0):
        return call.retrieve(q, k, v)

    segments = (slice(0, start), slice(start, stop), slice(stop, tokens))
    # The rows of a group, their factor among themselves, and the factors of the columns, segment by segment.
    groups = (
        (segments[1:2], gamma, (cross, gamma, cross)),
        (segments[::2], text, (text, cross, text)),
    )
    is_pure = is_exactly(beta, 1.0) and not any(isinstance(factor, Tensor) for factor in (gamma, text, cross))
    plain = None if is_pure else call.retrieve(q, k, v)
    parts = []
    for rows, own, factors in groups:
        if all(part.start == part.stop for part in rows):
            parts.append(v[:, :, :0])
        elif is_exactly(own, 1.0) and is_exactly(cross, 1.0):
            if plain is None:
                parts.append(call.retrieve(_take(q, rows), k, v, *rows))
            else:
                parts.append(_take(plain, rows))
        else:
            queries, keys = _doubled(q, k, rows, segments, factors)
            skewed = call.retrieve(queries, keys, v, *rows)
            if plain is not None:
                same = _take(plain, rows)
                skewed = blend(same, skewed, beta, v.shape[-1], norm)
                skewed = keep_neutral(skewed, same, _but_neutral(own, cross), beta)
            parts.append(skewed)
    inside, outside = parts
    return torch.cat([outside[:, :, :start], inside, outside[:, :, start:]], dim=-2)


def _take(x: Tensor, rows: Sequence[slice]) -> Tensor:
    """The tokens `rows` of `(B, H, L, d)`, one run after the other."""
    return torch.cat([x[:, :, part] for part in rows], dim=-2)


def _doubled(
    q: Tensor, k: Tensor, rows: Sequence[slice], segments: Sequence[slice], factors: Sequence[Strength]
) -> tuple[Tensor, Tensor]:
    """Queries of `rows` and keys of all tokens, of twice the head dim, for a factor a segment of columns.

    c₋ is shared out between both sides as in `double_head_dim`, by the largest one, because a kernel that quantises
    the keys with one scale would lose it where it is small.
    """
    precise = wide(q.dtype)
    share = _share(factors)
    queries = torch.cat([_take(q, rows).to(precise), _take(k, rows).to(precise) * share], dim=-1)
    columns = []
    for part, factor in zip(segments, factors, strict=True):
        plain, transposed = (1 + factor) / 2, (1 - factor) / 2
        own, other = k[:, :, part].to(precise) * plain, q[:, :, part].to(precise) * (transposed / share)
        columns.append(torch.cat([own, other], dim=-1))
    return queries.to(q.dtype), torch.cat(columns, dim=-2).to(q.dtype)


def _share(factors: Sequence[Strength]) -> Strength:
    """The root of the largest |c₋|, a sample and head where one factor is a tensor; 1 where all of them are 0."""
    halves: list[Strength] = [
        (1 - factor).abs() / 2 if isinstance(factor, Tensor) else abs(1 - factor) / 2 for factor in factors
    ]
    number: float = max((half for half in halves if not isinstance(half, Tensor)), default=0.0)
    tensors: list[Tensor] = [half for half in halves if isinstance(half, Tensor)]
    if not tensors:
        return float(number**0.5) or 1.0
    largest = reduce(torch.maximum, tensors[1:], tensors[0]).clamp_min(number)
    return torch.where(largest == 0, 1.0, largest).sqrt()


def _but_neutral(own: Strength, cross: Strength) -> Strength:
    """1 where both factors are, so that those samples and heads stay plain; something else elsewhere."""
    if isinstance(own, Tensor) or isinstance(cross, Tensor):
        is_neutral = (torch.as_tensor(own) == 1) & (torch.as_tensor(cross) == 1)
        return torch.where(is_neutral, 1.0, 0.0)
    return 0.0
