"""One line of a terminal that is written over again and again; a log gets the lines that begin something new."""

from __future__ import annotations

import shutil
from typing import TextIO


class MovingLine:
    """One line that is redrawn on a terminal. On any other output, only the kept lines are written."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._moves = out.isatty()

    def show(self, text: str) -> None:
        """Put the text into the line; nothing in a log."""
        if self._moves:
            width = shutil.get_terminal_size().columns - 1
            self._out.write(f"\r\033[K{text[:width]}")
            self._out.flush()

    def keep(self, text: str) -> None:
        """Put the text into the line, or into a log as a line of its own."""
        if self._moves:
            self.show(text)
        else:
            self._out.write(f"{text}\n")
            self._out.flush()

    def clear(self) -> None:
        """Leave the line empty, for whatever is written next."""
        if self._moves:
            self._out.write("\r\033[K")
            self._out.flush()
