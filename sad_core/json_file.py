"""Reading a JSON file of this pack: its size, its kind and its version are checked before anything else of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .shown_text import shown
from .whole_file import size_of

LARGEST_FILE = 2**20  # bytes


def read_json_file(path: Path, what: str, version: int, node: str, again: str) -> dict[str, Any]:
    """Return the content of a file.

    Args:
        path: of the file.
        what: the file is to be, such as "calibration"; its `kind` is "symmetric-attention " and this.
        version: its `version`.
        node: the display name of the node that saves such files.
        again: what to do where the file cannot be used, such as "calibrate again".

    Raises:
        ValueError: no such file, too large, of another kind or of another version.
    """
    name, size = shown(path.name), size_of(path, what)
    if size > LARGEST_FILE:
        raise ValueError(
            f"The size of {name} is {size / 2**20:.1f} MB, but a {what} may be at most 1 MB. Choose another file."
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        content = None
    if not isinstance(content, dict) or content.get("kind") != kind_of(what):
        raise ValueError(f"{name} is not a {what} of this pack. Choose a file saved by {node}.")
    if content.get("version") != version:
        raise ValueError(
            f"{name} is a {what} of version {shown(content.get('version'))}, but this pack reads version {version}. "
            f"Update the pack, or {again}."
        )
    return content


def kind_of(what: str) -> str:
    """Return the `kind` of a file."""
    return f"symmetric-attention {what}"
