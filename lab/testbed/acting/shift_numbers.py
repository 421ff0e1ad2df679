"""The share of runs of which the sentence on a shift is said: of unchanged runs, and of runs of altered models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from scipy.stats import binomtest
from torch import Tensor

from lab.testbed.acting.best_of import Kept
from lab.testbed.acting.records import run_of
from lab.testbed.acting.reference import Reference
from sad_core.stability.baseline import StabilityBaseline
from sad_core.stability.shift import Shift, shifts

RUN = 8  # images in a run
BASELINES = (32, 160, 960)  # images in a baseline


def shift_numbers(unchanged: Kept, altered: Kept, reference: Reference) -> dict[str, Any]:
    """Every rate of the part, as JSON: by the size of the baseline, then by model."""
    (tables, about), (others, _) = unchanged, altered
    models = {"unchanged": tables["unchanged"], **others}
    result: dict[str, Any] = {"images in a run": RUN, "baselines": []}
    for count in sorted({min(each, tables["baseline"].shape[2]) for each in BASELINES}):
        baseline = StabilityBaseline.from_runs([run_of(tables["baseline"][:, :, :count], about)])
        rates = {name: _rates(baseline, table, about) for name, table in models.items()}
        result["baselines"].append({"images": count, "chance": round(baseline.chance, 4), "models": rates})
        print(f"shift: a baseline of {count} images measured", flush=True)
    return result


def _rates(baseline: StabilityBaseline, table: Tensor, about: dict[str, Any]) -> dict[str, Any]:
    """The share of values outside and the share of runs called shifted, by measure, and by any of them."""
    found = [shifts(baseline, run_of(some, about)) for some in table.split(RUN, dim=2) if some.shape[2] == RUN]
    by_measure = {each.measure: [run[place] for run in found] for place, each in enumerate(found[0])}
    rates = {measure: _of_measure(each) for measure, each in by_measure.items()}
    called = sum(any(each.is_shifted for each in run) for run in found)
    return {"runs": len(found), "any measure": _share(called, len(found)), "measures": rates}


def _of_measure(found: Sequence[Shift]) -> dict[str, Any]:
    outside = torch.tensor([each.share for each in found]).double()
    return {
        "outside": round(float(outside.mean()), 4),
        "called shifted": _share(sum(each.is_shifted for each in found), len(found)),
    }


def _share(count: int, of: int) -> list[float]:
    """A share with its 95 % interval (Wilson)."""
    interval = binomtest(count, of).proportion_ci(method="wilson")
    return [round(float(each), 4) for each in (count / of, interval.low, interval.high)]
