"""95 % intervals over seeds, for means, differences, ratios, correlations and set measures.

The seeds are a sample of all seeds; the three categories and the real pictures are what they are. So seeds are drawn
anew within each category, and the intervals say nothing about other categories, other pictures or another model.

    off, on = mean(plain_numbers, labels), mean(numbers, labels)
    print(on, on - off, on / off)           # differences and ratios are paired by seed

Two settings of the same seeds are resampled alike, so subtracting or dividing two estimates pairs them by itself.

Means and correlations: the bootstrap, with replacement (Efron 1979), percentile intervals.

Set measures: a seed drawn twice would be a pair at distance 0, a neighbour of itself, a duplicate in a diversity score;
the bootstrap is wrong for them. They are taken of random halves instead, without replacement. For a mean over n seeds
the variance of a half around the whole is σ² (2/n − 1/n) = σ²/n, just what the whole has around the truth: no factor is
needed. For anything whose mean over halves is its value on the whole (a U-statistic, such as a mean over pairs or over
all blocks) Var(half) = Var(whole) + E Var(half | whole), and Var(half) is at least twice Var(whole) (Hoeffding 1948):
the interval has the right width to first order and errs on the wide side beyond. A measure must therefore mean the same
at every n; those of evidence/measures do. The value is the mean over the halves: of a U-statistic that is the whole's,
up to a thirtieth of the interval, and of a measure taken in blocks it does not hang on which seeds share one.
(Half-sampling: McCarthy 1969; subsampling: Politis and Romano 1994.)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from scipy.stats import rankdata
from torch import Tensor

CONFIDENCE = 0.95
RESAMPLES = 1000
SEED = 0


@dataclass(frozen=True, eq=False)
class Estimate:
    """A number and what it was on each resample; `count` seeds; `drawn` says how the resamples were drawn."""

    value: float
    resampled: Tensor
    count: int
    drawn: tuple[str | int, ...]

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % percentile interval."""
        tail = (1 - CONFIDENCE) / 2
        low, high = self.resampled.quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
        return low, high

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.value:.4g} [{low:.4g}, {high:.4g}], n = {self.count}"

    def __sub__(self, other: Estimate) -> Estimate:
        """The difference, paired by seed."""
        self._must_match(other)
        return Estimate(self.value - other.value, self.resampled - other.resampled, self.count, self.drawn)

    def __truediv__(self, other: Estimate) -> Estimate:
        """The ratio, paired by seed. Means little where the other number may be 0."""
        self._must_match(other)
        value = self.value / other.value if other.value else math.nan
        return Estimate(value, self.resampled / other.resampled, self.count, self.drawn)

    def _must_match(self, other: Estimate) -> None:
        if self.drawn != other.drawn:
            raise ValueError(
                f"estimates: {self.drawn} and {other.drawn} were not drawn alike. Take both of the same seeds, "
                "and both of numbers or both of sets."
            )


def mean(numbers: Tensor, labels: Tensor) -> Estimate:
    """The mean of a number (n,) of each seed, for categories (n,)."""
    same_length(numbers, labels)
    numbers = numbers.double()
    return bootstrap(lambda rows: numbers[rows].mean(dim=1), labels)


def correlation(
    numbers: Tensor, others: Tensor, labels: Tensor, *, ranks: bool = False, within: bool = True
) -> Estimate:
    """Pearson's correlation of two numbers (n,) of each seed, or with `ranks` Spearman's.

    `within`: both are taken relative to the mean (or as ranks within) their category first, so that a category which is
    high in both is no correlation of seeds. Without it the categories are pooled. Not a number where nothing varies.
    """
    same_length(numbers, labels)
    same_length(others, labels)
    counts = labels.unique(return_counts=True)[1].tolist() if within else [len(labels)]

    def of_rows(rows: Tensor) -> Tensor:
        left, right = (deviations(values.double()[rows], counts, ranks) for values in (numbers, others))
        return (left * right).sum(dim=1) / (left.square().sum(dim=1) * right.square().sum(dim=1)).sqrt()

    return bootstrap(of_rows, labels)


def deviations(values: Tensor, counts: list[int], ranks: bool) -> Tensor:
    """(R, n) less the mean of each of the groups of `counts` columns, after ranking within the group where wanted."""
    groups = values.split(counts, dim=1)
    if ranks:
        groups = [torch.from_numpy(rankdata(group.numpy(), axis=1)) / group.shape[1] for group in groups]
    return torch.cat([group - group.mean(dim=1, keepdim=True) for group in groups], dim=1)


def bootstrap(statistic: Callable[[Tensor], Tensor], labels: Tensor) -> Estimate:
    """A statistic (R, n) rows of places -> (R,), with seeds of each category (n,) drawn with replacement.

    In the rows the categories stand one after the other, each with as many places as it has seeds.
    """
    whole, resampled = statistic(grouped(labels)[None]), statistic(resamples(labels))
    return Estimate(float(whole[0]), resampled.double(), len(labels), ("bootstrap", *category_counts(labels)))


def of_set(measure: Callable[[Tensor], float], labels: Tensor) -> Estimate:
    """A set measure (n,) places -> number, on random halves of each category (n,); see above for why halves.

    If `labels` cover only the first n samples, only these are measured. The value is the mean.
    """
    return of_halves(torch.tensor([measure(rows) for rows in halves(labels)], dtype=torch.float64), labels)


def of_halves(resampled: Tensor, labels: Tensor) -> Estimate:
    """A set measure that is known on each of the halves of `halves(labels)`: (RESAMPLES,)."""
    return Estimate(float(resampled.mean()), resampled, len(labels), ("halves", *category_counts(labels)))


def resamples(labels: Tensor) -> Tensor:
    """(RESAMPLES, n) places, with replacement, as many of each category as there are; the same for equal labels."""
    return drawn(tuple(labels.tolist()), replace=True)


def halves(labels: Tensor) -> Tensor:
    """(RESAMPLES, about n / 2) places: half the seeds of each category, rounded down, in random order."""
    return drawn(tuple(labels.tolist()), replace=False)


@lru_cache(maxsize=8)
def drawn(labels: tuple[int, ...], replace: bool) -> Tensor:
    """Places for `resamples` and `halves`, from a generator of their own."""
    generator = torch.Generator().manual_seed(SEED)
    parts = []
    for places in places_by_category(torch.tensor(labels)):
        count = len(places)
        if replace:
            chosen = torch.randint(count, (RESAMPLES, count), generator=generator)
        else:
            chosen = torch.rand((RESAMPLES, count), generator=generator).argsort(dim=1)[:, : count // 2]
        parts.append(places[chosen])
    return torch.cat(parts, dim=1)


def places_by_category(labels: Tensor) -> list[Tensor]:
    """The places of each category that occurs, in the order of the categories."""
    return [torch.nonzero(labels == label).flatten() for label in labels.unique()]


def grouped(labels: Tensor) -> Tensor:
    """All places, category by category."""
    return torch.cat(places_by_category(labels))


def category_counts(labels: Tensor) -> list[int]:
    """Return the number of seeds of each category."""
    counts: list[int] = labels.unique(return_counts=True)[1].tolist()
    return counts


def same_length(numbers: Tensor, labels: Tensor) -> None:
    """Refuses numbers that do not come one a seed."""
    if numbers.shape != labels.shape:
        raise ValueError(f"numbers: {tuple(numbers.shape)} given for {tuple(labels.shape)} labels; give one for each.")
