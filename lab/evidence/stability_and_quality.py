"""The relation of the stability of a run to its picture: correlations, and the best of eight seeds.

Each of the five measures is averaged over a group of sites and a window of steps: 5 · 4 · 4 predictors. With so many,
some correlate with anything by chance. So the table of all sites and steps is shown whole, and of all predictors the
best one is chosen on the even seeds (with its sign) and judged on the odd ones, which it has never seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor

from lab.evidence.bootstrap import Estimate, correlation, of_set
from lab.evidence.results import Results, rounded
from lab.evidence.sampling import Samples, categories_of
from lab.evidence.settings import Setting
from lab.evidence.stability import MEASURES

GROUPS = ("all", "down", "middle", "up")
WINDOWS = {"all": (0.0, 1.0), "early": (0.0, 1 / 3), "middle": (1 / 3, 2 / 3), "late": (2 / 3, 1.0)}
FIDELITY = ("probability", "density/imagenet/unseen", "nearest unseen/imagenet", "mixture/pixels", "patchwork/pixels")
DIVERSITY = ("distance to others/imagenet", "distance to others/pixels")
SELECTED = ("probability", "density/imagenet/unseen")  # higher is better: what the best of eight is chosen for
CHOICE = 8


@dataclass(frozen=True)
class Predictor:
    """A measure averaged over a group of sites and a window of the run."""

    measure: str
    group: str
    window: str

    def __str__(self) -> str:
        return f"{self.measure}, {self.group} sites, {self.window} steps"

    def of(self, samples: Samples) -> Tensor:
        """(n,) from the (n, steps, sites, measures) of the samples."""
        assert samples.stability is not None
        steps = samples.stability.shape[1]
        first, last = (round(share * steps) for share in WINDOWS[self.window])
        sites = [place for place, site in enumerate(samples.sites) if self.group in ("all", site.split(".")[0])]
        chosen = samples.stability[:, first:last, sites, MEASURES.index(self.measure)]
        return chosen.double().mean(dim=(1, 2))


PREDICTORS = tuple(Predictor(*choice) for choice in product(MEASURES, GROUPS, WINDOWS))


def stability_and_quality(results: Results, setting: Setting, count: int) -> dict[str, Any]:
    """Everything about one measured setting, as JSON."""
    samples, labels = results.store.load(setting, count), categories_of(range(count))
    measures = results.measured(setting, count)
    targets = {name: (measures.samples | measures.others)[name] for name in FIDELITY + DIVERSITY}
    table = {
        measure: {
            target: {
                kind: rounded(correlation(whole, numbers, labels, ranks=kind == "spearman"))
                for kind in ("pearson", "spearman")
            }
            for target, numbers in targets.items()
        }
        for measure in MEASURES
        for whole in [Predictor(measure, "all", "all").of(samples)]
    }
    even = torch.arange(count) // 3 % 2 == 0  # three seeds in a row are the three categories
    return {
        "setting": setting.name,
        "count": count,
        "correlations": table,
        "chosen": {name: _chosen(samples, numbers, labels, even) for name, numbers in targets.items()},
        "best of 8": {
            name: _best_of(samples, targets[name], {other: targets[other] for other in SELECTED}, labels, even)
            for name in SELECTED
        },
    }


def _choose(samples: Samples, numbers: Tensor, labels: Tensor, rows: Tensor) -> tuple[Predictor, float]:
    """The predictor that correlates most with the numbers on some seeds, and its sign there."""
    found = {each: plain_correlation(each.of(samples)[rows], numbers[rows], labels[rows]) for each in PREDICTORS}
    best = max(found, key=lambda each: abs(found[each]))
    return best, 1.0 if found[best] >= 0 else -1.0


def _chosen(samples: Samples, numbers: Tensor, labels: Tensor, even: Tensor) -> dict[str, Any]:
    predictor, _ = _choose(samples, numbers, labels, even)
    values = predictor.of(samples)
    return {
        "predictor": str(predictor),
        "chosen on": round(plain_correlation(values[even], numbers[even], labels[even]), 4),
        "judged on": rounded(correlation(values[~even], numbers[~even], labels[~even])),
    }


def _best_of(
    samples: Samples, numbers: Tensor, targets: dict[str, Tensor], labels: Tensor, even: Tensor
) -> dict[str, Any]:
    """Mean of the numbers where the predictor picks one of eight seeds, less the mean of all; and of other targets."""
    predictor, sign = _choose(samples, numbers, labels, even)
    values, judged, own = sign * predictor.of(samples)[~even], numbers[~even], labels[~even]
    by_chance = best_of(torch.zeros_like(values), judged, own)
    others = {name: other[~even] for name, other in targets.items() if other is not numbers}
    return {
        "predictor": f"{'highest' if sign > 0 else 'lowest'} {predictor}",
        "random": rounded(by_chance),
        "gain": rounded(best_of(values, judged, own) - by_chance),
        "largest possible gain": rounded(best_of(judged, judged, own) - by_chance),
        "gain of the others": {
            name: rounded(best_of(values, other, own) - best_of(torch.zeros_like(values), other, own))
            for name, other in others.items()
        },
    }


def plain_correlation(left: Tensor, right: Tensor, labels: Tensor) -> float:
    """Pearson's, both relative to the mean of their category; 0 where nothing varies."""
    left, right = (
        values - torch.stack([values[labels == label].mean() for label in labels.tolist()])
        for values in (left.double(), right.double())
    )
    size = float((left.square().sum() * right.square().sum()).sqrt())
    return float((left * right).sum()) / size if size else 0.0


def best_of(predictor: Tensor, numbers: Tensor, labels: Tensor, choice: int = CHOICE) -> Estimate:
    """`mean_of_best` over categories (n,); an order statistic, so its interval is that of a set (see bootstrap.py)."""

    def of_rows(rows: Tensor) -> float:
        own = (rows[labels[rows] == category] for category in labels[rows].unique())
        means = [mean_of_best(predictor[places], numbers[places].double(), choice) for places in own]
        return sum(means) / len(means)

    return of_set(of_rows, labels)


def mean_of_best(predictor: Tensor, numbers: Tensor, choice: int) -> float:
    """Mean number (n,) of the seed with the highest predictor (n,) among `choice` random ones.

    The mean over all C(n, choice) sets without drawing them: the seed of rank r (1 is the lowest) is the highest of
    C(r − 1, choice − 1) of them. Equal predictors share their weights, so a constant one gives the plain mean.
    """
    values, order = predictor.sort()
    ties = (values[:, None] == values).double()
    weights = ties @ (rank_weights(len(values), choice) / ties.sum(dim=1))
    return float((weights * numbers[order]).sum())


def rank_weights(count: int, choice: int) -> Tensor:
    """(count,): how likely each rank is the highest of `choice` ranks drawn without replacement; sums to 1."""
    ranks = torch.arange(count, dtype=torch.float64)

    def log_choose(n: Tensor) -> Tensor:  # ln n! / (n − choice + 1)!, the constant left out
        return torch.lgamma(n + 1) - torch.lgamma(n - choice + 2)

    weights = torch.where(ranks >= choice - 1, log_choose(ranks.clamp_min(choice - 1)), -torch.inf)
    return weights.softmax(dim=0)
