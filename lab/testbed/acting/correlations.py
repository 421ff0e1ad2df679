"""The relation of a run's stability to its image: rank correlations, the predictor that other seeds chose, and a gate.

The candidates of `best_of` are single seeds here. A score is the mean of a measure over a group of sites and the first
steps of the run: 6 measures, 4 groups, 4 times. Of 96 scores some correlate with anything by chance. So those of all
sites and the whole run are reported with Bonferroni's correction, and of all 96 only the best on the choice seeds.

The gate of *Best Of Sampler* goes on with a seed only where its score reaches a threshold. Here that is the score which
one in eight of the choice seeds of a class reaches, by the node's default measure and time.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any

import torch
from torch import Tensor

from lab.evidence.bootstrap import Estimate, bootstrap, correlation
from lab.evidence.results import rounded
from lab.evidence.stability_and_quality import plain_correlation
from lab.testbed.acting.best_of import USUAL, Kept, targets
from lab.testbed.acting.records import SITES
from lab.testbed.acting.reference import Reference
from lab.testbed.arms import STEPS
from lab.testbed.gates import nearest
from lab.testbed.scores import as_changes
from sad_core.stability.score import SIGNS

ALL_SITES = list(SITES).index("all")
LET_THROUGH = 1 / 8


def correlations(choice: Kept, figures: Kept, reference: Reference) -> dict[str, Any]:
    """Every number of the part, as JSON. All correlations are within classes."""
    (chosen_on, about), (drawn, _) = choice, figures
    looked = [targets(tensors, reference) for tensors in (chosen_on, drawn)]
    aims_there, aims = (aims_of(each, reference) for each in looked)
    there, labels = (each["label"] for each in looked)
    measures, after = about["measures"], about["after"]
    whole_run = drawn["scores"][:, after.index(STEPS), ALL_SITES]
    ranks = {
        measure: as_changes(
            {aim: correlation(scores, numbers, labels, ranks=True) for aim, numbers in aims.items()},
            len(measures) * len(aims),
        )
        for measure, scores in zip(measures, whole_run.mT, strict=True)
    }
    chosen = {}
    for aim, numbers in aims.items():
        time, site, column = best_score(chosen_on["scores"], aims_there[aim], there)
        score_there, score = (tensors["scores"][:, time, site, column] for tensors in (chosen_on, drawn))
        chosen[aim] = {
            "score": f"{measures[column]}, {list(SITES)[site]} sites, first {after[time]} steps",
            "where it was chosen": round(plain_correlation(score_there, aims_there[aim], there), 4),
            "here": rounded(correlation(score, numbers, labels)),
        }
    measure, steps = USUAL
    of_choice, of_figures = (
        SIGNS[measure] * tensors["scores"][:, after.index(steps), ALL_SITES, measures.index(measure)]
        for tensors in (chosen_on, drawn)
    )
    passed = of_figures >= thresholds(of_choice, there)[labels]
    gate = {aim: rounded(through_gate(passed, numbers, labels)) for aim, numbers in aims.items()}
    share = float(passed.double().mean())
    return {"images": len(labels), "ranks": ranks, "chosen": chosen, "gate": {"share": round(share, 4), "gain": gate}}


def aims_of(looked: Mapping[str, Tensor], reference: Reference) -> dict[str, Tensor]:
    """The numbers (N,) that stability may tell of each sample."""
    aims = {name: looked[name] for name in ("judge", "density")}
    return aims | {"distance to the nearest test image": nearest(looked["features"], reference.test)}


def thresholds(scores: Tensor, labels: Tensor) -> Tensor:
    """(classes,): the score that one in eight of the seeds (N,) of each class reaches."""
    return torch.stack([scores[labels == label].quantile(1 - LET_THROUGH) for label in labels.unique()])


def through_gate(passed: Tensor, numbers: Tensor, labels: Tensor) -> Estimate:
    """The mean of the numbers (n,) of what passes less that of all, the mean over the classes (n,)."""
    counts = labels.unique(return_counts=True)[1].tolist()

    def of_rows(rows: Tensor) -> Tensor:
        kept, values = (each.double()[rows].split(counts, dim=1) for each in (passed, numbers))
        gains = [
            (open_ * own).sum(dim=1) / open_.sum(dim=1) - own.mean(dim=1)
            for open_, own in zip(kept, values, strict=True)
        ]
        return torch.stack(gains).mean(dim=0)

    return bootstrap(of_rows, labels)


def best_score(scores: Tensor, numbers: Tensor, labels: Tensor) -> tuple[int, int, int]:
    """Time, group and measure of the score (N, times, groups, measures) that correlates most with the numbers (N,)."""

    def strength(place: tuple[int, int, int]) -> float:
        time, site, column = place
        return abs(plain_correlation(scores[:, time, site, column], numbers, labels))

    _, times, sites, columns = scores.shape
    return max(product(range(times), range(sites), range(columns)), key=strength)
