"""Running the fused kernel: from a call to the arguments of the kernel, without any check."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor

from ..parameters import FloatOrTensor
from .call import FusedCall
from .choice import INTERPRETED_BLOCKS, SMALLEST_SHARED_MEMORY, Blocks, block_sizes, padded, shared_memory_of

LOG2_E = 1.4426950408889634


def launch(call: FusedCall, blocks: Blocks | None = None) -> Tensor:
    """Run the kernel, without any check.

    Args:
        call: an eligible call.
        blocks: the size of the blocks; by default those of `choice.block_sizes`.

    Returns:
        `(B, H, M, d)` in the dtype of q, with the heads of a token side by side in memory.

    Raises:
        Exception: whatever Triton, its compiler or the driver raises.
    """
    from .skew_kernel import IS_INTERPRETED, skew_attention_kernel

    q, k, v = call.q, call.k, call.v
    batch, heads, queries, head_dim = q.shape
    width = padded(head_dim)
    if blocks is None and IS_INTERPRETED:
        blocks = INTERPRETED_BLOCKS
    elif blocks is None:
        shared = shared_memory_of(q.device.index) if q.is_cuda else SMALLEST_SHARED_MEMORY
        blocks = block_sizes(width, call.blends, q.element_size(), shared)
    out = empty_out(q)
    gamma, gamma_strides = _spread(call.gamma, batch, heads, queries)
    text, text_strides = _spread(call.gamma_text, batch, heads, queries)
    cross, cross_strides = _spread(call.gamma_cross, batch, heads, queries)
    beta, beta_strides = _spread(call.beta, batch, heads, queries)
    mask, kind = q, "none"
    mask_strides: tuple[int, ...] = (0, 0, 0, 0)
    if call.mask is not None:
        kind = "bool" if call.mask.dtype == torch.bool else "additive"
        mask = call.mask.view(torch.uint8) if kind == "bool" else call.mask
        mask = mask.expand(batch, heads, queries, k.shape[2])
        mask_strides = mask.stride()
    grid = (-(-queries // blocks.rows) * batch * heads,)
    with torch.cuda.device(q.device) if q.is_cuda else contextlib.nullcontext():
        skew_attention_kernel[grid](
            *(q, k, v, out, mask, gamma, text, cross, beta),
            *q.stride()[:3],
            *k.stride()[:3],
            *v.stride()[:3],
            *out.stride()[:3],
            *mask_strides,
            *gamma_strides,
            *text_strides,
            *cross_strides,
            *beta_strides,
            *(heads, queries, k.shape[2], call.start, call.stop, call.scale * LOG2_E),
            HEAD_DIM=head_dim,
            WIDTH=width,
            ROWS=blocks.rows,
            COLUMNS=blocks.columns,
            BLENDS=call.blends,
            GUARDS=call.guards,
            MASK=kind,
            HAS_PREFIX=call.prefix > 0,
            HAS_GROUPS=call.has_groups,
            TEXT_IS_PLAIN=call.text_is_plain,
            GAMMA_IS_TENSOR=isinstance(gamma, Tensor),
            TEXT_IS_TENSOR=isinstance(text, Tensor),
            CROSS_IS_TENSOR=isinstance(cross, Tensor),
            BETA_IS_TENSOR=isinstance(beta, Tensor),
            WIDEN=IS_INTERPRETED,
            num_warps=blocks.warps,
            num_stages=blocks.stages,
        )
    return out


def empty_out(q: Tensor) -> Tensor:
    """Room for the retrieval, `(B, H, M, d)`, with the heads of a token side by side as ComfyUI wants them."""
    batch, heads, queries, head_dim = q.shape
    return q.new_empty((batch, queries, heads, head_dim)).transpose(1, 2)


def _spread(value: FloatOrTensor, batch: int, heads: int, queries: int) -> tuple[FloatOrTensor, tuple[int, ...]]:
    """γ or β with the strides of its samples, heads and rows."""
    if not isinstance(value, Tensor):
        return value, (0, 0, 0)
    value = value.expand(batch, heads, queries, 1)
    return value, value.stride()[:3]
