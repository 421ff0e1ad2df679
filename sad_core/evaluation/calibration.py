"""A slider from precise to creative, calibrated by a sweep: its position is a share of the measured diversity.

    D(γ)      the mean distance of two images at γ, made monotone and joined by straight lines
    D* (s)  = D(1) + s·(D(γ₊) − D(1))   for s ≥ 0,   γ₊ the end at which D is largest
              D(1) + s·(D(1) − D(γ₋))   for s < 0,   γ₋ the end at which D is smallest
    γ(s)      the γ nearest to 1 with D(γ) = D*(s)

Only γ whose pictures moved no further from those of γ = 1 than the bound of the drift take part. D is made monotone by
pooling neighbours that are in the wrong order (isotonic regression, Ayer et al. 1955), in the direction that fits
better. Where the diversity of one side does not differ from that of γ = 1, that half of the slider stays at γ = 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .diversity import Estimate
from .measures import DiversityReport

FEWEST_IMAGES = 3  # of a γ, for an interval


class TooFewImages(ValueError):
    """A sweep with fewer than `FEWEST_IMAGES` images of some γ, from which no slider can be made.

    Attributes:
        gammas: these γ.
    """

    def __init__(self, gammas: Sequence[float]):
        self.gammas = tuple(gammas)
        listed = ", ".join(f"{gamma:g}" for gamma in gammas)
        super().__init__(
            f"The sweep has fewer than {FEWEST_IMAGES} images of γ = {listed}. Raise batch_size of the latent. Small "
            "differences need 8 or more."
        )


class TooFarMoved(ValueError):
    """A sweep whose every γ except 1 moved images beyond the bound of the drift, so that no slider can be made.

    Attributes:
        largest_drift: the bound.
        smallest: the smallest drift of a γ except 1.
    """

    def __init__(self, largest_drift: float, smallest: float):
        self.largest_drift, self.smallest = largest_drift, smallest
        super().__init__(
            f"Every γ except 1 moved images further than largest_drift {largest_drift:g}. The smallest move was "
            f"{smallest:.3g}. Raise largest_drift, or sweep gammas nearer to 1."
        )


@dataclass(frozen=True)
class Point:
    """The measurements of a sweep at one γ.

    Attributes:
        gamma: γ.
        n: images.
        diversity: the mean distance of two images.
        change: of it, from that of γ = 1.
        drift: root mean square difference of pixels, 0 to 1, from the image of γ = 1 with the same seed.
    """

    gamma: float
    n: int
    diversity: Estimate
    change: Estimate
    drift: Estimate


@dataclass(frozen=True)
class Setting:
    """A slider position and its settings.

    Attributes:
        gamma: γ.
        change: of the diversity from that of γ = 1, read between the two measured points around γ.
        drift: the same of the drift.
    """

    gamma: float
    change: Estimate
    drift: Estimate


@dataclass(frozen=True)
class Calibration:
    """A slider for one checkpoint.

    Attributes:
        points: those within the bound of the drift, γ rising, γ = 1 among them.
        smooth: the monotone diversity of each point.
        largest_drift: the bound.
        left_out: the γ of the sweep beyond it.
        space, unit: where images were compared, and the unit of a distance.
        beta: β of the sweep.
        start, end: the part of the run in which γ acted, in progress.
        model: name of the model.
        weights: numbers out of the weights, by which the checkpoint is told from others.
    """

    points: tuple[Point, ...]
    smooth: tuple[float, ...]
    largest_drift: float
    left_out: tuple[float, ...]
    space: str
    unit: str
    beta: float = 1.0
    start: float = 0.0
    end: float = 1.0
    model: str = ""
    weights: tuple[float, ...] = ()

    @classmethod
    def of(cls, report: DiversityReport, largest_drift: float, **known: Any) -> Calibration:
        """Return the slider that a sweep gives.

        Args:
            report: of the sweep.
            largest_drift: the bound, as root mean square of pixels.
            known: the attributes from `beta` on.

        Raises:
            ValueError: as `calibrate`.
        """
        points, left_out = calibrate(report, largest_drift)
        return cls(
            points=points,
            smooth=monotone([point.diversity.value for point in points]),
            largest_drift=largest_drift,
            left_out=left_out,
            space=report.space.name,
            unit=report.space.unit,
            **known,
        )

    def at(self, position: float) -> Setting:
        """Return the setting at a position.

        Args:
            position: −1, most precise, to 1, most creative; 0 is γ = 1.

        Raises:
            ValueError: a position outside.
        """
        if not -1 <= position <= 1:
            raise ValueError(f"position is {position}, but it must be a number from -1 to 1.")
        here, least, most = self.smooth[self._neutral], min(self.smooth), max(self.smooth)
        wanted = here + position * (most - here if position >= 0 else here - least)
        gamma = self._gamma_of(min(max(wanted, least), most))  # rounding may lead a little beyond an end
        return Setting(gamma, self._between(gamma, "change"), self._between(gamma, "drift"))

    def is_open(self, side: int) -> bool:
        """Return whether the slider moves γ on the side 1 (creative) or −1 (precise)."""
        return self.at(float(side)).gamma != 1.0

    def is_sure(self, side: int) -> bool:
        """Return whether the interval of the change in diversity at the end of a side excludes 0."""
        change = self.at(float(side)).change
        return change.low > 0 if side > 0 else change.high < 0

    @property
    def _neutral(self) -> int:
        return next(index for index, point in enumerate(self.points) if point.gamma == 1.0)

    def _gamma_of(self, wanted: float) -> float:
        """Return the γ nearest to 1 at which the monotone diversity is `wanted`, which lies in its range."""
        neutral = self._neutral
        if self.smooth[neutral] == wanted:
            return 1.0
        found = []
        for step in (1, -1):
            index = neutral
            while 0 <= index + step < len(self.points):
                here, there = self.smooth[index], self.smooth[index + step]
                if min(here, there) <= wanted <= max(here, there) and here != there:
                    share = (wanted - here) / (there - here)
                    start, end = self.points[index].gamma, self.points[index + step].gamma
                    # Rounding may lead a little beyond the two.
                    found.append(min(max(start + share * (end - start), min(start, end)), max(start, end)))
                    break
                index += step
        return min(found, key=lambda gamma: abs(gamma - 1.0), default=1.0)

    def _between(self, gamma: float, name: str) -> Estimate:
        """Return a measure of the points at any γ among them, each of its three numbers on straight lines."""
        after = next(index for index, point in enumerate(self.points) if point.gamma >= gamma)
        last: Estimate = getattr(self.points[after], name)
        if self.points[after].gamma == gamma:
            return last
        first: Estimate = getattr(self.points[after - 1], name)
        width = self.points[after].gamma - self.points[after - 1].gamma
        share = (gamma - self.points[after - 1].gamma) / width
        numbers = [
            one + share * (other - one)
            for one, other in ((first.value, last.value), (first.low, last.low), (first.high, last.high))
        ]
        return Estimate(*numbers)


def calibrate(report: DiversityReport, largest_drift: float) -> tuple[tuple[Point, ...], tuple[float, ...]]:
    """Return the points of a sweep within the bound of the drift, and the γ beyond it.

    Args:
        report: of the sweep, with γ = 1 in it.
        largest_drift: the bound, as root mean square of pixels.

    Raises:
        ValueError: no γ = 1.
        TooFewImages: fewer than three images of a γ.
        TooFarMoved: no other γ within the bound.
    """
    if not largest_drift > 0 or not math.isfinite(largest_drift):
        raise ValueError(f"largest_drift is {largest_drift}, but it must be a number above 0.")
    if report.neutral is None:
        raise ValueError(
            "The sweep has no γ = 1, and the slider is measured from it. Add 1 to the gammas of the sweep."
        )
    few = tuple(row.gamma for row in report.rows if row.n < FEWEST_IMAGES)
    if few:
        raise TooFewImages(few)
    points = [
        Point(row.gamma, row.n, row["distance"], row["distance_change"], row["pixel_drift"]) for row in report.rows
    ]
    near = tuple(point for point in points if point.gamma == 1.0 or point.drift.value <= largest_drift)
    if len(near) < 2:
        smallest = min(point.drift.value for point in points if point.gamma != 1.0) if len(points) > 1 else math.nan
        raise TooFarMoved(largest_drift, smallest)
    return near, tuple(point.gamma for point in points if point not in near)


def monotone(values: Sequence[float]) -> tuple[float, ...]:
    """Return the rising or the falling sequence nearest to `values` in the sum of squares, whichever is nearer."""
    rising = isotonic(values)
    falling = [-value for value in isotonic([-value for value in values])]

    def error(fitted: Sequence[float]) -> float:
        return sum((one - other) ** 2 for one, other in zip(fitted, values, strict=True))

    return tuple(rising if error(rising) <= error(falling) else falling)


def isotonic(values: Sequence[float]) -> list[float]:
    """Return the rising sequence nearest to `values` in the sum of squares, by pooling neighbours out of order."""
    pools: list[tuple[float, int]] = []  # a mean, and of how many
    for value in values:
        pools.append((value, 1))
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (last, count), (before, others) = pools.pop(), pools.pop()
            pools.append(((last * count + before * others) / (count + others), count + others))
    return [mean for mean, count in pools for _ in range(count)]
