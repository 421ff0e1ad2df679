"""Report in sentences whether a run leaves the normal range of its model."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .baseline import PARTS, StabilityBaseline, part_of
from .run import StabilityRun

DEVIATIONS = 3.0  # of the share that lies outside by chance


@dataclass(frozen=True)
class Shift:
    """The deviation of a run's measure from the normal band.

    Attributes:
        measure: its name.
        share: of the values that lie outside.
        chance: the share that would in a normal run.
        looks: the number of samples and tenths of the run. The values of one sample in one tenth go together, so they
            count as one look.
        site, part: where and in which tenth of the run the values lie furthest from the mean, on average.
        distance: of the values there from the mean, in standard deviations.
    """

    measure: str
    share: float
    chance: float
    looks: int
    site: str
    part: int
    distance: float

    @property
    def is_shifted(self) -> bool:
        """True if the share is more than `DEVIATIONS` standard deviations above chance."""
        spread = math.sqrt(self.chance * (1 - self.chance) / self.looks)
        return self.share > self.chance + DEVIATIONS * spread

    def describe(self) -> str:
        """Return the shift as a sentence."""
        side = "below" if self.distance < 0 else "above"
        low, high = self.part / PARTS, (self.part + 1) / PARTS
        return (
            f"{self.measure} leaves the normal band: {self.share:.0%} of the values lie outside it. By chance "
            f"{self.chance:.0%} would. The furthest are at {self.site} from {low:.0%} to {high:.0%} of the run, "
            f"{abs(self.distance):.1f} standard deviations {side} the mean."
        )


def shifts(baseline: StabilityBaseline, run: StabilityRun) -> list[Shift]:
    """Return how far every measure lies outside of the band; those with no value that the baseline knows are left out.

    Raises:
        ValueError: as `StabilityBaseline.check_run`.
    """
    scored, (low, high) = baseline.z_scores(run), baseline.band
    indices = [run.measures.index(measure) for measure in baseline.measures]
    outside: list[Tensor] = []
    known: list[Tensor] = []
    distances: list[tuple[str, int, Tensor]] = []
    looks: set[tuple[int, int]] = set()
    for step, scores in zip(run.steps, scored.steps, strict=True):
        values = step.averages[..., indices].double()
        lowest, highest = baseline.rows_of(low, step), baseline.rows_of(high, step)
        # A value may differ from its rounded quantile by a few units of the last bit that is kept there.
        slack = values.abs() * 2.0**-12
        is_known = values.isfinite() & lowest.isfinite()
        outside.append((((values < lowest - slack) | (values > highest + slack)) & is_known).sum(dim=(0, 1)))
        known.append(is_known.sum(dim=(0, 1)))
        part = part_of(step.progress)
        looks |= {(sample.number, part) for sample in step.samples}
        for (address, _), by_site in zip(step.columns, scores.averages, strict=True):
            distances.append((address, part, by_site.nanmean(dim=0)))
    if not known:
        return []
    out, of = torch.stack(outside).sum(dim=0), torch.stack(known).sum(dim=0)
    result = []
    for column, measure in enumerate(baseline.measures):
        if of[column]:
            found = [(site, part, float(each[column])) for site, part, each in distances if each[column].isfinite()]
            site, part, far = max(found, key=lambda each: abs(each[2]), default=("no site", 0, 0.0))
            share = float(out[column] / of[column])
            result.append(Shift(measure, share, baseline.chance, len(looks), site, part, far))
    return result


def describe_shift(baseline: StabilityBaseline, run: StabilityRun) -> str:
    """Return a sentence for every measure of a run that leaves the band, and one for those that do not.

    Raises:
        ValueError: as `StabilityBaseline.check_run`.
    """
    found = shifts(baseline, run)
    lines = [each.describe() for each in found if each.is_shifted]
    inside = [f"{each.measure} ({each.share:.0%})" for each in found if not each.is_shifted]
    if inside:
        lines.append(
            f"Inside the normal band: {', '.join(inside)}. The share of values outside it is in brackets. By chance "
            f"it would be {baseline.chance:.0%}."
        )
    if not found:
        lines.append("The baseline has no value for the sites, passes and steps of this run.")
    new = run.tokens and baseline.tokens and run.tokens not in baseline.tokens
    if new:
        lines.append(f"The run has {run.tokens} tokens at its largest site, and the baseline has no run of this size.")
    return "\n".join(lines)
