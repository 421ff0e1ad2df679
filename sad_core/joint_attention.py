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

from .attention import Attend, additive_mask, check_tokens, pytorch_attend, retrieve, softmax_scale
from .blending import blend, keep_neutral
from .decomposition import double_head_dim
from .parameters import Strength, is_exactly, per_head

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
    check_tokens(q, k, v)
    batch, heads, tokens, head_dim = q.shape
    start, stop = inner_run(inner, tokens)
    check_joint_norm(norm)
    gamma = per_head(gamma, "gamma", batch, heads, q.device)
    beta = per_head(beta, "beta", batch, heads, q.device)
    scale = softmax_scale(head_dim, scale)
    attend = attend or pytorch_attend
    mask = additive_mask(mask, q.dtype)
    if is_exactly(gamma, 1.0) or is_exactly(beta, 0.0):
        return retrieve(q, k, v, mask, scale, attend)

    queries, inner_keys = double_head_dim(q[:, :, start:stop], k[:, :, start:stop], gamma)
    before, after = (F.pad(k[:, :, part], (0, head_dim)) for part in (slice(0, start), slice(stop, tokens)))
    keys = torch.cat([before, inner_keys, after], dim=-2)
    skewed = retrieve(queries, keys, v, mask_of_rows(mask, slice(start, stop)), scale, attend)
    if is_exactly(beta, 1.0) and not isinstance(gamma, Tensor):
        outside = [
            retrieve(q[:, :, rows], k, v, mask_of_rows(mask, rows), scale, attend) if rows.start < rows.stop else None
            for rows in (slice(0, start), slice(stop, tokens))
        ]
        return torch.cat([part for part in (outside[0], skewed, outside[1]) if part is not None], dim=-2)
    plain = retrieve(q, k, v, mask, scale, attend)
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


def mask_of_rows(mask: Tensor | None, *rows: slice) -> Tensor | None:
    """The mask of the queries `rows`, one run after the other; one that is the same for every query stays as it is."""
    if mask is None or mask.dim() < 2 or mask.shape[-2] == 1:
        return mask
    parts = [mask[..., part, :] for part in rows]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-2)
