"""Two runs against each other, and a run against what is usual for its model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .run import StabilityRun
from .step import Sample, Step

PARTS = 10  # of a run, in progress, each with its own baseline


def difference(run: StabilityRun, other: StabilityRun) -> StabilityRun:
    """`run` − `other`, step by step: every step of `run` less the step of `other` that is nearest in progress.

    Sites, heads, samples and measures that only one of the two has are left out.

    Raises:
        ValueError: runs of different models or patterns, one without steps, or no measure, site or sample in common.
    """
    if (run.model, run.patterns, run.kind) != (other.model, other.patterns, other.kind):
        raise ValueError(
            f"A run of {run.model} with {run.patterns} patterns ({run.kind}) cannot be compared with one of "
            f"{other.model} with {other.patterns} patterns ({other.kind}); measure the same model twice, with the same "
            "patterns."
        )
    measures = tuple(measure for measure in run.measures if measure in other.measures)
    shared = [address for address in run.addresses if address in other.addresses]
    if not run.steps or not other.steps or not measures or not shared:
        raise ValueError(
            "The two runs cannot be compared: they must have steps, measures and attention sites in common. Measure "
            "the same model twice, with the same probe settings."
        )
    result = StabilityRun(run.model, tuple(shared), measures, run.patterns, kind="difference", stride=run.stride)
    indices, their_indices = ([each.measures.index(measure) for measure in measures] for each in (run, other))
    steps = []
    for step in run.steps:
        partner = min(other.steps, key=lambda each: abs(each.progress - step.progress))
        theirs_of = {sample.today: row for row, sample in reversed(list(enumerate(partner.samples)))}
        rows = [row for row, sample in enumerate(step.samples) if sample.today in theirs_of]
        samples = [step.samples[row] for row in rows]
        their_rows = [theirs_of[sample.today] for sample in samples]
        found = {}
        for address in shared:
            mine, theirs = step.of(address), partner.of(address)
            if samples and mine is not None and theirs is not None and mine.shape[-1] == theirs.shape[-1]:
                found[address] = mine[rows][:, indices] - theirs[their_rows][:, their_indices]
        if found:
            columns = tuple((address, each.shape[-1]) for address, each in found.items())
            values = torch.cat(list(found.values()), dim=-1)
            steps.append(Step(step.sigma, step.progress, tuple(samples), columns, values))
    if not steps:
        raise ValueError("The two runs have no sample in common; compare runs with the same batch and the same CFG.")
    result.restore(steps)
    result.status = "finished"
    if run.gamma and other.gamma:
        result.gamma = f"{run.gamma} less {other.gamma}"
    return result


@dataclass(frozen=True)
class StabilityBaseline:
    """The usual values of a model: mean and standard deviation by site, pass and tenth of the run.

    Attributes:
        model: the model the runs were of.
        patterns: what their retrieved patterns were taken of.
        measures: the measures they had in common.
        usual: `(mean, deviation)`, each `(measures,)`, by `(site, pass, tenth)`; over runs, samples and steps, of the
            mean over the heads. Only keys with two values or more.
    """

    model: str
    patterns: str
    measures: tuple[str, ...]
    usual: dict[tuple[str, str, int], tuple[Tensor, Tensor]]

    @classmethod
    def from_runs(cls, runs: Sequence[StabilityRun]) -> StabilityBaseline:
        """The baseline of some runs of one model, other prompts and seeds each.

        Raises:
            ValueError: no runs, runs of several models or of other patterns, or no measure in common.
        """
        runs = [run for run in runs if run.steps]
        kinds = {(run.model, run.patterns, run.kind) for run in runs}
        measures = tuple(name for name in runs[0].measures if all(name in run.measures for run in runs)) if runs else ()
        if len(kinds) != 1 or not measures:
            raise ValueError(
                f"A baseline needs measured runs of one model with the same patterns, but got {len(runs)} runs of "
                f"{len(kinds)} kinds; measure several seeds with the same probe."
            )
        found = defaultdict(list)
        for run in runs:
            indices = [run.measures.index(measure) for measure in measures]
            for step in run.steps:
                for address, values in step.means().items():
                    for sample, row in zip(step.samples, values[:, indices], strict=True):
                        found[address, sample.today.pass_name, _part(step)].append(row.double())
        usual = {}
        for key, rows in found.items():
            if len(rows) > 1:
                stacked = torch.stack(rows)
                usual[key] = (stacked.mean(dim=0), stacked.std(dim=0))
        return cls(runs[0].model, runs[0].patterns, measures, usual)

    def z_scores(self, run: StabilityRun) -> StabilityRun:
        """The standard deviations between every value of `run` and the usual one; one column a site, heads averaged.

        Undefined where the baseline has no value, or only equal ones.

        Raises:
            ValueError: a run of another model, of other patterns or without the measures of the baseline.
        """
        is_of_the_same = (run.model, run.patterns) == (self.model, self.patterns)
        if not is_of_the_same or not set(self.measures) <= set(run.measures):
            raise ValueError(
                f"This baseline is of {self.model} with {', '.join(self.measures)} ({self.patterns} patterns), but the "
                f"run is of {run.model} with {', '.join(run.measures)} ({run.patterns} patterns); use a baseline of "
                "the same model, measures and patterns."
            )
        indices = [run.measures.index(measure) for measure in self.measures]
        result = StabilityRun(run.model, run.sites, self.measures, run.patterns, kind="z-scores", stride=run.stride)
        result.restore([self._scored(step, indices) for step in run.steps])
        result.status, result.gamma = run.status, run.gamma
        return result

    def _scored(self, step: Step, indices: list[int]) -> Step:
        columns = []
        for address, values in step.means().items():
            rows = zip(step.samples, values[:, indices], strict=True)
            columns.append(torch.stack([self._score(address, sample, step, row) for sample, row in rows]))
        names = tuple((address, 1) for address, _ in step.columns)
        return replace(step, columns=names, values=torch.stack(columns, dim=-1), maps={})

    def _score(self, address: str, sample: Sample, step: Step, row: Tensor) -> Tensor:
        usual = self.usual.get((address, sample.today.pass_name, _part(step)))
        if usual is None:
            return torch.full_like(row, float("nan"))
        mean, deviation = usual
        return torch.where(deviation > 0, (row.double() - mean) / deviation, float("nan")).float()


def _part(step: Step) -> int:
    return min(int(step.progress * PARTS), PARTS - 1)
