"""Work of other node packs, to be stacked with ours in both orders."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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
