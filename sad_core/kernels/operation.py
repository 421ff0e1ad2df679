"""Calling the fused kernel: its check before the first use, and the operation that compiled graphs hold."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..operation_names import operation_namespace
from .call import FusedCall
from .eligibility import import_error, ineligibility, is_wanted
from .imitation import imitation
from .launch import empty_out, launch
from .unfused import retrieve_unfused

# ‖kernel − unfused‖ / ‖unfused‖ of a check; the numbers of another γ are off by a third.
TOLERANCES = {torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 4e-2}
STOOD_IN = "ordinary attention with twice the head dimension was used"
INSTEAD = "ordinary attention with twice the head dimension is used until ComfyUI is started again. Only speed is lost."

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
            on_fallback(f"the fused kernel was not used ({reason}), so {STOOD_IN}")
        return None
    is_traced = torch.compiler.is_compiling() or type(call.q) is not Tensor
    result = _in_a_graph(call) if is_traced else _compute(call)
    if result is not None and on_kernel is not None:
        on_kernel()
    elif result is None and on_fallback is not None:
        what = _failures.get(variant_of(call), "cannot be checked while a graph is captured")
        on_fallback(f"the fused kernel {what}, so {STOOD_IN}")
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


def _give_up(variant: Variant, what: str, error: BaseException | None) -> None:
    """Never use the kernel of this variant again in this process. Say so once, with the traceback."""
    is_first = all(_works.values())
    _works[variant] = False
    _failures[variant] = what
    words = (
        f"The fused kernel of skew attention {what} for {variant[2]}, head dim {variant[3]} on {variant[0]}, "
        f"so {INSTEAD}"
    )
    logging.warning(words, exc_info=error if is_first else None)


def is_out_of_memory(error: BaseException) -> bool:
    """Return True if memory ran out, which the caller should handle and which says nothing about the kernel."""
    return isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)) or "out of memory" in str(error).lower()


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
    _told_by_graphs.add(f"the fused kernel {what}, so ordinary matrix products were used in a compiled graph")
    return empty_out(q).copy_(retrieve_unfused(call))


def fallbacks_of_graphs() -> list[str]:
    """Return what compiled graphs could not tell: a sentence for each way in which the kernel in them did not run.

    Each is returned once, so that it belongs to the sampling run that asks at its end.
    """
    sentences = sorted(_told_by_graphs)
    _told_by_graphs.clear()
    return sentences


@skew_attention_operation.register_fake
def _(q: Tensor, *_: Any) -> Tensor:
    return empty_out(q)
