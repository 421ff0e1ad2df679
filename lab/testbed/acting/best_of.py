"""Best of eight: what choosing early by a score is worth, and choosing the most different ones.

Every candidate was drawn to its end once, and the choices are made as the node makes them, from what was known after
some steps. What the node keeps of a run equals what the seed gives by itself, so no run has to be drawn twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor

from lab.evidence.bootstrap import Estimate, mean, of_set
from lab.evidence.measures import manifold
from lab.evidence.measures.kernel_distance import kernel_distance
from lab.evidence.measures.sets import BLOCK
from lab.evidence.measures.vendi import vendi
from lab.evidence.results import rounded
from lab.testbed.acting.records import SITES
from lab.testbed.acting.reference import Reference
from lab.testbed.acting.seeds import CANDIDATES, groups
from lab.testbed.arms import STEPS
from lab.testbed.frechet import frechet_distance
from lab.testbed.model import classes_of
from sad_core.evaluation.selection import BOTH, DIFFERENT, Round, choose, rows_through_model
from sad_core.stability.score import SIGNS

KEEP_DIFFERENT = 2
USUAL = ("alignment", 3)  # the defaults of *Best of N Seeds*: the measure, and 30 % of the run
Kept = tuple[Mapping[str, Tensor], Any]  # the tensors of a part, and what is said about them


def images_worth(after: int, keep: int) -> float:
    """The number of whole runs that the model computes where eight begin and `keep` go on after some steps."""
    return rows_through_model([Round(after, keep)], CANDIDATES, STEPS) / STEPS


def gains(scores: Tensor, numbers: Tensor) -> Tensor:
    """The number of the candidate with the highest score, less the mean of the group: (G, 8) and (G, 8) -> (G,).

    The first of equal ones is taken.
    """
    return numbers.gather(1, scores.argmax(dim=1, keepdim=True)).squeeze(1) - numbers.mean(dim=1)


def best_of(choice: Kept, figures: Kept, reference: Reference) -> dict[str, Any]:
    """Every number of the part, as JSON."""
    (chosen_on, about), (drawn, _) = choice, figures
    measures, after = about["measures"], about["after"]
    looked = [targets(tensors, reference) for tensors in (chosen_on, drawn)]
    places, labels = groups(len(drawn["pixels"])), looked[1]["label"]
    of_groups = labels[places[:, 0]]
    scores = [_by_group(tensors["scores"]) for tensors in (chosen_on, drawn)]
    result: dict[str, Any] = {"groups": len(places), "random": {}, "one of eight": []}
    for target in ("judge", "density"):
        numbers = [each[target] for each in looked]
        grouped = [_by_group(each) for each in numbers]
        result["random"][target] = rounded(mean(grouped[1].mean(dim=1), of_groups))
        result["one of eight"].append(
            {"by": f"the {target} itself", "target": target, "after": STEPS}
            | {"worth": float(CANDIDATES), "gain": rounded(mean(gains(grouped[1], grouped[1]), of_groups))}
        )
        for time, steps in enumerate(after):
            row = {"target": target, "after": steps, "worth": images_worth(steps, 1)}
            for column, measure in enumerate(measures):
                signed = SIGNS[measure] * scores[1][:, :, time, 0, column]
                gain = rounded(mean(gains(signed, grouped[1]), of_groups))
                result["one of eight"].append({"by": measure, **row, "gain": gain})
            site, column, sign = _best_predictor(scores[0][:, :, time], grouped[0])
            gain = rounded(mean(gains(sign * scores[1][:, :, time, site, column], grouped[1]), of_groups))
            by = f"{'highest' if sign > 0 else 'lowest'} {measures[column]}, {list(SITES)[site]} sites (chosen)"
            result["one of eight"].append({"by": by, **row, "gain": gain})
    features = looked[1]["features"]
    result["fréchet"] = _frechet(scores[1], measures, after, places, features, of_groups, reference)
    result["two of eight"] = _most_different(drawn, scores[1], measures, after, places, looked[1], reference)
    return result


def all_rounded(found: Mapping[str, Estimate]) -> dict[str, list[float]]:
    """Every estimate as JSON, by name."""
    return {name: rounded(each) for name, each in found.items()}


def of_whole_groups(measure: Callable[[Tensor], float], keep: int) -> Callable[[Tensor], float]:
    """A measure of groups (n,) from one of samples (n · keep,), where `keep` successive samples are of one group."""
    return lambda chosen: measure((chosen[:, None] * keep + torch.arange(keep)).flatten())


def targets(tensors: Mapping[str, Tensor], reference: Reference) -> dict[str, Tensor]:
    """The class, the guide's features, the judge's probability and the density of each sample of a part."""
    labels = classes_of(range(len(tensors["pixels"])))  # the first seed of a part is a multiple of ten
    features = reference.features(tensors["pixels"])
    judge = reference.probability(tensors["pixels"], labels)
    return {"label": labels, "features": features, "judge": judge, "density": reference.density(features)}


def _by_group(numbers: Tensor) -> Tensor:
    """(N, …) -> (N / 8, 8, …)."""
    return numbers[groups(len(numbers))]


def _best_predictor(scores: Tensor, numbers: Tensor) -> tuple[int, int, int]:
    """Group of sites, measure and sign with the largest mean gain: (G, 8, sites, measures) and (G, 8)."""
    options = product(range(scores.shape[2]), range(scores.shape[3]), (1, -1))
    return max(options, key=lambda each: float(gains(each[2] * scores[:, :, each[0], each[1]], numbers).mean()))


def _frechet(
    scores: Tensor,
    measures: Sequence[str],
    after: Sequence[int],
    places: Tensor,
    features: Tensor,
    labels: Tensor,
    reference: Reference,
) -> list[dict[str, Any]]:
    """Fréchet distance of what one of eight leaves, less that of as many random ones. After three steps only."""

    def distance(rows: Tensor) -> Estimate:
        return of_set(frechet_distance(features[rows], reference.everything), labels)

    random = distance(places[:, 0])
    found: list[dict[str, Any]] = [{"by": "random", "value": rounded(random)}]
    for column, measure in enumerate(measures):
        best = (SIGNS[measure] * scores[:, :, after.index(USUAL[1]), 0, column]).argmax(dim=1)
        kept = distance(places.gather(1, best[:, None]).squeeze(1))
        found.append({"by": measure, "after": USUAL[1], "change": rounded(kept - random)})
    return found


def _most_different(
    drawn: Mapping[str, Tensor],
    scores: Tensor,
    measures: Sequence[str],
    after: Sequence[int],
    places: Tensor,
    looked: Mapping[str, Tensor],
    reference: Reference,
) -> list[dict[str, Any]]:
    """Two of eight by difference, beside two random ones, and beside as many random ones as cost as much."""
    features, labels = looked["features"], looked["label"]

    def of_rows(rows: Tensor, size: int) -> dict[str, Estimate]:
        """Measures of (G, keep) places, in blocks of `size` a class. Groups are resampled as a whole."""
        own, some, of_groups = labels[rows.flatten()], features[rows.flatten()], labels[rows[:, 0]]
        sets = {
            "recall": manifold.recall(some, own, reference.test, size=size),
            "coverage": manifold.coverage(some, own, reference.test, size=size),
            "vendi": vendi(some, own, size=size),
            "kernel": kernel_distance(some, reference.test),
        }
        found = {name: of_set(of_whole_groups(measure, rows.shape[1]), of_groups) for name, measure in sets.items()}
        found |= {name: mean(looked[name][rows].mean(dim=1), of_groups) for name in ("judge", "density")}
        return found

    # Halves of the seeds have to hold a block of each class, whatever is kept of a group.
    size = min(BLOCK, len(places) // len(labels.unique()) // 2 * KEEP_DIFFERENT)
    two = of_rows(places[:, :2], size)
    found = [{"by": "random", "worth": 2.0, "kept": 2, "measures": all_rounded(two)}]
    alignment = measures.index("alignment")
    for time, steps in enumerate(after[:-1]):
        worth = images_worth(steps, KEEP_DIFFERENT)
        as_many = round(worth)
        same_calls = of_rows(places[:, :as_many], size * as_many // KEEP_DIFFERENT)
        found.append({"by": "random", "worth": float(as_many), "kept": as_many, "measures": all_rounded(same_calls)})
        for choice in (DIFFERENT, BOTH):
            rows = torch.tensor(
                [
                    choose(choice, KEEP_DIFFERENT, stable, distances)
                    for stable, distances in zip(
                        scores[:, :, time, 0, alignment], drawn["distances"][:, time], strict=True
                    )
                ]
            )
            measured = of_rows(places.gather(1, rows), size)
            less_random = {name: each - two[name] for name, each in measured.items()}
            found.append(
                {"by": choice, "after": steps, "worth": worth, "kept": 2}
                | {"measures": all_rounded(measured), "change": all_rounded(less_random)}
            )
    return found
