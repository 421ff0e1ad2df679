"""The same retrieval by ordinary matrix products, a block of rows at a time.

The fused kernel is checked against it before it is used. It also replaces the kernel where a compiled graph calls
one that turns out not to work.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..blending import blend, keep_neutral
from ..decomposition import skew_coefficients
from ..parameters import accumulation_dtype, rows_of
from .call import FusedCall

BLOCK_NUMBERS = 2**24  # logits that are held at a time


def retrieve_unfused(call: FusedCall) -> Tensor:
    """ρ·(R₁ + β(R_Γ − R₁)), or R_Γ where β = 1.

    Returns:
        `(B, H, M, d)` in the dtype of q; sums in float32 at least.
    """
    queries = call.q.shape[2]
    rows = max(1, BLOCK_NUMBERS // max(1, call.q.shape[0] * call.q.shape[1] * call.k.shape[2]))
    parts = [_retrieve(call, slice(start, min(start + rows, queries))) for start in range(0, queries, rows)]
    return torch.cat(parts, dim=2) if parts else torch.zeros_like(call.q)


def _retrieve(call: FusedCall, rows: slice) -> Tensor:
    """The retrieval of the queries `rows`."""
    precise = accumulation_dtype(call.q.dtype)
    q, k, v = (x.to(precise) for x in (call.q, call.k, call.v))
    prefix, queries, keys = call.prefix, q.shape[2], k.shape[2]
    own_keys = k[:, :, prefix + rows.start : prefix + rows.stop]
    logits = call.scale * (q[:, :, rows] @ k.mT)
    swapped = call.scale * (own_keys @ q.mT)
    gamma = _gammas(call, rows)
    c_plus, c_minus = skew_coefficients(gamma)
    square = c_plus * logits[..., prefix:] + c_minus * swapped
    bias = _bias(call.mask, rows, queries, keys, precise)
    skewed = _soften(torch.cat([logits[..., :prefix], square], dim=-1), bias) @ v
    if not call.blends:
        return skewed.to(call.q.dtype)
    plain = _soften(logits, bias) @ v
    beta = rows_of(call.beta, rows)
    blended = blend(plain, skewed, beta, v.shape[-1], call.norm, in_place=False)
    return keep_neutral(blended, plain, 0.0, beta).to(call.q.dtype)


def _gammas(call: FusedCall, rows: slice) -> Tensor:
    """Γ of the queries `rows` and the tokens that have a query, broadcasting to `(B, H, rows, M)`."""
    image, text, cross = (
        torch.as_tensor(rows_of(value, rows), dtype=torch.float32, device=call.q.device)
        for value in (call.gamma, call.gamma_text, call.gamma_cross)
    )
    tokens = torch.arange(call.prefix, call.k.shape[2], device=call.q.device)
    is_image = (tokens >= call.start) & (tokens < call.stop)
    row, column = is_image[rows, None], is_image[None, :]
    return torch.where(row & column, image, torch.where(row | column, cross, text))


def _bias(mask: Tensor | None, rows: slice, queries: int, keys: int, dtype: torch.dtype) -> Tensor | None:
    """Return the bias on the logits of the queries `rows`, or None."""
    if mask is None:
        return None
    part = mask.expand(*mask.shape[:-2], queries, keys)[..., rows, :] if mask.dim() > 1 else mask
    if part.dtype == torch.bool:
        return torch.zeros_like(part, dtype=dtype).masked_fill(~part, float("-inf"))
    return part.to(dtype)


def _soften(logits: Tensor, bias: Tensor | None) -> Tensor:
    """softmax(logits + bias); 0 in a row that may attend to no token."""
    if bias is None:
        return logits.softmax(dim=-1)
    logits = logits + bias
    return torch.where((logits == float("-inf")).all(dim=-1, keepdim=True), 0.0, logits.softmax(dim=-1))
