"""The records of probes, as tensors: scores by the part of the run that was seen, and tables that fit in a file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sad_core.stability.run import StabilityRun
from sad_core.stability.step import Sample, Step

SITES = {"all": "", "down": "input", "middle": "middle", "up": "output"}  # groups, as a score names them


def scores_of(run: Any, after: Sequence[int]) -> Tensor:
    """The score of every sample, measure and group of sites, after some numbers of steps.

    The same as `StabilityScore.of_run` of the steps until then, without the sign and for all samples at once.

    Args:
        run: a `StabilityRun` of N samples, every step kept.
        after: numbers of steps, rising.

    Returns:
        (N, times, groups, measures) float64, in the order of `after`, SITES and the run's measures.
    """
    by_step = []
    for step in run.steps:
        addresses = [address for address, _ in step.columns]
        rows = torch.tensor([sample.number for sample in step.samples])
        count = int(rows.max()) + 1
        by_group = []
        for site in SITES.values():
            inside = [
                place for place, address in enumerate(addresses) if f"{address}.".startswith(f"{site}." * bool(site))
            ]
            values = step.averages[inside].double().mean(dim=0)  # (rows, measures)
            of_samples = torch.zeros(count, values.shape[-1], dtype=torch.float64).index_add_(0, rows, values)
            by_group.append(of_samples / torch.bincount(rows)[:, None])
        by_step.append(torch.stack(by_group, dim=1))
    summed = torch.stack(by_step, dim=1).cumsum(dim=1)
    return torch.stack([summed[:, steps - 1] / steps for steps in after], dim=1)


def table_of(run: Any) -> Tensor:
    """The means over heads of every step, (steps, sites, rows, measures), float32."""
    table: Tensor = torch.stack([step.averages for step in run.steps])
    return table


def about_run(run: Any) -> dict[str, Any]:
    """The values that `run_of` needs beside the table, as JSON: of one sample's rows where a run has many."""
    first = run.steps[0]
    return {
        "model": run.model,
        "sites": list(run.addresses),
        "measures": list(run.measures),
        "patterns": run.patterns,
        "tokens": run.tokens,
        "levels": [[step.sigma, step.progress] for step in run.steps],
        "passes": list(dict.fromkeys(sample.pass_name for sample in first.samples)),
    }


def by_sample(run: Any) -> Tensor:
    """`table_of` with the rows as (samples, passes): (steps, sites, samples, passes, measures)."""
    passes = len(about_run(run)["passes"])
    table: Tensor = table_of(run).unflatten(2, (passes, -1)).transpose(2, 3)
    return table


def run_of(table: Tensor, about: dict[str, Any]) -> StabilityRun:
    """A `StabilityRun` of some samples, one column a site: (steps, sites, samples, passes, measures)."""
    run = StabilityRun(about["model"], tuple(about["sites"]), tuple(about["measures"]), about["patterns"])
    samples = tuple(Sample(name, number) for number in range(table.shape[2]) for name in about["passes"])
    columns = tuple((address, 1) for address in about["sites"])
    steps = [
        Step(sigma, progress, samples, columns, values.flatten(1, 2).permute(1, 2, 0).contiguous())
        for (sigma, progress), values in zip(about["levels"], table, strict=True)
    ]
    run.restore(steps)
    run.status, run.tokens = "finished", about["tokens"]
    return run
