"""Both retrievals of skew attention from one product of queries and keys, a tile of rows at a time.

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

from .parameters import Strength

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


def tiled_retrievals(
    q: Tensor, k: Tensor, v: Tensor, gamma: Strength, scale: float, *, with_plain: bool
) -> tuple[Tensor | None, Tensor]:
    """(R₁ or None, R_γ), what attention retrieves with plain and with skewed logits.

    Args:
        q, k: `(B, H, L, d)` on the CPU, float32 or float64.
        v: `(B, H, L, dv)`, any dv.
        gamma: a float, or a tensor that broadcasts over `(B, H, 1, 1)`.
        scale: of the logits.
        with_plain: whether R₁ is wanted.

    Returns:
        `(B, H, L, dv)`, each.
    """
    batch, heads, tokens, _ = q.shape
    matrices = batch * heads
    skewness = torch.as_tensor(gamma, dtype=q.dtype).expand(batch, heads, 1, 1).reshape(matrices, 1, 1)
    queries, keys, values = (x.reshape(matrices, tokens, -1) for x in (q, k, v))
    is_large = _logit_bound(queries, keys, skewness, scale) > LARGEST_LOGIT
    at_once, rows = tile_shape(matrices, tokens)
    plain, skewed = (values.new_empty(values.shape) for _ in range(2))
    logits, weights = (q.new_empty(at_once * rows * tokens) for _ in range(2))

    for first in range(0, matrices, at_once):
        some = slice(first, first + at_once)
        key, value = keys[some], values[some]
        query, kept, swapped = queries[some] * scale, (1 + skewness[some]) / 2, (1 - skewness[some]) / 2
        large = is_large[some] if bool(is_large[some].any()) else None
        for start in range(0, tokens, rows):
            part = slice(start, start + rows)
            shape = (key.shape[0], min(rows, tokens - start), tokens)
            tile = logits[: shape[0] * shape[1] * shape[2]].view(shape)
            torch.bmm(query[:, part], key.mT, out=tile)
            if with_plain:
                _retrieve(tile, value, large, weights[: tile.numel()].view(shape), plain[some, part])
            tile.mul_(kept).baddbmm_(key[:, part] * swapped, query.mT)
            _retrieve(tile, value, large, tile, skewed[some, part])
    return plain.view(v.shape) if with_plain else None, skewed.view(v.shape)


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
