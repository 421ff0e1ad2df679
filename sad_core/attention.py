"""Self-attention with the skew part of its logits scaled by γ, blended by β (the paper's retrieval).

A = scale·q kᵀ = S + C        P_γ = softmax(S + γ·C + mask)        R_γ = P_γ v
R = R₁ + β(R_γ − R₁)          out = ρ·R                            (ρ: norm_guard.py)
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .blending import blend, keep_neutral
from .decomposition import double_head_dim
from .norm_guard import NORMS, project_input, projection_rank
from .parameters import Strength, check_choice, is_exactly, per_head
from .tiled_attention import runs_in_tiles, tiled_skew_attention

Attend = Callable[[Tensor, Tensor, Tensor, Tensor | None, float], Tensor]


def pytorch_attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """softmax(scale·q kᵀ + mask)·v by PyTorch's fused kernel: q `(B, H, M, d)`, k and v `(B, H, L, d)`, out like q."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)


def skew_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gamma: Strength,
    beta: Strength = 1.0,
    *,
    norm: str = "value",
    x: Tensor | None = None,
    scale: float | None = None,
    mask: Tensor | None = None,
    attend: Attend | None = None,
    tiles: bool | None = None,
    tolerance: float = 0.01,
) -> Tensor:
    """Self-attention with circulation γ and blending β.

    γ = 1 and β = 0 are neutral: the same bits as plain attention. Given as floats they cost nothing; given as tensors
    the samples or heads at γ = 1 or β = 0 take the plain retrieval untouched. (The authors' code still rescales at
    β = 0; this one does not.)

    Args:
        q, k: `(B, H, L, d)`, after projection, QK-norm and positions. Any float dtype; sums in float32 at least.
        v: `(B, H, L, dv)`, any dv.
        gamma: circulation. 1 leaves the model as it is, 0 keeps the energy part alone, −1 swaps q and k.
            A float, a 0-d tensor, `(B,)` per sample, `(B, H)` per head or `(B, H, 1, 1)`.
        beta: blending, same shapes. 1 gives R_γ itself, above 1 goes further along R_γ − R₁.
        norm: patterns whose length ρ keeps: "value", "projected", "input" (the paper's) or "none" (ρ = 1).
        x: `(B, L, C)`, the block's normalised input; needed by "projected" and "input".
        scale: softmax scale, default 1/√d.
        mask: added to the logits after the skew mix, or bool (True attends); broadcasts to `(B, H, L, L)`, so a mask
            per sample is `(B, 1, L, L)`.
        attend: the inner attention `attend(q, k, v, mask, scale)`; default PyTorch's. It is called with equal head dims
            for q, k and v, 2d for the skewed retrieval (d for the plain one), and with an additive mask or None.
        tiles: whether our own tiles of rows may stand in for `attend` on the CPU (see `tiled_attention`);
            by default where no `attend` is given.
        tolerance: relative error of ρ that "projected" aims at, see `norm_guard.projection_rank`.

    Returns:
        `(B, H, L, dv)` in the dtype of v.

    Raises:
        ValueError: q, k, v or x of shapes that do not belong together, an unknown norm, "projected" or "input" without
            x, γ or β not finite or of another shape.
    """
    check_tokens(q, k, v)
    batch, heads = q.shape[:2]
    gamma = per_head(gamma, "gamma", batch, heads, q.device)
    beta = per_head(beta, "beta", batch, heads, q.device)
    _check_norm(norm, x, v)
    scale = softmax_scale(q.shape[-1], scale)
    tiles = (attend is None if tiles is None else tiles) and runs_in_tiles(q, k, v, mask, gamma, beta, x)
    attend = attend or pytorch_attend
    mask = additive_mask(mask, q.dtype)

    if is_exactly(gamma, 1.0) or is_exactly(beta, 0.0):
        return retrieve(q, k, v, mask, scale, attend)
    patterns = None if is_exactly(beta, 1.0) else _norm_patterns(norm, x, q.shape[1], tolerance)
    stored = v if patterns is None else torch.cat([v, patterns.to(v.dtype)], dim=-1)
    if tiles:
        result = tiled_skew_attention(q, k, stored, gamma, beta, scale, v.shape[-1], norm)
        untouched = retrieve(q, k, v, mask, scale, attend) if _any_neutral(gamma, beta) else None
    else:
        is_pure = is_exactly(beta, 1.0) and not isinstance(gamma, Tensor)
        skewed = retrieve(*double_head_dim(q, k, gamma), stored, mask, scale, attend)
        untouched = None if is_pure else retrieve(q, k, stored, mask, scale, attend)
        result = skewed if untouched is None else blend(untouched, skewed, beta, v.shape[-1], norm)
    return result if untouched is None else keep_neutral(result, untouched, gamma, beta)


