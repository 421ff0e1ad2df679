"""The seeds of each part, how many of them, and the groups of eight that best of N chooses from."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lab.testbed.shape import CLASSES

FIRST_CHOICE, FIRST_FIGURE = 2_000_000, 3_000_000
APART = 100_000  # from the first seed of a part to that of the next
CANDIDATES = 8
BLOCK = CANDIDATES * len(CLASSES)  # successive seeds that hold one group of each class


@dataclass(frozen=True)
class Seeds:
    """The seeds of one part.

    Attributes:
        part: its number.
        choices, figures: how many.
        unit: a smaller number of them is a multiple of this.
    """

    part: int
    choices: int
    figures: int
    unit: int = 2 * len(CLASSES)

    @property
    def choice(self) -> range:
        """The seeds that choices are made on."""
        first = FIRST_CHOICE + self.part * APART
        return range(first, first + self.choices)

    @property
    def figure(self) -> range:
        """The seeds whose numbers are reported."""
        first = FIRST_FIGURE + self.part * APART
        return range(first, first + self.figures)

    def scaled(self, share: float) -> Seeds:
        """A share of the seeds, in whole units and one at least."""
        choices, figures = (
            max(1, round(count * share / self.unit)) * self.unit for count in (self.choices, self.figures)
        )
        return replace(self, choices=choices, figures=figures)


PARTS = {
    "candidates": Seeds(0, choices=640, figures=2_000, unit=BLOCK),
    "feedback": Seeds(1, choices=320, figures=520),
    "shift": Seeds(3, choices=580, figures=580),
    "slider": Seeds(2, choices=160, figures=520, unit=4 * len(CLASSES)),
}


def groups(count: int) -> Tensor:
    """The places (count / 8, 8) of seeds in the order of drawing, each group of one class, in whole blocks of 80."""
    if count % BLOCK:
        raise ValueError(f"count is {count}, but groups of {CANDIDATES} a class need a multiple of {BLOCK}.")
    in_block = torch.arange(BLOCK).view(CANDIDATES, len(CLASSES)).mT
    return (torch.arange(0, count, BLOCK)[:, None, None] + in_block).flatten(0, 1)
