"""The made-up call with which the fused kernel is checked before it computes a call of the same form."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..parameters import FloatOrTensor
from .call import FusedCall

CHECKED_TOKENS, CHECKED_HEADS = 193, 2
SPREAD = 1.5  # of the numbers in q and k of a check, so that γ matters


def imitation(call: FusedCall) -> FusedCall:
    """A small call of the same form with made-up numbers: order of memory, mask, groups, and the kinds of γ and β.

    Its number of tokens is no multiple of any block. No random numbers of the process are used up, and no memory that
    grows with the call.

    Args:
        call: q `(B, H, M, d)`, k and v `(B, H, L, d)`, on any device.

    Returns:
        a call with at most `CHECKED_HEADS` samples and heads and `CHECKED_TOKENS` keys, of the same dtype and d.
        γ and β are floats and tensors where those of `call` are; a float of 1 stays 1.
    """
    generator = torch.Generator(call.q.device).manual_seed(0)
    batch, heads = (min(size, CHECKED_HEADS) for size in call.q.shape[:2])
    keys = min(call.k.shape[2], CHECKED_TOKENS)
    keys -= keys % 16 == 0
    queries = keys if call.prefix == 0 else min(call.q.shape[2], max(1, keys // 2))
    start, stop = (keys // 3, keys - keys // 5) if call.has_groups else (0, keys)

    def draw(like: Tensor, tokens: int, spread: float) -> Tensor:
        shape = (batch, heads, tokens, like.shape[3])
        made = torch.empty_strided(shape, smaller_strides(shape, like.stride()), dtype=like.dtype, device=like.device)
        return made.normal_(0.0, spread, generator=generator)

    def number(like: FloatOrTensor, low: float, high: float) -> FloatOrTensor:
        if not isinstance(like, Tensor):
            return like if like == 1.0 else low
        full = (batch, heads, queries, 1)
        shape = [1 if there == 1 else size for there, size in zip(like.shape, full, strict=True)]
        return torch.empty(shape, dtype=like.dtype, device=like.device).uniform_(low, high, generator=generator)

    mask = call.mask
    if mask is not None:
        full = (batch, heads, queries, keys)
        rest = full[4 - mask.dim() :]
        shape = [1 if there == 1 else size for there, size in zip(mask.shape, rest, strict=True)]
        drawn = torch.empty(shape, dtype=torch.float32, device=call.q.device).normal_(generator=generator)
        attends = drawn < 0.5
        attends[..., :1] = True
        mask = attends if mask.dtype == torch.bool else drawn.masked_fill(~attends, float("-inf")).to(mask.dtype)
    return FusedCall(
        draw(call.q, queries, SPREAD),
        draw(call.k, keys, SPREAD),
        draw(call.v, keys, 1.0),
        mask,
        number(call.gamma, 0.4, 0.9),
        number(call.gamma_text, 0.7, 1.3),
        number(call.gamma_cross, -0.4, 0.6),
        number(call.beta, 1.5, 2.5),
        start,
        stop,
        call.norm,
        call.scale,
    )


def smaller_strides(shape: Sequence[int], strides: Sequence[int]) -> list[int]:
    """Strides for a smaller tensor whose numbers lie in the same order, close together.

    Each differs from the one in `strides` by a multiple of 16, because kernels are compiled for strides that are
    multiples of 16 and for others. Dimensions that share their memory, whose stride is 0, do not share it here.

    Args:
        shape: of the smaller tensor.
        strides: of the tensor it imitates.
    """
    result, extent = list(strides), 1
    for place in sorted(range(len(shape)), key=lambda place: (strides[place] == 0, strides[place], -place)):
        result[place] = extent + (strides[place] - extent) % 16
        extent = result[place] * shape[place]
    return result
