"""Skew attention, with both retrievals from one product of queries and keys, a tile of rows at a time.

    L₁ = scale·q kᵀ        L_γ = c₊·L₁ + c₋·scale·k qᵀ        R = exp(L) v / exp(L) 1

PyTorch's fused attention for the CPU wants q, k and v of one head dim, so the doubled head dim of `double_head_dim`
pays for a doubled v as well, and the plain retrieval computes L₁ a second time. Tiles that stay in the cache need
neither.

No row maximum is looked for where exp cannot overflow, |L| ≤ max(1, |γ|)·|scale|·maxᵢ‖qᵢ‖·maxⱼ‖kⱼ‖ (Cauchy-Schwarz).
That is decided head by head, so no batch mate has a say in it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .blending import blend
from .parameters import Strength, is_exactly

LARGEST_LOGIT = 50.0  # exp(50) is 5e21, which leaves float32 room for a sum over tokens and for large values
TILE_NUMBERS = 2**20  # logits of all heads that are worked on at once; 4 MB in float32
MOST_ROWS, FEWEST_ROWS = 256, 64


def runs_in_tiles(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> bool:
    """Whether tiles can do it and are the fast way: on the CPU, in full precision, without mask, gradient or compiler.

    Half precision is left to the fused kernels, and so is a graph being compiled, into which the choice for every head
    would not fit. `benchmarks/` compares the two.
    """
    return (
        q.device.type == "cpu"
        and q.dtype == k.dtype == v.dtype
        and q.dtype in (torch.float32, torch.float64)
        and mask is None
        and not (torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v)))
        and not torch.compiler.is_compiling()
    )


def tiled_skew_attention(
    q: Tensor,
    k: Tensor,
    stored: Tensor,
    gamma: Strength,
    beta: Strength,
    scale: float,
    value_dim: int,
    norm: str,
) -> Tensor:
    """ρ·(R₁ + β(R_γ − R₁)), blended tile by tile; at β = 1 R_γ alone is computed.

    Args:
        q, k: `(B, H, L, d)` on the CPU, float32 or float64.
        stored: `(B, H, L, dv + P)`, the values and the patterns of the norm, see `blending.blend`.
        gamma, beta: floats, or tensors that broadcast over `(B, H, 1, 1)`.
        scale: of the logits.
        value_dim: dv.
        norm: one of `norm_guard.NORMS`.

    Returns:
        `(B, H, L, dv)`.
    """
    batch, heads, tokens, _ = q.shape
    matrices, width = batch * heads, stored.shape[-1]
    blends = not is_exactly(beta, 1.0)
    skewness, strength = (
        torch.as_tensor(value, dtype=q.dtype).expand(batch, heads, 1, 1).reshape(matrices, 1, 1)
        for value in (gamma, beta)
    )
    queries, keys, values = (x.reshape(matrices, tokens, x.shape[-1]) for x in (q, k, stored))
    is_large = _logit_bound(queries, keys, skewness, scale) > LARGEST_LOGIT
    at_once, rows = tile_shape(matrices, tokens)
    room = [q.new_empty(at_once * rows * size) for size in (tokens, tokens, width, width)]
    result = q.new_empty((matrices, tokens, value_dim))

    for first in range(0, matrices, at_once):
        some = slice(first, first + at_once)
        key, value = keys[some], values[some]
        query, kept, swapped = queries[some] * scale, (1 + skewness[some]) / 2, (1 - skewness[some]) / 2
        large = is_large[some] if bool(is_large[some].any()) else None
        for start in range(0, tokens, rows):
            part = slice(start, min(start + rows, tokens))
            shape = (key.shape[0], part.stop - start)
            logits, weights, plain, skewed = (
                piece[: shape[0] * shape[1] * size].view(*shape, size)
                for piece, size in zip(room, (tokens, tokens, width, width), strict=True)
            )
            torch.bmm(query[:, part], key.mT, out=logits)
            if blends:
                _retrieve(logits, value, large, weights, plain)
            logits.mul_(kept).baddbmm_(key[:, part] * swapped, query.mT)
            _retrieve(logits, value, large, logits, skewed)
            result[some, part] = blend(plain, skewed, strength[some], value_dim, norm) if blends else skewed
    return result.view(batch, heads, tokens, value_dim)


def tile_shape(matrices: int, tokens: int) -> tuple[int, int]:
    """How many heads (of all samples) and how many rows make a tile: one head a thread at least, more of short ones."""
    threads = max(1, min(matrices, torch.get_num_threads()))
    rows = min(tokens, MOST_ROWS, max(FEWEST_ROWS, TILE_NUMBERS // (threads * tokens)))
    return max(1, min(matrices, max(threads, TILE_NUMBERS // 4 // (rows * tokens)))), rows


def _logit_bound(queries: Tensor, keys: Tensor, skewness: Tensor, scale: float) -> Tensor:
    """`(matrices, 1, 1)`: no logit of the head, plain or skewed, is larger."""
    longest = [torch.linalg.vector_norm(x, dim=-1).amax(dim=-1) for x in (queries, keys)]
    return (longest[0] * longest[1] * abs(scale))[:, None, None] * skewness.abs().clamp_min(1.0)


def _retrieve(logits: Tensor, values: Tensor, large: Tensor | None, weights: Tensor, out: Tensor) -> None:
    """out = softmax(logits)·values, with `weights` to work in, which may be the logits; all `(heads, rows, …)`."""
    if large is not None:
        highest = logits.amax(dim=-1, keepdim=True).where(large, 0.0)
        torch.sub(logits, highest, out=weights)
        weights.exp_()
    else:
        torch.exp(logits, out=weights)
    torch.bmm(weights, values, out=out)
    out /= weights.sum(dim=-1, keepdim=True)
