"""The sample of each row of a model call, for calls that do not hold all samples of the run in order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from typing import Any

ROWS = "symmetric_attention.rows"  # where the options of an evaluation hold the numbers of its samples


@contextmanager
def named_rows(options: MutableMapping[str, Any], rows: Sequence[int]) -> Iterator[None]:
    """Have these `transformer_options` say, inside the block, which samples of the run each pass has."""
    outer = options.get(ROWS)
    options[ROWS] = tuple(rows)
    try:
        yield
    finally:
        options.pop(ROWS)
        if outer is not None:
            options[ROWS] = outer


def numbers_of(options: Mapping[str, Any], batch: int, passes: int, most: int) -> Sequence[int]:
    """Return the numbers of the samples that each pass has in a model call.

    Args:
        options: its `transformer_options`.
        batch: rows of the call.
        passes: prompts in it.
        most: rows that are told apart where nothing says what they are, since video models fold frames into them.

    Returns:
        What `named_rows` says, or else a number for each row of a pass; only 0 where they cannot be told apart.
    """
    rows: Sequence[int] = options.get(ROWS) or ()
    if rows and batch == passes * len(rows):
        return rows
    return range(batch // passes if batch % passes == 0 and batch <= most else 1)
