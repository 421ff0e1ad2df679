"""Files that are there as a whole or not at all."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
