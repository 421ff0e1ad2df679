"""An imitation of the way in which newer hosts, from ComfyUI 0.40 on, call their attention.

Every attention module owns a child without weights that may name another backend for this layer, and queries, keys and
values arrive in containers that give their tensor away once. An override still comes first and gets plain tensors,
unless it says that it takes containers. What is written here follows what is known of the contract, not its code.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

MARKER, SLOT = "_inside_attn_wrapper", "optimized_attention_override"


class TensorContainer:
    """A tensor with one owner."""

    def __init__(self, tensor: Tensor):
        self.tensor: Tensor | None = tensor

    def peek(self) -> Tensor:
        """The tensor, which stays here."""
        assert self.tensor is not None, "this tensor was taken before"
        return self.tensor

    def take(self) -> Tensor:
        """The tensor, which is not here any more."""
        tensor, self.tensor = self.peek(), None
        return tensor


class LayerAttention(nn.Module):
    """The child of an attention module; `function` is the backend that a checkpoint asks for in this layer."""

    function: Callable[..., Tensor] | None = None


def by_contract(backend: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return `backend` as a host calls it: the override first, then the backend of the layer, then this one."""

    @functools.wraps(backend)
    def wrapped(*given: Any, preferred_attention: LayerAttention | None = None, **named: Any) -> Tensor:
        options = named.get("transformer_options") or {}
        is_outermost = MARKER not in named
        override = options.get(SLOT) if is_outermost else None
        named[MARKER] = True
        result: Tensor
        if override is not None and not hasattr(override, "container_function"):
            result = override(backend, *unpacked(given), **named)
            return result
        if override is not None:
            result = override.container_function(*given, **named)
            return result
        if is_outermost and preferred_attention is not None and preferred_attention.function is not None:
            return preferred_attention.function(*given, **named)
        return backend(*unpacked(given), **named)

    return wrapped


def unpacked(given: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments of a call, with the tensors taken out of their containers."""
    return tuple(each.take() if isinstance(each, TensorContainer) else each for each in given)
