"""Decide whether the fused kernel can and should compute a call, with a reason in words if not."""

from __future__ import annotations

import functools
import re

import torch
from torch import Tensor

from .call import NORMS, FusedCall
from .choice import ALWAYS, KERNEL, NEVER, VARIABLE, architecture_of, chosen, constant_in_graphs, wish

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
LARGEST_HEAD_DIM = 256
LARGEST_OFFSET = 2**31 - 1  # numbers between the first and the last token of a head
NO_TRITON = "Triton cannot be imported"
AMD_ARCHITECTURES = re.compile(r"gfx(1[12]\w+|9(08|0a|4\w|5\w))$")  # RDNA3 and newer, CDNA


def ineligibility(call: FusedCall) -> str | None:
    """Return why the fused kernel does not compute this call, or None where it does.

    It looks at shapes, dtypes and the machine only, never at numbers on a device.
    """
    q, k, v, mask = call.q, call.k, call.v, call.mask
    numbers = (call.gamma, call.gamma_text, call.gamma_cross, call.beta)
    tensors = [x for x in (q, k, v, mask, *numbers) if isinstance(x, Tensor)]
    if not has_kernel(q.device):
        return f"the tensors are on {q.device.type}, and the kernel needs CUDA or ROCm"
    if any(x.device != q.device for x in tensors):
        return "the tensors are on different devices"
    if q.dtype not in DTYPES or not q.dtype == k.dtype == v.dtype:
        return (
            f"q, k and v are {q.dtype}, {k.dtype} and {v.dtype}, and the kernel takes only float16, bfloat16, float32"
        )
    if v.shape != k.shape or q.shape[:2] != k.shape[:2] or q.shape[3] != k.shape[3] or q.shape[2] > k.shape[2]:
        return "q, k and v differ in more than the number of queries"
    if q.shape[3] > LARGEST_HEAD_DIM:
        return f"the head dim is {q.shape[3]}, and the kernel takes {LARGEST_HEAD_DIM} at most"
    if 0 in q.shape:
        return "there is nothing to compute"
    if any(x.stride(3) != 1 or x.stride(2) * x.shape[2] > LARGEST_OFFSET for x in (q, k, v)):
        return "the channels of a token are not adjacent in memory, or its tokens are too far apart"
    if mask is not None and mask.dtype != torch.bool and not mask.is_floating_point():
        return f"the mask is {mask.dtype}"
    if call.blends and call.norm not in NORMS:
        return f'the norm "{call.norm}" needs patterns in addition to the values'
    if torch.is_grad_enabled() and any(x.requires_grad for x in tensors):
        return "gradients are needed"
    if q.dtype == torch.float32 and torch.is_autocast_enabled(q.device.type):
        return "autocast would compute in half precision"
    if not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active():
        return "a transform of torch.func is active"
    is_half = q.dtype != torch.float32
    return unsuitability(q.device.type, q.device.index or 0, q.shape[3], call.blends, is_half)


def has_kernel(device: torch.device) -> bool:
    """Return True where the kernel is to be asked at all: on CUDA and ROCm, elsewhere only if the user wishes it.

    On the CPU Triton's interpreter may run it, for tests.
    """
    return device.type == "cuda" or wish() == ALWAYS


def is_wanted(reason: str) -> bool:
    """Return True if the kernel would compute a call but for `reason`: the user or the table has chosen it."""
    return wish() == ALWAYS or reason.startswith(NO_TRITON)


@constant_in_graphs
def unsuitability(device_type: str, index: int, head_dim: int, blends: bool, is_half: bool) -> str | None:
    """Return why this device does not use the kernel for such calls, or None where it does."""
    return _unsuitability(device_type, index, head_dim, blends, is_half)


@functools.cache
def _unsuitability(device_type: str, index: int, head_dim: int, blends: bool, is_half: bool) -> str | None:
    if wish() == NEVER:
        return f"the environment variable {VARIABLE} is {NEVER}"
    if device_type == "cpu" and import_error() is None and is_interpreted():
        return None
    if device_type != "cuda":
        return f"the tensors are on {device_type}, and the kernel needs CUDA or ROCm"
    architecture = architecture_of(index)
    if torch.version.hip is not None and AMD_ARCHITECTURES.match(architecture) is None:
        return f"the kernel is not used on {architecture}, only on RDNA3 and newer and on CDNA"
    if torch.version.hip is None and int(architecture.removeprefix("sm_")) < 80:
        return f"the kernel is not used on {architecture}, only on sm_80 and newer"
    if wish() != ALWAYS and (not is_half or chosen(architecture, head_dim, blends) != KERNEL):
        return f"attention with twice the head dimension is used for head dim {head_dim} on {architecture}"
    error = import_error()  # last, so that Triton is imported only where it will be used
    return None if error is None else f"{NO_TRITON}: {error}"


@functools.cache
def import_error() -> str | None:
    """Return what went wrong when Triton was imported, or None. It is imported when first asked for, not before."""
    try:
        from . import skew_kernel  # noqa: F401
    except Exception as error:  # a broken install can raise anything
        return f"{type(error).__name__}: {error}"
    return None


def is_interpreted() -> bool:
    """Return True if Triton's interpreter runs the kernel, as tests without a card have it."""
    from .skew_kernel import IS_INTERPRETED

    return IS_INTERPRETED
