"""Work of other node packs, to be stacked with ours in both orders."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from torch import nn

from lab.testing.run_nodes import skew

ORDERS = ["theirs first", "ours first"]


def louder(function: Callable[..., Any], *arguments: Any, **keyword: Any) -> Any:
    """Another pack's override: all attention ten percent louder."""
    return 1.1 * function(*arguments, **keyword)


def with_override(model: Any, override: Callable[..., Any]) -> Any:
    """A clone of the model with somebody's override in ComfyUI's attention slot."""
    model = model.clone()
    model.model_options["transformer_options"]["optimized_attention_override"] = override
    return model


def in_order(order: str, model: Any, theirs: Callable[[Any], Any], **widgets: Any) -> tuple[Any, Any]:
    """`model` through their node and ours, and the report of ours."""
    if order == "theirs first":
        return skew(theirs(model), **widgets)
    patched, report = skew(model, **widgets)
    return theirs(patched), report


class Nameless(nn.Module):
    """A wrapper that lacks the names of the module in it, as packs that compile or swap blocks make."""

    def __init__(self, wrapped: nn.Module):
        super().__init__()
        self.wrapped = wrapped
        self.calls = 0

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        return self.wrapped(*args, **kwargs)


class Transparent(Nameless):
    """A wrapper that passes names on, as PyTorch's own of a compiled module does."""

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("wrapped"), name)


class WithItsOwn(Nameless):
    """A wrapper that has other modules under the names of the module in it."""

    def __init__(self, wrapped: nn.Module):
        super().__init__(wrapped)
        for name, child in wrapped.named_children():
            if name != "wrapped":
                setattr(self, name, copy.deepcopy(child))


class KeepingNames(Nameless):
    """A wrapper in which the weights are found under the names they had, as ComfyUI's dynamic VRAM asks for."""

    def __init__(self, wrapped: nn.Module):
        super().__init__(nn.Identity())
        del self.wrapped
        object.__setattr__(self, "wrapped", wrapped)
        for name, child in wrapped.named_children():
            setattr(self, name, child)


def replaced(model: Any, path: str, wrapper: type[Nameless]) -> tuple[Any, Nameless]:
    """A clone of the model on which another pack has wrapped the module at `path`, and the wrapper."""
    model = model.clone()
    theirs = wrapper(model.get_model_object(path))
    model.add_object_patch(path, theirs)
    return model, theirs
