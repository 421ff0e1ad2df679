"""γ and β as a user may give them: one number, one per sample, or one per head. Also the precision of sums."""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import AbstractContextManager, ExitStack, nullcontext

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .shown_text import shown

FloatOrTensor = float | Tensor  # a γ or a β; as a tensor in one of the shapes that `per_head` takes


def per_head(
    value: FloatOrTensor,
    name: str,
    batch: int,
    heads: int,
    device: torch.device | None = None,
    queries: int | None = None,
) -> FloatOrTensor:
    """`value` in a form that multiplies `(B, H, L, d)` without broadcasting by luck.

    A float stays a float. A tensor may be 0-d, `(B,)` per sample, `(B, H)` per head or `(B, H, 1, 1)`; it comes back
    as `(1, 1, 1, 1)`, `(B, 1, 1, 1)` or `(B, H, 1, 1)`, so `(B,)` with B equal to H or d is still per sample. It is
    moved to `device` where one is given. Where a number of `queries` M is given, it may also be `(B, H, M)` or
    `(B, H, M, 1)`, by query row, and comes back as the latter.

    Raises:
        ValueError: a float that is not finite, or a tensor of any other shape.
    """
    if not isinstance(value, Tensor):
        if not -math.inf < value < math.inf:  # math.isfinite would break a compiled graph
            raise ValueError(f"{name} is {value}, but it must be a finite number.")
        return float(value)
    shape = tuple(value.shape)
    # (1 + γ)/2 rounded to half precision belongs to another γ.
    value = value.to(device=device, dtype=accumulation_dtype(value.dtype))
    if shape == ():
        return value.reshape(1, 1, 1, 1)
    if shape == (batch,):
        return value.reshape(batch, 1, 1, 1)
    if shape in ((batch, heads), (batch, heads, 1, 1)):
        return value.reshape(batch, heads, 1, 1)
    if queries is not None and shape in ((batch, heads, queries), (batch, heads, queries, 1)):
        return value.reshape(batch, heads, queries, 1)
    by_row = "" if queries is None else f", or ({batch}, {heads}, {queries}) per query row"
    raise ValueError(
        f"{name} has shape {shape}, but for {batch} samples and {heads} heads it must be one number, "
        f"({batch},) per sample, ({batch}, {heads}) per head or ({batch}, {heads}, 1, 1){by_row}."
    )


def is_by_row(value: FloatOrTensor) -> bool:
    """Return True if a γ or β of `per_head` has a number for every query row."""
    return isinstance(value, Tensor) and value.shape[2] > 1


def rows_of(value: FloatOrTensor, rows: slice) -> FloatOrTensor:
    """Return a γ or β of `per_head` for some of the query rows."""
    return value[:, :, rows] if isinstance(value, Tensor) and value.shape[2] > 1 else value


def is_exactly(value: FloatOrTensor, number: float) -> bool:
    """Return True if `value` is a float of exactly this number. A tensor is never looked into."""
    return not isinstance(value, Tensor) and value == number


def check_choice(name: str, value: str, allowed: Iterable[str]) -> None:
    """Refuse a word that is not among the allowed ones.

    Raises:
        ValueError: naming what was given and what is allowed.
    """
    if value not in allowed:
        raise ValueError(f'{name} is "{shown(value)}", but it must be one of {", ".join(allowed)}.')


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype for sums over values of `dtype`: float32 for half precision, `dtype` itself from float32 up."""
    return torch.promote_types(dtype, torch.float32)


def writes_in_place(*values: FloatOrTensor | None) -> bool:
    """Return True if results may be written into a part of an empty tensor, with `out=`, or over an intermediate.

    That is not possible where a gradient of any of the tensors among `values` is wanted, in a graph being compiled, and
    under a transform of `torch.func` such as `vmap`.
    """
    return not torch.compiler.is_compiling() and is_untraced(*values)


def is_untraced(*values: FloatOrTensor | None) -> bool:
    """Return `writes_in_place` for a caller that knows that no graph is being compiled."""
    # How torch.autograd asks; there is no public way.
    if torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
        return False
    if torch.is_grad_enabled():
        for value in values:  # a loop, because this runs for every call of every site
            if isinstance(value, Tensor) and value.requires_grad:
                return False
    return True


def wants_derivative(value: FloatOrTensor) -> bool:
    """Return True if a derivative with respect to `value` may be wanted, by gradients or by `torch.func`."""
    if not isinstance(value, Tensor):
        return False
    if torch.compiler.is_compiling():
        return value.requires_grad and torch.is_grad_enabled()
    return not is_untraced(value)


def autocast_disabled(device: torch.device) -> AbstractContextManager[object]:
    """Autocast switched off, for sums that half precision cannot hold. Nothing is done where it is not on."""
    on = torch.is_autocast_enabled(device.type)
    return torch.autocast(device.type, enabled=False) if on else nullcontext()


def only_sums(device: torch.device) -> AbstractContextManager[object]:
    """Gradients and autocast switched off. Nothing is done where neither is on, as while a model samples."""
    if not torch.is_grad_enabled():
        return autocast_disabled(device)
    context = ExitStack()
    context.enter_context(torch.no_grad())
    context.enter_context(autocast_disabled(device))
    return context
