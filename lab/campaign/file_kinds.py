"""A kind of file in the campaign, and the code that draws a trace."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DRAW: list[Callable[..., Any]] = []  # `draw_layout`, where there is matplotlib; a test leaves it out


@dataclass(frozen=True)
class FileKind:
    """A kind of file that the pack reads.

    Attributes:
        whole: files that are right.
        handmade: further files that are wrong by design.
        damaged: a file with something wrong in it, as the numbers are drawn.
        read: reads a file, or refuses it by a ValueError.
        use: does with what was read all that a user can, and compares it with the file where that can be done plainly.
    """

    whole: Callable[[Path], list[bytes]]
    handmade: Callable[[], list[bytes]]
    damaged: Callable[[bytes, random.Random], bytes]
    read: Callable[[Path], Any]
    use: Callable[[Any, bytes], None]
