#!/usr/bin/env python3
"""Writes what other files say of the nodes' schemas, from the schemas; needs a ComfyUI (see lab/testing/hosts.py).

    python -m lab.generate.node_schemas    # locales/en/nodeDefs.json, and what is new in the promise to saved graphs

`locales/en/nodeDefs.json` is the text of the nodes in the layout ComfyUI translates from; the other languages have the
same keys. `lab/testing/promised_nodes.json` is the promise to saved graphs: it only ever grows.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lab.folders import ROOT
from lab.testing.hosts import find_host
from lab.testing.in_process_host import nodes_of, pack_in_host

LOCALES = ROOT / "locales"
ENGLISH = LOCALES / "en" / "nodeDefs.json"
PROMISE = ROOT / "lab" / "testing" / "promised_nodes.json"
INPUTS = ("required", "optional")  # the groups of inputs, in the order of their sockets


def english(nodes: Sequence[Any]) -> dict[str, dict[str, Any]]:
    """Names, descriptions and tooltips by node id, in the layout of ComfyUI's nodeDefs.json."""
    texts = {}
    for node in nodes:
        schema = node.GET_SCHEMA()
        names = node.GET_NODE_INFO_V1()["output_name"]
        inputs = {each.id: _named(each.display_name or each.id, each.tooltip) for each in schema.inputs}
        outputs = {
            str(index): _named(name, each.tooltip)
            for index, (name, each) in enumerate(zip(names, schema.outputs, strict=True))
        }
        texts[schema.node_id] = {
            "display_name": schema.display_name,
            "description": schema.description,
            "inputs": inputs,
            "outputs": outputs,
        }
    return texts


def _named(name: str, tooltip: str | None) -> dict[str, str]:
    return {"name": name, "tooltip": tooltip} if tooltip else {"name": name}


def promise(nodes: Sequence[Any]) -> dict[str, dict[str, list[Any]]]:
    """Return the parts of the schemas that saved graphs rely on, by node id.

    A graph stores the values of widgets by their order (required inputs first, then optional ones) and links to
    outputs by their number; an API prompt and links to inputs go by name.
    """
    found = {}
    for node in nodes:
        info = node.GET_NODE_INFO_V1()
        groups = {group: info["input"].get(group, {}) for group in INPUTS}
        widgets = [
            name for inputs in groups.values() for name, (kind, *options) in inputs.items() if is_widget(kind, *options)
        ]
        found[info["name"]] = {
            **{group: [[name, str(kind)] for name, (kind, *_) in inputs.items()] for group, inputs in groups.items()},
            "widgets": widgets,
            "outputs": [list(each) for each in zip(info["output_name"], info["output"], strict=True)],
        }
    return found


def is_widget(kind: str, options: dict[str, Any] | None = None) -> bool:
    """Return whether the editor draws a widget for an input of this type. A graph stores the widget's value."""
    drawn = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "CURVE"}
    return bool(drawn & set(str(kind).split(","))) and not (options or {}).get("forceInput")


def broken(promised: dict[str, dict[str, list[Any]]], found: dict[str, dict[str, list[Any]]]) -> list[str]:
    """Return the broken parts of a promise. All of it must come first and in order. New parts may follow.

    Required inputs may become optional, as long as the order of all inputs stays: the required ones, then the optional
    ones, which is the order of their sockets.
    """
    return [
        f"{node_id}, {part}: promised {kept}, found {found.get(node_id, {}).get(part, [])}"
        for node_id, parts in promised.items()
        for part, kept in parts.items()
        if found.get(node_id, {}).get(part, [])[: len(kept)] != kept
        and not (part in INPUTS and _became_optional(parts, found.get(node_id, {})))
    ]


def _became_optional(promised: dict[str, list[Any]], found: dict[str, list[Any]]) -> bool:
    """Return whether the only change is that fewer inputs are required."""
    before, after = ([each for part in INPUTS for each in parts.get(part, [])] for parts in (promised, found))
    fewer = all(each in promised["required"] for each in found.get("required", []))
    return fewer and after[: len(before)] == before


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def write(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def loaded_nodes() -> list[Any]:
    """The nodes of the pack, loaded into a ComfyUI."""
    host = find_host()
    if host is None:
        sys.exit("No ComfyUI on this machine; set COMFYUI_PATH.")
    return nodes_of(pack_in_host(host))


def main() -> int:
    nodes = loaded_nodes()
    write(ENGLISH, english(nodes))
    found = promise(nodes)
    lost = broken(read(PROMISE), found) if PROMISE.exists() else []
    if lost:
        sys.exit("Saved graphs would break; never reorder, append only:\n" + "\n".join(lost))
    write(PROMISE, found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
