"""Files that are there as a whole or not at all, and how large one is that is to be read."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .shown_text import shown


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Give the path of a new file beside `path`, which takes the place of `path` when the block has ended.

    Where the block fails, or the process ends before its time, the file that was at `path` stays as it was.
    """
    path = Path(path)
    unfinished = path.with_name(f".{os.getpid()}.{threading.get_ident()}.unfinished")
    try:
        yield unfinished
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def size_of(path: Path, kind: str) -> int:
    """Return the number of bytes of a file that is to be read.

    Args:
        path: of the file.
        kind: what the file is to be, such as "stability trace", for the message.

    Raises:
        ValueError: there is no such file.
    """
    try:
        size = path.stat().st_size if path.is_file() else None
    except (OSError, ValueError):  # a name that no file can have
        size = None
    if size is None:
        raise ValueError(f"There is no file {shown(path.name)}. Choose a saved {kind}.")
    return size
