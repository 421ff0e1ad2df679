"""Checks of the values in the JSON of a file that is not trusted."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from .shown_text import printable

LONGEST_NAME = 1000  # of a model, a site or a pass


def number_of(value: Any) -> float:
    """Return a finite number.

    Raises:
        ValueError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError("a number is missing or not finite")
    return float(value)


def whole_number_of(value: Any, low: int, high: int) -> int:
    """Return a whole number from `low` to `high`.

    Raises:
        ValueError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"a number is not between {low} and {high}")
    return value


def text_of(value: Any, longest: int = LONGEST_NAME) -> str:
    """Return a text that can be shown and written to any file.

    Raises:
        ValueError: it is too long, or no text.
    """
    if not isinstance(value, str) or len(value) > longest:
        raise ValueError("a text is missing or too long")
    return printable(value)


def different(values: Iterable[Any]) -> tuple[Any, ...]:
    """Return the values, of which there is at least one and none twice.

    Raises:
        ValueError: it is not so.
    """
    found = tuple(values)
    if not found or len(set(found)) < len(found):
        raise ValueError("a list is empty, or has an entry twice")
    return found
