"""Calling the fused kernel: its check before the first use, its launch, and the operation that compiled graphs hold."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..operation_names import operation_namespace
from ..parameters import FloatOrTensor
from .call import FusedCall
from .choice import INTERPRETED_BLOCKS, SMALLEST_SHARED_MEMORY, Blocks, block_sizes, padded, shared_memory_of
from .eligibility import import_error, ineligibility, is_wanted
from .unfused import retrieve_unfused

LOG2_E = 1.4426950408889634
CHECKED_TOKENS, CHECKED_HEADS = 193, 2
SPREAD = 1.5  # of the numbers in q and k of a check, so that γ matters
# ‖kernel − unfused‖ / ‖unfused‖ of a check; the numbers of another γ are off by a third.
TOLERANCES = {torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 4e-2}
STOOD_IN = "queries and keys of twice the head dim took its place"
INSTEAD = "queries and keys of twice the head dim take its place until ComfyUI is started again. Only speed is lost."

Variant = tuple[Any, ...]

_works: dict[Variant, bool] = {}  # by variant, since this process started
_failures: dict[Variant, str] = {}  # what became of those that do not work
_told_by_graphs: set[str] = set()  # since `fallbacks_of_graphs` was called
_lock = threading.RLock()  # several GPUs may be at work in threads of their own


def fused_retrieve(
    call: FusedCall,
    *,
    neutral_bits: bool = False,
    on_kernel: Callable[[], object] | None = None,
    on_fallback: Callable[[str], object] | None = None,
) -> Tensor | None:
    """The retrieval by the fused kernel, or None where the caller has to compute it otherwise.

    Args:
        call: what to retrieve.
        neutral_bits: whether samples and heads of a tensor at γ = 1 or β = 0 have to keep the bits of the plain
            retrieval, which are not the kernel's; calls with a tensor are then left to the caller.
        on_kernel: called where the kernel has computed the retrieval.
        on_fallback: called with a sentence where the kernel was chosen or asked for and does not compute the retrieval.

    Returns:
        `(B, H, M, d)` in the dtype of q, with the heads of a token side by side in memory, as ComfyUI wants them; or
        None where the call is not eligible or the kernel does not work on this machine.

    Raises:
        torch.OutOfMemoryError: which says nothing about the kernel.
    """
    values = (call.gamma, call.gamma_text, call.gamma_cross, call.beta)
    if neutral_bits and any(isinstance(x, Tensor) for x in values):
        return None
    reason = ineligibility(call)
    if reason is not None:
        if on_fallback is not None and is_wanted(reason):
            on_fallback(f"the fused kernel was not used, because {reason}; {STOOD_IN}")
        return None
    is_traced = torch.compiler.is_compiling() or type(call.q) is not Tensor
    result = _in_a_graph(call) if is_traced else _compute(call)
    if result is not None and on_kernel is not None:
        on_kernel()
    elif result is None and on_fallback is not None:
        what = _failures.get(variant_of(call), "cannot be checked while a graph is captured")
        on_fallback(f"the fused kernel {what}; {STOOD_IN}")
    return result


def _compute(call: FusedCall) -> Tensor | None:
    """The retrieval by the kernel; None where it fails or gave wrong numbers in its check."""
    variant = variant_of(call)
    works = _works.get(variant)
    if works is None:
        if call.q.is_cuda and torch.cuda.is_current_stream_capturing():
            return None  # a check reads from the device, which no captured graph may
        with _lock:
            works = _works[variant] if variant in _works else _check(call, variant)
    if not works:
        return None
    try:
        return launch(call)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        _give_up(variant, f"failed ({type(error).__name__}: {error})", error)
        return None


def variant_of(call: FusedCall) -> Variant:
    """The key under which a kernel is compiled and checked."""
    numbers = (call.gamma, call.gamma_text, call.gamma_cross, call.beta)
    mask = "none" if call.mask is None else "bool" if call.mask.dtype == torch.bool else "additive"
    groups = (call.has_groups, call.text_is_plain) if call.has_groups else (False, True)
    where = (call.q.device.type, call.q.device.index, call.q.dtype, call.q.shape[3])
    return (*where, call.blends, call.guards, mask, call.prefix > 0, *groups, *(isinstance(x, Tensor) for x in numbers))


def _check(call: FusedCall, variant: Variant) -> bool:
    """Compare the kernel with the unfused way on made-up numbers in the form of `call`, and remember the outcome."""
    try:
        made_up = imitation(call)
        got, want = launch(made_up).float(), retrieve_unfused(made_up).float()
        error = float((got - want).norm() / want.norm())
    except Exception as reason:
        if is_out_of_memory(reason):
            raise
        _give_up(variant, f"failed ({type(reason).__name__}: {reason})", reason)
        return False
    if not error <= TOLERANCES[call.q.dtype]:  # not a number is wrong too
        _give_up(variant, f"gave wrong numbers (error {error:.2g})", None)
        return False
    _works[variant] = True
    return True


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
        strides: of the tensor it stands for.
    """
    result, extent = list(strides), 1
    for place in sorted(range(len(shape)), key=lambda place: (strides[place] == 0, strides[place], -place)):
        result[place] = extent + (strides[place] - extent) % 16
        extent = result[place] * shape[place]
    return result


