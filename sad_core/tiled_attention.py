"""Skew attention, with both retrievals from one product of queries and keys, a tile of rows at a time.

    L₁ = scale·q kᵀ        L_γ = c₊·L₁ + c₋·scale·k qᵀ        R = exp(L) v / exp(L) 1

PyTorch's fused attention for the CPU wants q, k and v of one head dim, so the doubled head dim of `double_head_dim`
pays for a doubled v as well, and the plain retrieval computes L₁ a second time. Tiles that stay in the cache need
neither.

No row maximum is looked for where exp cannot overflow, |L| ≤ max(1, |γ|)·|scale|·maxᵢ‖qᵢ‖·maxⱼ‖kⱼ‖ (Cauchy-Schwarz).
That is decided head by head, and a tile never reaches over two samples, so no batch mate changes a bit.
"""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor

from .blending import blend
from .decomposition import skew_coefficients
from .parameters import FloatOrTensor, is_by_row, is_exactly

LARGEST_LOGIT = 30.0  # exp(±30) is 1e13 and 1e-13, which leaves float32 room for sums over tokens and for the values
TILE_NUMBERS = 2**20  # of logits in a tile, 4 MB in float32; more only where FEWEST_ROWS of one head have more
CACHED_NUMBERS = 2**18  # of logits that are still quick to work on; short heads are put together up to it
MOST_ROWS, FEWEST_ROWS = 256, 64
FEWEST_TOKENS = 128  # for fewer, one call of a fused kernel for all samples and heads is quicker than a loop


def runs_in_tiles(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, gamma: FloatOrTensor = 0.0, beta: FloatOrTensor = 1.0
) -> bool:
    """Return True if tiles can take the place of the fused kernel: on the CPU, in full precision, without a mask.

    Half precision and autocast are left to the fused kernels, and so are few tokens, a γ or β per query row, and fewer
    queries than keys. Tiles also need
    `parameters.writes_in_place`: the choice for every head fits into no graph, gradient or transform of `torch.func`.
    """
    return (
        q.device.type == "cpu"
        and q.dtype == k.dtype == v.dtype
        and q.dtype in (torch.float32, torch.float64)
        and mask is None
        and FEWEST_TOKENS <= q.shape[2] == k.shape[2]
        and not is_by_row(gamma)
        and not is_by_row(beta)
        and not torch.is_autocast_enabled("cpu")
    )


def tiled_skew_attention(
    q: Tensor,
    k: Tensor,
    stored: Tensor,
    gamma: FloatOrTensor,
    beta: FloatOrTensor,
    scale: float,
    value_dim: int,
    norm: str,
) -> Tensor:
    """ρ·(R₁ + β(R_γ − R₁)), blended tile by tile; at β = 1 only R_γ is computed.

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
    width, blends = stored.shape[-1], not is_exactly(beta, 1.0)
    gammas = torch.as_tensor(gamma, dtype=q.dtype).expand(batch, heads, 1, 1)
    betas = beta.to(q.dtype).expand(batch, heads, 1, 1) if isinstance(beta, Tensor) else beta
    is_large = _logit_bound(q, k, gammas, scale) > LARGEST_LOGIT
    c_plus, c_minus = skew_coefficients(gammas)
    as_numbers = None if isinstance(gamma, Tensor) else skew_coefficients(gamma)
    at_once, rows = tile_shape(heads, tokens)
    room = [q.new_empty(at_once * rows * size) for size in (tokens, tokens, width, width)]
    result = q.new_empty((batch, heads, tokens, value_dim))

    for sample, first in product(range(batch), range(0, heads, at_once)):
        some = sample, slice(first, first + at_once)
        key, value = k[some].contiguous(), stored[some].contiguous()
        query = q[some] * scale
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
            if as_numbers is None:
                logits.mul_(c_plus[some]).baddbmm_(key[:, part] * c_minus[some], query.mT)
            else:  # the product scales on its way, without passes of its own
                logits.baddbmm_(key[:, part], query.mT, beta=as_numbers[0], alpha=as_numbers[1])
            _retrieve(logits, value, large, logits, skewed)
            if blends:
                some_betas = betas[some] if isinstance(betas, Tensor) else betas
                result[some][:, part] = blend(plain, skewed, some_betas, value_dim, norm, in_place=True)
            else:
                result[some][:, part] = skewed
    return result


def tile_shape(heads: int, tokens: int) -> tuple[int, int]:
    """Return the heads of a sample and the rows that make a tile: a head for every thread, more of short ones."""
    threads = min(heads, torch.get_num_threads())
    rows = min(tokens, MOST_ROWS, max(FEWEST_ROWS, TILE_NUMBERS // (threads * tokens)))
    fitting, quick = TILE_NUMBERS // (rows * tokens), CACHED_NUMBERS // (rows * tokens)
    return min(heads, max(1, quick, min(threads, fitting))), rows


def _logit_bound(queries: Tensor, keys: Tensor, gamma: Tensor, scale: float) -> Tensor:
    """`(B, H, 1, 1)`: no logit of the head, plain or skewed, is larger."""
    longest = [torch.linalg.vector_norm(x, dim=-1).amax(dim=-1) for x in (queries, keys)]
    plain: Tensor = longest[0] * longest[1] * abs(scale)
    return plain[..., None, None] * gamma.abs().clamp_min(1.0)


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
