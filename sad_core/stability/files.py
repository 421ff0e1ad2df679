"""Files with many tables: safetensors with a JSON header, so reading one runs no code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..shown_text import shown
from ..whole_file import size_of

LOOKED_AT = 4096  # bytes of a file, to tell what it is
# What reading a damaged header ends in.
DAMAGE = (KeyError, TypeError, ValueError, ArithmeticError, IndexError, AttributeError, RecursionError)


def has_header(path: str | Path, key: str) -> bool:
    """Return whether a file has the header named `key`. Reads only the first bytes."""
    try:
        with Path(path).open("rb") as file:
            return f'"{key}"'.encode() in file.read(LOOKED_AT)
    except OSError:
        return False


@contextmanager
def opened(path: Path, key: str, kind: str, saver: str, largest: int) -> Iterator[tuple[str, Any]]:
    """Give the header of a file and the open safetensors file, whose tensors are read inside the block.

    Args:
        path: of the file.
        key: the name of the header in the metadata of the file.
        kind: what the file is to be, such as "stability trace", for messages.
        saver: the node that writes such files, for messages.
        largest: bytes that such a file has at most.

    Raises:
        ValueError: no such file, too large, no safetensors file, or one of another kind; the sentence says which.
    """
    from safetensors import SafetensorError, safe_open

    name, size = shown(path.name), size_of(path, kind)
    if size > largest:
        raise ValueError(
            f"The size of {name} is {size / 2**20:.0f} MB, but a {kind} may be at most {largest // 2**20} MB. "
            "Choose another file."
        )
    of_another_kind = f"{name} is not a {kind} of this pack. Choose a file saved by {saver}."
    try:
        with safe_open(str(path), "pt") as file:
            header = (file.metadata() or {}).get(key)
            if header is None:
                raise ValueError(of_another_kind)
            yield header, file
    except (SafetensorError, OSError) as error:
        raise ValueError(of_another_kind) from error
