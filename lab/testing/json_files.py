"""The JSON that every reader of the pack refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def assert_only_its_own_files_are_read(load: Callable[[Path], Any], path: Path, what: str, node: str) -> None:
    """Fail where a file that is missing, too large or of another kind is not refused in a sentence.

    Args:
        load: reads a file.
        path: where files are made.
        what: the file would be.
        node: that saves it.
    """
    with pytest.raises(ValueError, match=f"There is no file own.* Choose a saved {what}"):
        load(path)
    for content in ("", "{", "[]", '{"kind": "another"}', "[" * 100_000, "\0"):
        path.write_text(content)
        with pytest.raises(ValueError, match=f"is not a {what} of this pack. Choose a file saved by {node}"):
            load(path)
    path.write_bytes(b"{" + b" " * 2**20)
    with pytest.raises(ValueError, match="at most 1 MB"):
        load(path)
