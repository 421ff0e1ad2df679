"""Wires of a type that an input does not take, for nodes that ComfyUI leaves this check to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from comfy_execution.validation import validate_node_input


def wrong_links(node: Any, received: Mapping[str, str]) -> str:
    """Return a sentence about a wire of the wrong type; empty where there is none.

    Args:
        node: the class of a node.
        received: types of the outputs that are wired to its inputs, by the name of the input.
    """
    # Not GET_SCHEMA, which keeps its schema on the class: ComfyUI asks a locked copy of it.
    wanted = {each.id: each.get_io_type() for each in node.define_schema().inputs}
    for name, kind in received.items():
        if name in wanted and not validate_node_input(kind, wanted[name]):
            return f"{name} comes from an output of type {kind}. Wire it to an output of type {wanted[name]}."
    return ""