def _give_up(variant: Variant, what: str, error: BaseException | None) -> None:
    """Never use the kernel of this variant again in this process. Say so once, with the traceback."""
    is_first = all(_works.values())
    _works[variant] = False
    _failures[variant] = what
    words = (
        f"The fused kernel of skew attention {what} for {variant[2]}, head dim {variant[3]} on {variant[0]}; {INSTEAD}"
    )
    logging.warning(words, exc_info=error if is_first else None)


def is_out_of_memory(error: BaseException) -> bool:
    """Return True if memory ran out, which the caller should handle and which says nothing about the kernel."""
    return isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)) or "out of memory" in str(error).lower()


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
    out = _empty_out(q)
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


def _empty_out(q: Tensor) -> Tensor:
    """Room for the retrieval, `(B, H, M, d)`, with the heads of a token side by side as ComfyUI wants them."""
    batch, heads, queries, head_dim = q.shape
    return q.new_empty((batch, queries, heads, head_dim)).transpose(1, 2)


def _spread(value: FloatOrTensor, batch: int, heads: int, queries: int) -> tuple[FloatOrTensor, tuple[int, ...]]:
    """γ or β with the strides of its samples, heads and rows."""
    if not isinstance(value, Tensor):
        return value, (0, 0, 0)
    value = value.expand(batch, heads, queries, 1)
    return value, value.stride()[:3]


# --- in compiled graphs

_SCHEMA = (
    "(Tensor q, Tensor k, Tensor v, Tensor? mask, Tensor[] numbers, float[] constants, bool[] is_constant, "
    "SymInt start, SymInt stop, str norm, float scale) -> Tensor"
)


def _in_a_graph(call: FusedCall) -> Tensor:
    """The call as one operation of a graph. Numbers and tensors among γ and β travel in lists of their own."""
    values = (call.gamma, call.gamma_text, call.gamma_cross, call.beta)
    numbers = [x for x in values if isinstance(x, Tensor)]
    constants = [1.0 if isinstance(x, Tensor) else x for x in values]
    is_constant = [not isinstance(x, Tensor) for x in values]
    arguments = (call.q, call.k, call.v, call.mask, numbers, constants, is_constant)
    result: Tensor = skew_attention_operation(*arguments, call.start, call.stop, call.norm, call.scale)
    return result


@torch.library.custom_op(f"{operation_namespace(__name__)}::skew_attention", mutates_args=(), schema=_SCHEMA)
def skew_attention_operation(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    numbers: list[Tensor],
    constants: list[float],
    is_constant: list[bool],
    start: int,
    stop: int,
    norm: str,
    scale: float,
) -> Tensor:
    """The retrieval as one operation, by the kernel where it works and by ordinary products where it does not.

    Args:
        q, k, v, mask, start, stop, norm, scale: as in `FusedCall`.
        numbers: those of γ, γ_text, γ_cross and β, in this order, that are tensors.
        constants: γ, γ_text, γ_cross and β where they are floats; anything where they are tensors.
        is_constant: which of the four are floats.

    Returns:
        `(B, H, M, d)` in the dtype of q, with the heads of a token side by side in memory.

    Raises:
        torch.OutOfMemoryError: which says nothing about the kernel.
    """
    left = iter(numbers)
    gamma, text, cross, beta = (x if known else next(left) for x, known in zip(constants, is_constant, strict=True))
    call = FusedCall(q, k, v, mask, gamma, text, cross, beta, start, stop, norm, scale)
    error = import_error()
    result = _compute(call) if error is None else None
    if result is not None:
        return result
    what = _failures.get(variant_of(call), "did not run") if error is None else f"cannot be imported ({error})"
    _told_by_graphs.add(f"the fused kernel {what}; ordinary matrix products took its place in a compiled graph")
    return _empty_out(q).copy_(retrieve_unfused(call))


def fallbacks_of_graphs() -> list[str]:
    """Return what compiled graphs could not tell: a sentence for each way in which the kernel in them did not run.

    Each is returned once, so that it belongs to the sampling run that asks at its end.
    """
    sentences = sorted(_told_by_graphs)
    _told_by_graphs.clear()
    return sentences


@skew_attention_operation.register_fake
def _(q: Tensor, *_: Any) -> Tensor:
    return _empty_out(q)
