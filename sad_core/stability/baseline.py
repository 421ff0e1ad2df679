"""The normal range of a model: mean, spread and quantiles of each measure by site, pass and tenth of the run.

Every mean over the heads of one sample at one step counts as one value. Progress is cut into tenths, so runs of 20 and
of 30 steps compare. Baselines are never changed. Adding runs one by one gives the counts and quantiles of adding them
all at once, and the same mean and spread to rounding in float64 (Welford's sums, merged as Chan et al. do).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod

import torch
from torch import Tensor

from ..shown_text import shown
from .run import StabilityRun
from .step import Step, is_of
from .value_counts import ValueCounts

PARTS = 10  # of a run, in progress, each with its own statistics
BAND = (0.05, 0.95)  # the quantiles between which a value is normal
ALL = ""  # the mean over the sites of a sample, as a site; the mean over its passes, as a pass


@dataclass(frozen=True, eq=False)
class StabilityBaseline:
    """The statistics of what some runs of a model measured.

    Attributes:
        model: the model the runs were of.
        patterns: what their retrieved patterns were taken of.
        measures: the measures they had in common.
        sites, passes: what has values, in alphabetical order; the first of both is `ALL`.
        count: of the values, `(sites, passes, PARTS, measures)`, int64.
        mean, squares: the mean of the values and the sum of the squared distances from it, like `count`, float64.
        seen: the values, for quantiles; the cells are the places in `count`, flattened.
        runs, samples: the number of runs, and of their samples.
        tokens, steps: the numbers of tokens and of steps that the runs had, rising.
    """

    model: str
    patterns: str
    measures: tuple[str, ...]
    sites: tuple[str, ...]
    passes: tuple[str, ...]
    count: Tensor
    mean: Tensor
    squares: Tensor
    seen: ValueCounts
    runs: int
    samples: int
    tokens: tuple[int, ...]
    steps: tuple[int, ...]

    @classmethod
    def from_runs(cls, runs: Sequence[StabilityRun]) -> StabilityBaseline:
        """Return the baseline of some runs of one model, other prompts and seeds each.

        Raises:
            ValueError: no runs, runs of several models or of other patterns, or no measure in common.
        """
        runs = [run for run in runs if run.steps]
        kinds = {(run.model, run.patterns, run.kind) for run in runs}
        measures = tuple(name for name in runs[0].measures if all(name in run.measures for run in runs)) if runs else ()
        if len(kinds) != 1 or not measures:
            raise ValueError(
                f"A baseline needs measured runs of one model with the same patterns, but got {len(runs)} runs of "
                f"{len(kinds)} kinds. Measure several seeds with the same probe."
            )
        result = _of_run(runs[0], measures)
        for run in runs[1:]:
            result = result.merged(_of_run(run, measures))
        return result

    def with_runs(self, runs: Sequence[StabilityRun]) -> StabilityBaseline:
        """Return the baseline of these runs too.

        Raises:
            ValueError: as `from_runs` and `merged`.
        """
        return self.merged(StabilityBaseline.from_runs(runs))

    def merged(self, other: StabilityBaseline) -> StabilityBaseline:
        """Return the baseline of the runs of both.

        Raises:
            ValueError: another model, other patterns or other measures.
        """
        self._check("other baseline", other.model, other.patterns, other.measures)
        if self.measures != other.measures:
            other = other._with_measures(self.measures)
        sites, passes = (tuple(sorted({*one, *two})) for one, two in self._places(other))
        one, two = (each._spread(sites, passes) for each in (self, other))
        count = one.count + two.count
        share = two.count / count.clamp_min(1).double()
        apart = two.mean - one.mean
        return replace(
            one,
            count=count,
            mean=one.mean + apart * share,
            squares=one.squares + two.squares + apart.square() * share * one.count,
            seen=one.seen.merged(two.seen),
            runs=one.runs + two.runs,
            samples=one.samples + two.samples,
            tokens=tuple(sorted({*one.tokens, *two.tokens})),
            steps=tuple(sorted({*one.steps, *two.steps})),
        )

    def _places(self, other: StabilityBaseline) -> tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]:
        return (self.sites, other.sites), (self.passes, other.passes)

    def _with_measures(self, measures: tuple[str, ...]) -> StabilityBaseline:
        """The same with only these of its measures, in this order."""
        columns = torch.tensor([self.measures.index(each) for each in measures])
        places = torch.full((len(self.measures),), -1).scatter(0, columns, torch.arange(len(measures)))
        column = places[self.seen.cells % len(self.measures)]
        kept = ValueCounts(self.seen.codes[column >= 0], self.seen.counts[column >= 0])
        old = torch.arange(self.count.numel())
        cells = old // len(self.measures) * len(measures) + places[old % len(self.measures)]
        tables = {name: getattr(self, name)[..., columns] for name in ("count", "mean", "squares")}
        return replace(self, measures=measures, seen=kept.moved(cells), **tables)

    def _spread(self, sites: tuple[str, ...], passes: tuple[str, ...]) -> StabilityBaseline:
        """The same with room for further sites and passes."""
        rows = torch.tensor([sites.index(each) for each in self.sites])[:, None]
        columns = torch.tensor([passes.index(each) for each in self.passes])
        shape = (len(sites), len(passes), PARTS, len(self.measures))
        cells = torch.arange(prod(shape)).view(shape)[rows, columns].flatten()
        tables = {}
        for name in ("count", "mean", "squares"):
            given = getattr(self, name)
            tables[name] = given.new_zeros(shape).index_put((rows, columns), given)
        return replace(self, sites=sites, passes=passes, seen=self.seen.moved(cells), **tables)

    def _check(self, what: str, model: str, patterns: str, measures: Sequence[str]) -> None:
        if (model, patterns) != (self.model, self.patterns) or not set(self.measures) <= set(measures):
            raise ValueError(
                f"This baseline was made on {shown(self.model)} with {shown(', '.join(self.measures))} and "
                f"{shown(self.patterns)} patterns, but the {what} was made on {shown(model)} with "
                f"{shown(', '.join(measures))} and {shown(patterns)} patterns. Use a baseline of the same model, "
                "measures and patterns."
            )

    def check_run(self, run: StabilityRun) -> None:
        """Refuse a run that this baseline says nothing about.

        Raises:
            ValueError: a run of another model, of other patterns, without the measures of the baseline, or none of
                whose sites the baseline has.
        """
        self._check("run", run.model, run.patterns, run.measures)
        if run.steps and not {*run.addresses} & {*self.sites}:
            raise ValueError(
                f"This baseline has none of the sites of the run ({', '.join(run.addresses)}), only "
                f"{', '.join(self.sites[1:])}. Measure the same blocks."
            )

    @cached_property
    def deviation(self) -> Tensor:
        """The standard deviation of the values, like `count`; NaN where there are fewer than two or all are equal."""
        found = (self.squares / (self.count - 1)).sqrt()
        return torch.where((self.count > 1) & (found > 0), found, torch.nan)

    @cached_property
    def band(self) -> tuple[Tensor, Tensor]:
        """The lowest and the highest normal value, each like `count` in float32; NaN where there are under two."""
        low, high = (self.seen.quantile(share, self.count.numel()).view(self.count.shape) for share in BAND)
        known = self.count > 1
        return torch.where(known, low, torch.nan), torch.where(known, high, torch.nan)

    @property
    def chance(self) -> float:
        """The share of the values of another normal run that is expected outside of the band.

        It is more than a tenth, because the quantiles of few samples lie inside of the true ones: of n values drawn
        alike, a further one lies between the quantiles a and b with the chance (b − a)·(n − 1)/(n + 1).
        """
        return 1 - (BAND[1] - BAND[0]) * (self.samples - 1) / (self.samples + 1)

    def rows_of(self, table: Tensor, step: Step) -> Tensor:
        """Return what a table, like `count`, has for every site and sample of a step, `(sites, samples, measures)`.

        It is NaN for sites and passes that the baseline does not have.
        """
        known = {site: row for row, site in enumerate(self.sites)}, {name: row for row, name in enumerate(self.passes)}
        sites = torch.tensor([known[0].get(address, -1) for address, _ in step.columns])[:, None]
        passes = torch.tensor([known[1].get(sample.today.pass_name, -1) for sample in step.samples])
        found = table[sites, passes, part_of(step.progress)].double()
        return torch.where(((sites >= 0) & (passes >= 0))[..., None], found, torch.nan)

    def z_scores(self, run: StabilityRun) -> StabilityRun:
        """Return the standard deviations between every value of `run` and the mean; one column a site, heads averaged.

        Undefined where the baseline has no value, or only equal ones.

        Raises:
            ValueError: as `check_run`.
        """
        self.check_run(run)
        indices = [run.measures.index(measure) for measure in self.measures]
        result = StabilityRun(run.model, run.sites, self.measures, run.patterns, kind="z-scores", stride=run.stride)
        result.restore([self._scored(step, indices) for step in run.steps])
        result.status, result.gamma, result.tokens = run.status, run.gamma, run.tokens
        return result

    def _scored(self, step: Step, indices: list[int]) -> Step:
        values = step.averages[..., indices].double()
        scores = (values - self.rows_of(self.mean, step)) / self.rows_of(self.deviation, step)
        names = tuple((address, 1) for address, _ in step.columns)
        return replace(step, columns=names, values=scores.permute(1, 2, 0).float(), maps={})

    def curve(self, measure: str, pass_name: str | None) -> list[tuple[float, float, float, float]]:
        """Return the normal course of the mean over the sites: `(progress, low, mean, high)` for every known tenth.

        Args:
            measure: one of `measures`.
            pass_name: as for `StabilityRun.matrix`; None means the mean over the passes of a sample.
        """
        column, (low, high) = self.measures.index(measure), self.band
        row = next((i for i, each in enumerate(self.passes) if each and pass_name and is_of(each, pass_name)), 0)
        tables = [each[0, row, :, column].double() for each in (low, self.mean, high)]
        middles = [(part + 0.5) / PARTS for part in range(PARTS)]
        lowest, mean, highest = (each.tolist() for each in tables)
        points = zip(middles, lowest, mean, highest, strict=True)
        return [point for point in points if not math.isnan(point[1])]

    def summary(self) -> str:
        """Return what the baseline was made of, in three sentences."""
        tokens = f", {_listed(self.tokens)} tokens at the largest site" if self.tokens else ""
        return (
            f"This baseline of {self.model} holds {_counted(self.samples, 'sample')} of "
            f"{_counted(self.runs, 'run')} at {_counted(len(self.sites) - 1, 'site')}, with {_listed(self.steps)} "
            f"steps{tokens}. Passes: {', '.join(self.passes[1:])}. Measures: {', '.join(self.measures)}, of "
            f"{self.patterns} patterns."
        )


def part_of(progress: float) -> int:
    """Return which tenth of the run a step lies in, from 0."""
    return min(int(progress * PARTS), PARTS - 1)


def _of_run(run: StabilityRun, measures: tuple[str, ...]) -> StabilityBaseline:
    steps, columns = run.steps, [run.measures.index(measure) for measure in measures]
    sites = tuple(sorted({ALL, *run.addresses}))
    passes = tuple(sorted({ALL, *(sample.today.pass_name for step in steps for sample in step.samples)}))
    shape = (len(sites), len(passes), PARTS, len(measures))
    places = torch.arange(prod(shape)).view(shape)
    cells: list[Tensor] = []
    values: list[Tensor] = []
    for step in steps:
        part, found = part_of(step.progress), step.averages[..., columns]
        rows = torch.tensor([sites.index(address) for address, _ in step.columns])[:, None]
        names = torch.tensor([passes.index(sample.today.pass_name) for sample in step.samples])
        over_sites = found.double().nanmean(dim=0)
        by_sample: defaultdict[int, list[int]] = defaultdict(list)
        for row, sample in enumerate(step.samples):
            by_sample[sample.number].append(row)
        over_passes = torch.stack([over_sites[rows_of_one].nanmean(dim=0) for rows_of_one in by_sample.values()])
        cells += [places[rows, names, part], places[0, names, part], places[0, 0, part].expand(len(by_sample), -1)]
        values += [found, over_sites.float(), over_passes.float()]
    cell, value = (torch.cat([each.flatten() for each in parts]) for parts in (cells, values))
    cell, value = cell[value.isfinite()], value[value.isfinite()]
    count = torch.zeros(prod(shape), dtype=torch.int64).index_add_(0, cell, torch.ones_like(cell))
    mean = torch.zeros(prod(shape), dtype=torch.float64).index_add_(0, cell, value.double()) / count.clamp_min(1)
    squares = torch.zeros_like(mean).index_add_(0, cell, (value.double() - mean[cell]).square())
    samples = len({sample.number for step in steps for sample in step.samples})
    return StabilityBaseline(
        run.model,
        run.patterns,
        measures,
        sites,
        passes,
        count.view(shape),
        mean.view(shape),
        squares.view(shape),
        ValueCounts.of(cell, value),
        runs=1,
        samples=samples,
        tokens=(run.tokens,) if run.tokens else (),
        steps=(run.step_count,),
    )


def _listed(numbers: Sequence[int]) -> str:
    return str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} … {numbers[-1]}"


def _counted(count: int, thing: str) -> str:
    return f"{count} {thing}{'' if count == 1 else 's'}"
