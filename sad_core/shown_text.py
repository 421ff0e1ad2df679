"""Texts that people or files gave, as messages show them."""

from __future__ import annotations

LONGEST_SHOWN = 80


def printable(text: str) -> str:
    """Return `text` with a mark in place of all that would break a line, turn it around or could not be written."""
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)


def shown(text: object) -> str:
    """Return a text for a message: printable, and only its beginning where it is long."""
    words = str(text)
    return printable(words if len(words) <= LONGEST_SHOWN else f"{words[:LONGEST_SHOWN]}…")
