"""Self-attention with the skew part of its logits scaled by γ, blended by β (the paper's retrieval).

A = scale·q kᵀ = S + C        P_γ = softmax(S + γ·C + mask)        R_γ = P_γ v
R = R₁ + β(R_γ − R₁)          out = ρ·R                            (ρ: norm_guard.py)

Where only the last M of the L tokens have a query, A is M×L, and its last M columns are square. γ acts in that square:

Aᵢⱼ = Sᵢⱼ + γᵢ·Cᵢⱼ  for columns j that have a query,   Aᵢⱼ as it is for the columns before
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .blending import blend, keep_neutral
from .decomposition import after_plain_keys, double_head_dim, triple_head_dim
from .inner_attention import Attend, PreparedCall, prepare
from .kernels.call import FusedCall
from .kernels.eligibility import has_kernel
from .kernels.operation import fused_retrieve
from .norm_guard import NORMS, project_input, projection_rank
from .parameters import FloatOrTensor, check_choice, is_exactly, per_head, wants_derivative
from .tiled_attention import runs_in_tiles, tiled_skew_attention

TOLERANCE = 0.01  # of the "projected" norm


def skew_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gamma: FloatOrTensor,
    beta: FloatOrTensor = 1.0,
    *,
    norm: str = "value",
    x: Tensor | None = None,
    scale: float | None = None,
    mask: Tensor | None = None,
    attend: Attend | None = None,
    tiles: bool | None = None,
    tolerance: float = TOLERANCE,
    on_tiles: Callable[[], object] | None = None,
    kernel: bool | None = None,
    on_kernel: Callable[[], object] | None = None,
    neutral_bits: bool = True,
) -> Tensor:
    """Self-attention with circulation γ and blending β.

    γ = 1 and β = 0 are neutral: the same bits as plain attention. Given as floats they cost nothing; given as tensors
    the samples or heads at γ = 1 or β = 0 take the plain retrieval untouched. At γ = 1 the gradient is that of small
    steps of γ. At β = 0, where ρ jumps, γ and β get none. (The authors' code still rescales at β = 0; this one does
    not.)

    Args:
        q, k: `(B, H, L, d)`, after projection, QK-norm and positions. Any float dtype; sums in float32 at least. q may
            also be only the last M of the L tokens, `(B, H, M, d)`, as where keys of earlier tokens were kept: γ then
            acts among the last M tokens, and the columns before them keep their logits.
        v: `(B, H, L, dv)`, any dv.
        gamma: circulation. 1 leaves the model as it is, 0 keeps only the energy part, −1 swaps q and k.
            A float, a 0-d tensor, `(B,)` per sample, `(B, H)` per head, `(B, H, 1, 1)`, or `(B, H, M)` per query row,
            which takes an inner attention of three times the head dim instead of twice.
        beta: blending, same shapes. 1 gives R_γ itself, above 1 goes further along R_γ − R₁.
        norm: patterns whose length ρ keeps: "value", "projected", "input" (the paper's) or "none" (ρ = 1).
        x: `(B, L, C)`, the block's normalised input; needed by "projected" and "input".
        scale: softmax scale, default 1/√d.
        mask: added to the logits after the skew mix, or bool (True attends); broadcasts to `(B, H, M, L)`, so a mask
            per sample is `(B, 1, M, L)`.
        attend: the inner attention `attend(q, k, v, mask, scale)`; default PyTorch's. It is called with equal head dims
            for q, k and v, 2d for the skewed retrieval (3d with a γ per query row, d for the plain one), and with an
            additive mask or None.
        tiles: whether our own tiles of rows may replace `attend` on the CPU (see `tiled_attention`);
            by default where no `attend` is given. They take no γ or β per query row and no fewer queries than keys.
        tolerance: relative error of ρ that "projected" aims at, see `norm_guard.projection_rank`.
        on_tiles: called before tiles of rows replace `attend`, for a report of what ran.
        kernel: whether our own fused kernel may replace `attend` on a card (see `kernels.eligibility`);
            by default where no `attend` is given.
        on_kernel: called when the fused kernel has replaced `attend`.
        neutral_bits: whether samples and heads of a tensor at γ = 1 or β = 0 keep the bits of the plain retrieval.
            Without, they come to rounding: from the fused kernel, or at β = 1 without a second retrieval.

    Returns:
        `(B, H, M, dv)` in the dtype of v; M is L where every token has a query.

    Raises:
        ValueError: q, k, v or x of shapes that do not belong together, more queries than keys, an unknown norm,
            "projected" or "input" without x, γ or β not finite or of another shape.
    """
    call = prepare(q, k, v, scale, mask, attend, gamma, beta, x)
    batch, heads, queries, _ = q.shape
    gamma = per_head(gamma, "gamma", batch, heads, q.device, queries)
    beta = per_head(beta, "beta", batch, heads, q.device, queries)
    check_norm(norm, x, v)
    return retrieve_skewed(
        q,
        k,
        v,
        gamma,
        beta,
        call,
        norm=norm,
        x=x,
        tolerance=tolerance,
        tiles=attend is None if tiles is None else tiles,
        on_tiles=on_tiles,
        kernel=(attend is None if kernel is None else kernel) and has_kernel(q.device),
        on_kernel=on_kernel,
        neutral_bits=neutral_bits,
    )


def retrieve_skewed(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gamma: FloatOrTensor,
    beta: FloatOrTensor,
    call: PreparedCall,
    *,
    norm: str = "value",
    x: Tensor | None = None,
    tolerance: float = TOLERANCE,
    tiles: bool = False,
    on_tiles: Callable[[], object] | None = None,
    kernel: bool = False,
    on_kernel: Callable[[], object] | None = None,
    on_fallback: Callable[[str], object] | None = None,
    neutral_bits: bool = True,
) -> Tensor:
    """`skew_attention` of arguments that need no check, for those who call it many times with the same settings.

    Args:
        q, k, v, norm, x, tolerance, on_tiles, on_kernel, neutral_bits: as for `skew_attention`.
        gamma, beta: as `parameters.per_head` gives them.
        call: mask, scale and kernel.
        on_fallback: as for `kernels.operation.fused_retrieve`.
        tiles, kernel: whether tiles and the fused kernel may replace the kernel of `call`.

    Returns:
        `(B, H, M, dv)` in the dtype of v; M is L where every token has a query.
    """
    if is_exactly(gamma, 1.0) or is_exactly(beta, 0.0):
        return call.retrieve(q, k, v)
    if kernel:
        fused_call = FusedCall.of(q, k, v, gamma, beta, norm=norm, scale=call.scale, mask=call.mask)
        fused = fused_retrieve(fused_call, neutral_bits=neutral_bits, on_kernel=on_kernel, on_fallback=on_fallback)
        if fused is not None:
            return fused
    blends, value_dim, stored = not is_exactly(beta, 1.0), v.shape[-1], v
    if blends and x is not None and norm not in ("value", "none"):
        stored = torch.cat([v, _norm_patterns(norm, x, q.shape[1], tolerance).to(v.dtype)], dim=-1)

    if tiles and call.in_place and runs_in_tiles(q, k, v, call.mask, gamma, beta):
        if on_tiles is not None:
            on_tiles()
        result = tiled_skew_attention(q, k, stored, gamma, beta, call.scale, value_dim, norm)
        return keep_neutral(result, call.retrieve(q, k, v), gamma, beta) if _any_neutral(gamma, beta) else result
    own_keys = k[:, :, k.shape[2] - q.shape[2] :]
    if isinstance(gamma, Tensor) and gamma.shape[2] > 1:
        queries, keys = triple_head_dim(q, own_keys, gamma, in_place=call.in_place)
    else:
        queries, keys = double_head_dim(q, own_keys, gamma, in_place=call.in_place)
    if q.shape[2] < k.shape[2]:
        keys = after_plain_keys(k, keys)
    skewed = call.retrieve(queries, keys, stored)
    if not blends and not (neutral_bits and isinstance(gamma, Tensor)):
        return skewed
    plain = call.retrieve(q, k, stored)
    if blends:
        skewed = blend(plain, skewed, beta, value_dim, norm, in_place=call.in_place)
    differentiable = not call.in_place and wants_derivative(gamma)
    return keep_neutral(skewed, plain, gamma, beta, differentiable=differentiable)


def _any_neutral(gamma: FloatOrTensor, beta: FloatOrTensor) -> bool:
    """Return True if a sample or head is at γ = 1 or β = 0. It looks into the tensors, so it is not for a GPU's."""
    pairs = ((gamma, 1.0), (beta, 0.0))
    return any(bool((value == neutral).any()) for value, neutral in pairs if isinstance(value, Tensor))


def check_norm(norm: str, x: Tensor | None, v: Tensor) -> None:
    """Refuse an unknown norm, and one that needs x without an x of the same tokens as v."""
    check_choice("norm", norm, NORMS)
    if norm in ("value", "none"):
        return
    if x is None:
        raise ValueError(
            f'norm "{norm}" needs x, the (B, L, C) input of the attention block. Pass x, or use norm "value".'
        )
    if x.dim() != 3 or x.shape[:2] != (v.shape[0], v.shape[2]):
        raise ValueError(f"x has shape {tuple(x.shape)}, but with v {tuple(v.shape)} it must be (B, L, C).")


def _norm_patterns(norm: str, x: Tensor, heads: int, tolerance: float) -> Tensor:
    """The `(B, H, L, P)` patterns of the input x to retrieve beside the values, so that ρ can be taken of them."""
    if norm == "projected":
        x = project_input(x, projection_rank(x.shape[1], x.shape[2], tolerance))
        x = x / math.sqrt(x.shape[-1])  # drops out of ρ, and keeps one large direction within half precision
    return x[:, None].expand(-1, heads, -1, -1)
