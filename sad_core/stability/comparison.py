"""Two runs against each other."""

from __future__ import annotations

import torch

from .run import StabilityRun
from .step import Step


def difference(run: StabilityRun, other: StabilityRun) -> StabilityRun:
    """`run` − `other`, step by step: every step of `run` less the step of `other` that is nearest in progress.

    Sites, heads, samples and measures that only one of the two has are left out.

    Raises:
        ValueError: runs of different models or patterns, one without steps, or no measure, site or sample in common.
    """
    if (run.model, run.patterns, run.kind) != (other.model, other.patterns, other.kind):
        raise ValueError(
            f"A run of {run.model} with {run.patterns} patterns ({run.kind}) cannot be compared with one of "
            f"{other.model} with {other.patterns} patterns ({other.kind}). Measure the same model twice, with the "
            "same patterns."
        )
    measures = tuple(measure for measure in run.measures if measure in other.measures)
    shared = [address for address in run.addresses if address in other.addresses]
    if not run.steps or not other.steps or not measures or not shared:
        raise ValueError(
            "The two runs cannot be compared, because they have no steps, measures or attention sites in common. "
            "Measure the same model twice, with the same probe settings."
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
        raise ValueError("The two runs have no sample in common. Compare runs with the same batch and the same CFG.")
    result.restore(steps)
    result.status = "finished"
    if run.gamma and other.gamma:
        result.gamma = f"{run.gamma} minus {other.gamma}"
    return result
