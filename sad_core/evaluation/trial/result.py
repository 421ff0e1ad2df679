"""The result of a trial: what was measured of each way, which one was chosen, and what other seeds say of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..diversity import Estimate
from ..measures import Row
from .ways import PLAIN, Way

# How far the guards of a way may be from those of γ = 1 for it to be chosen.
FACTOR_OF_SATURATION = 1.5
FACTOR_OF_HIGH_FREQUENCIES = 2.0
MORE_CLIPPED = 0.1  # of the colour values


@dataclass(frozen=True)
class Measured:
    """The measurements of one way in a part of a trial.

    Attributes:
        way: how it was sampled.
        row: the measures of its images, those with γ = 1 in them.
        seconds: of one picture.
    """

    way: Way
    row: Row
    seconds: float

    @property
    def name(self) -> str:
        """Return the name of the way."""
        return self.way.name

    @property
    def seeds(self) -> int:
        """Return the number of sampled pictures."""
        return self.row.n + self.row.broken


@dataclass(frozen=True)
class Cost:
    """A way of which only the time was measured: its name, and the seconds of one picture."""

    name: str
    seconds: float


@dataclass(frozen=True)
class Sampling:
    """The public part of the sampling settings.

    Attributes:
        width, height: of a picture, in pixels.
        steps, cfg, sampler, scheduler: as in a sampler node.
        prompts: how many were used, in the part with more seeds.
        packaged: whether they are those of the pack.
        texts: the prompts themselves, where the user says so; else empty.
    """

    width: int
    height: int
    steps: int
    cfg: float
    sampler: str
    scheduler: str
    prompts: int
    packaged: bool
    texts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Trial:
    """A trial that has ended.

    Attributes:
        model: the class of the model, such as SDXL.
        weights: numbers out of its weights, by which the checkpoint is told from others.
        name: of the checkpoint, where the user gives it; else empty.
        machine: what sampled, such as the name of a card.
        sampling: how.
        minutes: the budget.
        took: minutes that sampling took.
        space, unit: where images were compared, and the unit of a distance.
        choice: the ways on the seeds of the choice, γ = 1 first.
        chosen: the name of the way that was chosen.
        report: the ways on the seeds of the report: γ = 1, the chosen one, the rivals.
        costs: what other ways took.
        notes: sentences on what is missing.
    """

    model: str
    weights: tuple[float, ...]
    name: str
    machine: str
    sampling: Sampling
    minutes: float
    took: float
    space: str
    unit: str
    choice: tuple[Measured, ...]
    chosen: str
    report: tuple[Measured, ...]
    costs: tuple[Cost, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def plain(self) -> Measured:
        """γ = 1 on the seeds of the report."""
        return self.report[0]

    @property
    def best(self) -> Measured:
        """The chosen way on the seeds of the report."""
        return next(each for each in self.report if each.way.name == self.chosen)

    @property
    def counted_seeds(self) -> tuple[int, int]:
        """Seeds of the choice and of the report."""
        return self.choice[0].seeds, self.report[0].seeds


def choose_way(choice: Sequence[Measured]) -> Way:
    """Return the γ to report: of those whose guards are as at γ = 1, the one whose pictures lie furthest apart.

    Where none of them has its guards, it is the one that moved pictures least.

    Args:
        choice: the ways of the ladder, and γ = 1 among them.

    Raises:
        ValueError: no γ = 1, no other way, or no picture of any that could be measured.
    """
    plain = next((each for each in choice if each.way == PLAIN), None)
    others = [each for each in choice if each.way != PLAIN and each.row["distance_change"].exists]
    if plain is None or not others:
        raise ValueError(
            "No γ can be chosen, because too many images of γ = 1, or of every other γ, contain NaN. Check that the "
            "model draws intact images in KSampler with these settings."
        )
    whole = [each for each in others if has_guards(each.row, plain.row)]
    if whole:
        return max(whole, key=lambda each: each.row["distance_change"].value).way
    return min(others, key=lambda each: each.row["pixel_drift"].value).way


def has_guards(row: Row, plain: Row) -> bool:
    """Return whether no guard marks the pictures of a way as broken, compared with γ = 1."""
    if row.broken > plain.broken:
        return False
    for name, factor in (("saturation", FACTOR_OF_SATURATION), ("high_frequency", FACTOR_OF_HIGH_FREQUENCIES)):
        value = row[name].value
        if not math.isnan(value) and not 1 / factor <= value <= factor:
            return False
    if row["clipped"].value > plain["clipped"].value + MORE_CLIPPED:
        return False
    agreement, before = row["agreement"], plain["agreement"]
    return not (agreement.exists and before.has_interval and agreement.value < before.low)


def is_significant(number: Estimate, neutral: float = 0.0) -> bool:
    """Return whether the 95 % interval of a number excludes the value that means no change."""
    return number.has_interval and not number.low <= neutral <= number.high