def _any_neutral(gamma: Strength, beta: Strength) -> bool:
    """Whether there is a sample or head at γ = 1 or β = 0; looks into the tensors, so not for a GPU's."""
    pairs = ((gamma, 1.0), (beta, 0.0))
    return any(bool((value == neutral).any()) for value, neutral in pairs if isinstance(value, Tensor))


def retrieve(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, attend: Attend) -> Tensor:
    """attend(q, k, v) with v brought to the head dim of q, the only shape every fused kernel takes.

    A narrower v is padded with zeros, a wider one goes through in pieces; the result is `(B, H, M, dv)` either way.
    """
    head_dim, value_dim = q.shape[-1], v.shape[-1]
    if value_dim == head_dim:
        return attend(q, k, v, mask, scale)
    pieces = [
        attend(q, k, F.pad(piece, (0, head_dim - piece.shape[-1])), mask, scale)[..., : piece.shape[-1]]
        for piece in v.split(head_dim, dim=-1)
    ]
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=-1)


def softmax_scale(head_dim: int, scale: float | None) -> float:
    """`scale`, or 1/√d where none is given: PyTorch's own default to the last bit, which d**-0.5 is not."""
    return 1 / math.sqrt(head_dim) if scale is None else scale


def additive_mask(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """A bool mask (True attends) as 0 and −∞ in `dtype`; a float mask as it is, cast to `dtype`.

    Raises:
        ValueError: a mask of whole numbers, which could mean either.
    """
    if mask is None:
        return None
    if mask.is_floating_point():
        return mask.to(dtype)
    if mask.dtype != torch.bool:
        raise ValueError(f"mask is {mask.dtype}, but it must be bool (True attends) or float (added to the logits).")
    return torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, float("-inf"))


def check_tokens(q: Tensor, k: Tensor, v: Tensor) -> None:
    """Refuse tensors that are not one self-attention call: q and k `(B, H, L, d)`, v `(B, H, L, dv)`.

    Raises:
        ValueError: naming the shapes.
    """
    if q.dim() != 4 or q.shape != k.shape:
        raise ValueError(
            f"q has shape {tuple(q.shape)} and k {tuple(k.shape)}, but skew attention needs both (B, H, L, d): "
            "the same tokens on both sides, as in self-attention."
        )
    if v.dim() != 4 or v.shape[:3] != q.shape[:3]:
        raise ValueError(f"v has shape {tuple(v.shape)}, but with q {tuple(q.shape)} it must be (B, H, L, dv).")


def _check_norm(norm: str, x: Tensor | None, v: Tensor) -> None:
    """Refuse an unknown norm, and one that needs x without an x of the same tokens as v."""
    check_choice("norm", norm, NORMS)
    if norm in ("value", "none"):
        return
    if x is None:
        raise ValueError(f'norm "{norm}" needs x, the (B, L, C) input of the attention block; "value" does without.')
    if x.dim() != 3 or x.shape[:2] != (v.shape[0], v.shape[2]):
        raise ValueError(f"x has shape {tuple(x.shape)}, but with v {tuple(v.shape)} it must be (B, L, C).")


def _norm_patterns(norm: str, x: Tensor | None, heads: int, tolerance: float) -> Tensor | None:
    """The `(B, H, L, P)` patterns to retrieve beside the values so that ρ can be taken of them, if any."""
    if x is None or norm in ("value", "none"):
        return None
    if norm == "projected":
        x = project_input(x, projection_rank(x.shape[1], x.shape[2], tolerance))
        x = x / math.sqrt(x.shape[-1])  # drops out of ρ, and keeps one large direction within half precision
    return x[:, None].expand(-1, heads, -1, -1)
