"""Skew attention where several modalities share one sequence, as text and image tokens do in joint attention.

    A_Γ = S + Γ∘C,    Γᵢⱼ = γ where tokens i and j are both inner, 1 elsewhere

Γ is symmetric, so S stays symmetric and C skew. Only the inner rows (the image's) can change, and in those only the
weight that inner columns have among each other:

    q̃ᵢ = [qᵢ, √|c₋|·kᵢ]        k̃ⱼ = [c₊·kⱼ, ±√|c₋|·qⱼ] for inner j,  [kⱼ, 0] for the others
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .blending import blend, keep_neutral
from .decomposition import double_head_dim
from .inner_attention import Attend, prepare
from .parameters import Strength, is_exactly

JOINT_NORMS = ("value", "none")


def joint_skew_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gamma: Strength,
    beta: Strength = 1.0,
    *,
    inner: slice,
    norm: str = "value",
    scale: float | None = None,
    mask: Tensor | None = None,
    attend: Attend | None = None,
) -> Tensor:
    """`skew_attention` with circulation γ among the inner tokens alone; all other logits stay as they are.

    Args:
        q, k, v, gamma, beta, scale, mask, attend: as for `skew_attention`. `attend` is also called with fewer queries
            than keys.
        inner: the tokens γ acts among, `slice(start, stop)` within 0 … L; all of them gives `skew_attention`.
        norm: "value" or "none"; the block input of a joint site is two inputs, so the other modes do not apply.

    Returns:
        `(B, H, L, dv)`; the rows outside `inner` are plain attention.

    Raises:
        ValueError: as `skew_attention`, and for an `inner` that is not a part of the tokens.
    """
    gamma, beta, call = prepare(q, k, v, gamma, beta, scale, mask, attend)
    start, stop = inner_run(inner, q.shape[2])
    check_joint_norm(norm)
    if is_exactly(gamma, 1.0) or is_exactly(beta, 0.0):
        return call.retrieve(q, k, v)

    queries, inner_keys = double_head_dim(q[:, :, start:stop], k[:, :, start:stop], gamma)
    before, after = (F.pad(k[:, :, part], (0, q.shape[-1])) for part in (slice(0, start), slice(stop, q.shape[2])))
    keys = torch.cat([before, inner_keys, after], dim=-2)
    skewed = call.retrieve(queries, keys, v, slice(start, stop))
    if is_exactly(beta, 1.0) and not isinstance(gamma, Tensor):
        outside = [
            call.retrieve(q[:, :, rows], k, v, rows) if rows.start < rows.stop else None
            for rows in (slice(0, start), slice(stop, q.shape[2]))
        ]
        return torch.cat([part for part in (outside[0], skewed, outside[1]) if part is not None], dim=-2)
    plain = call.retrieve(q, k, v)
    own = plain[:, :, start:stop]
    changed = keep_neutral(blend(own, skewed, beta, v.shape[-1], norm), own, gamma, beta)
    return torch.cat([plain[:, :, :start], changed, plain[:, :, stop:]], dim=-2)


def check_joint_norm(norm: str) -> None:
    """Refuse a norm that needs the one input a joint site does not have.

    Raises:
        ValueError: naming what there is.
    """
    if norm not in JOINT_NORMS:
        raise ValueError(f'norm is "{norm}", but in joint attention it must be one of {", ".join(JOINT_NORMS)}.')


def inner_run(inner: slice, tokens: int) -> tuple[int, int]:
    """The first inner token and the one after the last.

    Raises:
        ValueError: `inner` is not a run of tokens within 0 … `tokens`.
    """
    start, stop, step = inner.start or 0, tokens if inner.stop is None else inner.stop, inner.step or 1
    if step != 1 or not 0 <= start < stop <= tokens:
        raise ValueError(f"inner is {inner}, but it must be a run of tokens within 0 … {tokens}.")
    return start, stop
