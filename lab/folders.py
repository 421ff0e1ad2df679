"""Folders that several parts of the lab use. Needs only the standard library."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
IMAGES = DOCS / "images"


def cache_folder() -> Path:
    """The folder for what can be made again: environments, hosts, data. An empty `XDG_CACHE_HOME` counts as unset."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "symmetric-attention"


def expand_path(text: str | Path) -> Path:
    """Return the absolute path that a word of a command line names, also where a shell has left the ~ in it."""
    return Path(text).expanduser().resolve()
