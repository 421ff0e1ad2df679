"""The score of a sample at a step: one number that says how stable its retrievals were, read from a trace.

    score = StabilityScore("alignment", sites="middle, output", start=0.0, end=0.4)
    score.of_step(step, run.measures)  ->  {0: 0.31, 1: 0.28}      by the number of the sample
    score.of_run(run)                  ->  the mean over the steps inside the window, by the number of the sample

A higher score is a more stable sample. The sum over sites is exact before it is rounded once, so a score depends
neither on the other samples of a batch, nor on the order of sites and passes, nor on whether the prompts were computed
in one call of the model.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..parameters import check_choice
from .measures import TRACE_MEASURES
from .run import StabilityRun
from .step import Step, is_of

# +1 where high is stable, −1 where low is. That of the symmetricity is a convention: 1 is a pure energy.
SIGNS = {
    "energy": -1,
    "instability": -1,
    "alignment": 1,
    "symmetricity": 1,
    "depth": 1,
    "relative curvature": 1,
}

Key = tuple[str, str]  # the address of a site and the name of a pass
Values = dict[int, dict[Key, float]]  # by the number of the sample


@dataclass(frozen=True)
class StabilityScore:
    """A measure by name, of some sites, in a window of the run, with a sign.

    Attributes:
        measure: one of `TRACE_MEASURES`.
        sites: which sites count, as beginnings of addresses separated by commas, such as `middle, output.5`. Empty
            means all that were measured.
        start, end: the window, in progress from 0 to 1. `end` itself is outside unless it is 1.
        sign: +1 where a high measure is stable, −1 where a low one is. 0 takes the sign from `SIGNS`.
        pass_name: a pass, such as positive (also cond) or negative (also uncond). None means all passes of a sample.

    Raises:
        ValueError: an unknown measure, start and end out of order, or another sign.
    """

    measure: str = "alignment"
    sites: str = ""
    start: float = 0.0
    end: float = 1.0
    sign: int = 0
    pass_name: str | None = None

    def __post_init__(self) -> None:
        check_choice("measure", self.measure, TRACE_MEASURES)
        if not 0 <= self.start < self.end <= 1:
            raise ValueError(f"start is {self.start:g} and end {self.end:g}, but they must be in order within 0 … 1.")
        if self.sign not in (-1, 0, 1):
            raise ValueError(f"sign is {self.sign}, but it must be 1, −1, or 0 for the usual sign of {self.measure}.")

    @property
    def signed(self) -> int:
        """The sign that is used, +1 or −1."""
        return self.sign or SIGNS[self.measure]

    def is_inside(self, progress: float) -> bool:
        """Return True if a step at this progress lies in the window."""
        return self.start <= progress and (progress < self.end or self.end == 1)

    def wants(self, address: str) -> bool:
        """Return True if the site with this address counts. `output.5` means output.5.0 and not output.50."""
        beginnings = [each.strip() for each in self.sites.split(",") if each.strip()]
        whole = address.partition("#")[0]
        return not beginnings or any(f"{whole}.".startswith(f"{each}.") for each in beginnings)

    def values(self, step: Step, measures: Sequence[str]) -> Values:
        """Return what the score of every sample is the mean of, whether or not the step lies in the window.

        Args:
            step: one evaluation of the model.
            measures: names of its measures, such as `run.measures`.

        Returns:
            The signed mean over the heads, by the number of the sample, then by site and pass. What is not a finite
            number is left out.

        Raises:
            ValueError: the step does not have the measure.
        """
        check_choice("measure", self.measure, measures)
        column, sign, stop = list(measures).index(self.measure), self.signed, 0
        spans = []
        for address, count in step.columns:
            start, stop = stop, stop + count
            if not self.sites or self.wants(address):
                spans.append((address, start, stop))
        found: Values = {sample.number: {} for sample in step.samples}
        for sample, numbers in zip(step.samples, step.values[:, column].tolist(), strict=True):
            if self.pass_name is None or is_of(sample.pass_name, self.pass_name):
                own, name = found[sample.number], sample.today.pass_name
                for address, start, stop in spans:  # no call of ours for each site: this runs once a model call
                    heads = numbers[start:stop]
                    if all(map(math.isfinite, heads)):
                        own[address, name] = sign * math.fsum(heads) / len(heads)
        return found

    def of_step(self, step: Step, measures: Sequence[str]) -> dict[int, float]:
        """Return the score by the number of the sample, NaN where none of its sites and passes has a value.

        The window does not matter here. Arguments and errors are those of `values`.
        """
        return {number: exact_mean(values.values()) for number, values in self.values(step, measures).items()}

    def of_run(self, run: StabilityRun) -> dict[int, float]:
        """Return the mean score over the steps in the window, by the number of the sample.

        Steps at which a sample has no score do not count for it. A sample without any has NaN.

        Raises:
            ValueError: the run has no steps, none in the window, no such measure, or none of the sites.
        """
        steps = run.steps
        if not steps:
            raise ValueError(f"The trace of {run.model} is empty, so it has no score. Run a sampler first.")
        if not any(self.wants(address) for address in run.addresses):
            raise ValueError(
                f'sites is "{self.sites}", but the trace has none of these sites. It has {", ".join(run.addresses)}.'
            )
        inside = [step for step in steps if self.is_inside(step.progress)]
        if not inside:
            raise ValueError(
                f"No step lies between {self.start:g} and {self.end:g}. The trace goes from {steps[0].progress:.3g} "
                f"to {steps[-1].progress:.3g}."
            )
        found: defaultdict[int, list[float]] = defaultdict(list)
        for step in inside:
            for number, score in self.of_step(step, run.measures).items():
                found[number] += [score] if math.isfinite(score) else []
        return {number: exact_mean(scores) for number, scores in found.items()}

    def describe(self) -> str:
        """Return the score in a few words, such as "alignment of middle, output"."""
        where = f" of {self.sites.strip()}" if self.sites.strip() else ""
        return f"{self.measure}{where}{'' if self.pass_name is None else f', {self.pass_name}'}"


def exact_mean(numbers: Iterable[float]) -> float:
    """Return the mean, rounded once, in whatever order the numbers come; NaN for none, or where one is not finite."""
    given = list(numbers)
    return math.fsum(given) / len(given) if given and all(map(math.isfinite, given)) else math.nan


def mean_of_values(evaluations: Sequence[Mapping[Key, float]]) -> dict[Key, float]:
    """Return the mean of the evaluations of one sample by site and pass; what only some have is the mean of those."""
    if len(evaluations) == 1:
        return dict(evaluations[0])
    found: defaultdict[Key, list[float]] = defaultdict(list)
    for each in evaluations:
        for key, value in each.items():
            found[key].append(value)
    return {key: exact_mean(values) for key, values in found.items()}
