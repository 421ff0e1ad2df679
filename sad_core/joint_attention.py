"""Skew attention where several modalities share one sequence, as text and image tokens do in joint attention.

    A_Γ = S + Γ∘C,    Γᵢⱼ = γ        where tokens i and j are both image tokens (or video, or audio)
                            γ_text   where neither of them is
                            γ_cross  where one of them is

Γ is symmetric, so S stays symmetric and C skew. With γ_text = γ_cross = 1 only the rows of image tokens change, and in
those only the weights that the image columns have among each other:

    q̃ᵢ = [qᵢ, √|c₋|·kᵢ]        k̃ⱼ = [c₊·kⱼ, ±√|c₋|·qⱼ] for image tokens j,  [kⱼ, 0] for the others

Otherwise the rows of each group, image tokens and others, are one call of the inner attention. Its keys carry the γ of
their column:

    q̃ᵢ = [qᵢ, s·kᵢ]        k̃ⱼ = [c₊(i, j)·kⱼ, c₋(i, j)/s·qⱼ],    s² the largest |c₋| of the group
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .blending import blend, keep_neutral
from .decomposition import after_plain_keys, double_head_dim, scaled, skew_coefficients, triple_head_dim
from .inner_attention import Attend, PreparedCall, prepare
from .kernels.call import FusedCall
from .kernels.eligibility import has_kernel
from .kernels.operation import fused_retrieve
from .parameters import FloatOrTensor, is_by_row, is_exactly, per_head, rows_of, wants_derivative

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
        kernel: whether the fused kernel may stand in for the kernel of `call`.

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
        return _skew_image_tokens(q, k, v, gamma, beta, image_tokens, norm, call, neutral_bits=neutral_bits)
    return _skew_each_group(q, k, v, gammas, beta, image_tokens, norm, call)


def _skew_image_tokens(
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


def _skew_each_group(
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
        raise ValueError(f"inner is {inner}, but it must be a run of tokens within 0 … {tokens}.")
    return slice(start, stop)
