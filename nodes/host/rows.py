"""Which samples the rows of a model call are, where they are not all samples of the run in their order."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping, Sequence
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


def numbers_of(options: MutableMapping[str, Any], samples: int) -> Sequence[int]:
    """Return the numbers of the `samples` of a pass in a model call with these `transformer_options`."""
    rows: Sequence[int] = options.get(ROWS) or ()
    return rows if len(rows) == samples else range(samples)
