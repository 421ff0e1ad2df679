"""Skew attention where several modalities share one sequence, as text and image tokens do in joint attention.

    A_Γ = S + Γ∘C,    Γᵢⱼ = γ        where tokens i and j are both image tokens (or video, or audio)
                            γ_text   where neither of them is
                            γ_cross  where one of them is

Γ is symmetric, so S stays symmetric and C skew. Where γ_text = γ_cross = 1 the retrieval is that of `image_tokens.py`,
otherwise that of `token_groups.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from .image_tokens import skew_image_tokens
from .inner_attention import Attend, PreparedCall, prepare
from .kernels.call import FusedCall
from .kernels.eligibility import has_kernel
from .kernels.operation import fused_retrieve
from .parameters import FloatOrTensor, is_exactly, per_head
from .token_groups import skew_each_group

JOINT_NORMS = ("value", "none")


def joint_skew_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gamma: FloatOrTensor,
    beta: FloatOrTensor = 1.0,
    *,
    inner: slice,
    norm: str = "value",
    scale: float | None = None,
    mask: Tensor | None = None,
    attend: Attend | None = None,
) -> Tensor:
    """`skew_attention` with circulation γ only among the image tokens. All other logits stay as they are.

    Args:
        q, k, v, gamma, beta, scale, mask, attend: as for `skew_attention`. `attend` is also called with fewer queries
            than keys.
        inner: the image tokens, `slice(start, stop)` within 0 … L. All of them gives `skew_attention`.
        norm: "value" or "none". The block input of a joint site is two inputs, so the other modes do not apply.

    Returns:
        `(B, H, M, dv)`; M is L where every token has a query. The rows outside `inner` are plain attention.

    Raises:
        ValueError: as `skew_attention`, and for an `inner` that is not a part of the tokens.
    """
    # γ_text = γ_cross = 1
    return modal_skew_attention(q, k, v, gamma, beta, inner=inner, norm=norm, scale=scale, mask=mask, attend=attend)


def modal_skew_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gamma: FloatOrTensor,
    beta: FloatOrTensor = 1.0,
    *,
    inner: slice,
    gamma_text: FloatOrTensor = 1.0,
    gamma_cross: FloatOrTensor = 1.0,
    norm: str = "value",
    scale: float | None = None,
    mask: Tensor | None = None,
    attend: Attend | None = None,
    kernel: bool | None = None,
    on_kernel: Callable[[], object] | None = None,
    neutral_bits: bool = True,
) -> Tensor:
    """`joint_skew_attention` with a γ of their own for the logits of the other tokens and those between the groups.

    Args:
        q, k, v, gamma, beta, inner, norm, scale, mask, attend: as for `joint_skew_attention`. Where q is only the last
            M of the L tokens, the image tokens are still counted among all L. γ and β may be per query row, of which
            those outside `inner` do not matter, while γ_text and γ_cross are 1.
        kernel, on_kernel, neutral_bits: as for `skew_attention`.
        gamma_text: circulation among the tokens outside `inner`.
        gamma_cross: circulation between those and the image tokens.

    Returns:
        `(B, H, M, dv)`; M is L where every token has a query. Rows in which every γ is 1 are plain attention.

    Raises:
        ValueError: as `joint_skew_attention`, and for a γ that is not finite or of another shape.
    """
    call = prepare(q, k, v, scale, mask, attend, gamma, beta, gamma_text, gamma_cross)
    batch, heads, queries = q.shape[:3]
    by_row = queries if is_exactly(gamma_text, 1.0) and is_exactly(gamma_cross, 1.0) else None
    gamma = per_head(gamma, "gamma", batch, heads, q.device, by_row)
    beta = per_head(beta, "beta", batch, heads, q.device, by_row)
    image_tokens = token_range(inner, k.shape[2])
    check_joint_norm(norm)
    gamma_text = per_head(gamma_text, "gamma_text", batch, heads, q.device)
    gamma_cross = per_head(gamma_cross, "gamma_cross", batch, heads, q.device)
    return retrieve_modal(
        q,
        k,
        v,
        (gamma, gamma_text, gamma_cross),
        beta,
        call,
        image_tokens,
        norm=norm,
        kernel=(attend is None if kernel is None else kernel) and has_kernel(q.device),
        on_kernel=on_kernel,
        neutral_bits=neutral_bits,
    )


def retrieve_modal(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gammas: tuple[FloatOrTensor, FloatOrTensor, FloatOrTensor],
    beta: FloatOrTensor,
    call: PreparedCall,
    image_tokens: slice,
    *,
    norm: str,
    kernel: bool = False,
    on_kernel: Callable[[], object] | None = None,
    on_fallback: Callable[[str], object] | None = None,
    neutral_bits: bool = True,
) -> Tensor:
    """`modal_skew_attention` of arguments that need no check, as `attention.retrieve_skewed`.

    Args:
        q, k, v, norm, on_kernel, neutral_bits: as for `modal_skew_attention`.
        gammas, beta: γ, γ_text and γ_cross, and β, as `parameters.per_head` gives them.
        call: mask, scale and kernel.
        on_fallback: as for `kernels.operation.fused_retrieve`.
        image_tokens: with its start and stop.
        kernel: whether the fused kernel may replace the kernel of `call`.

    Returns:
        `(B, H, M, dv)` in the dtype of v; M is L where every token has a query.
    """
    gamma, gamma_text, gamma_cross = gammas
    is_image_only = is_exactly(gamma_text, 1.0) and is_exactly(gamma_cross, 1.0)
    if is_exactly(beta, 0.0) or (is_image_only and is_exactly(gamma, 1.0)):
        return call.retrieve(q, k, v)
    if kernel:
        options: dict[str, Any] = {"norm": norm, "scale": call.scale, "mask": call.mask, "image_tokens": image_tokens}
        fused_call = FusedCall.of(q, k, v, gamma, beta, gamma_text=gamma_text, gamma_cross=gamma_cross, **options)
        fused = fused_retrieve(fused_call, neutral_bits=neutral_bits, on_kernel=on_kernel, on_fallback=on_fallback)
        if fused is not None:
            return fused
    if q.shape[2] < k.shape[2]:  # from here on the image tokens are counted among those that have a query
        prefix = k.shape[2] - q.shape[2]
        image_tokens = slice(max(0, image_tokens.start - prefix), max(0, image_tokens.stop - prefix))
    if is_image_only:
        return skew_image_tokens(q, k, v, gamma, beta, image_tokens, norm, call, neutral_bits=neutral_bits)
    return skew_each_group(q, k, v, gammas, beta, image_tokens, norm, call)


def check_joint_norm(norm: str) -> None:
    """Refuse a norm that needs the one input a joint site does not have.

    Raises:
        ValueError: naming what there is.
    """
    if norm not in JOINT_NORMS:
        raise ValueError(f'norm is "{norm}", but in joint attention it must be one of {", ".join(JOINT_NORMS)}.')


def token_range(inner: slice, tokens: int) -> slice:
    """The image tokens, with their start and stop filled in.

    Raises:
        ValueError: `inner` is not a run of tokens within 0 … `tokens`.
    """
    start, stop, step = inner.start or 0, tokens if inner.stop is None else inner.stop, inner.step or 1
    if step != 1 or not 0 <= start < stop <= tokens:
        raise ValueError(f"inner is {inner}, but it must be a range of tokens within 0 … {tokens}.")
    return slice(start, stop)
