"""Choose among many samples: the steps of decisions, the number to keep, and the samples to keep."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..parameters import check_choice

STABLE, DIFFERENT, BOTH = CHOICES = ("most stable", "most different", "stable and different")


@dataclass(frozen=True)
class Round:
    """One decision of a run.

    Attributes:
        after: steps that come before it.
        keep: how many samples go on.
    """

    after: int
    keep: int


def plan_rounds(candidates: int, keep: int, decide_at: float, rounds: int, steps: int) -> tuple[Round, ...]:
    """Return the decisions of a run, in order; the last one keeps `keep` samples.

    The last one comes at `decide_at`, rounded down to whole steps, and no earlier than after the first step. The ones
    before it divide the time until then into equal parts, and the number of samples falls by equal factors. Decisions
    that come after the same step are one.

    Args:
        candidates: samples at the start.
        keep: samples at the end.
        decide_at: share of the run before the last decision, between 0 and 1.
        rounds: number of decisions.
        steps: steps of the run.

    Raises:
        ValueError: a number outside of its range.
    """
    if candidates < 1:
        raise ValueError(f'"candidates" is {candidates}, but there must be at least 1 to choose from.')
    if not 1 <= keep <= candidates:
        raise ValueError(f'"keep" is {keep}, but it must be from 1 to {candidates}, the number of candidates.')
    if not 0.0 < decide_at < 1.0:  # also NaN
        raise ValueError(f'"decide_at" is {decide_at:g}, but it must lie between 0 and 1. Try 0.3.')
    if rounds < 1:
        raise ValueError(f'"rounds" is {rounds}, but there must be at least 1.')
    if steps < 1:
        raise ValueError('"sigmas" has no step to sample. Wire the SIGMAS of a scheduler with at least one step.')
    planned: dict[int, int] = {}
    for number in range(1, rounds + 1):
        share = number / rounds
        after = max(1, math.floor(share * decide_at * steps + 1e-9))
        planned[after] = keep if number == rounds else math.ceil(candidates * (keep / candidates) ** share - 1e-9)
    return tuple(Round(after, kept) for after, kept in planned.items())


def rows_through_model(rounds: Sequence[Round], candidates: int, steps: int) -> int:
    """Return how many samples the model computes in all steps, where it is called once a step."""
    total, done, alive = 0, 0, candidates
    for each in rounds:
        total, done, alive = total + alive * (each.after - done), each.after, each.keep
    return total + alive * (steps - done)


def choose(choice: str, keep: int, stability: Tensor | None = None, distances: Tensor | None = None) -> list[int]:
    """Return the samples to keep, in their order.

    "most stable" keeps those with the highest scores, "most different" those that `most_different` finds. "stable and
    different" leaves the less stable half out, or as many of it as it may, and finds the most different of the others.

    Args:
        choice: one of `CHOICES`.
        keep: how many.
        stability: `(n,)`, higher is better; needed for "most stable" and "stable and different".
        distances: `(n, n)`; needed for "most different" and "stable and different".

    Raises:
        ValueError: an unknown choice, or a score that is not a number.
    """
    check_choice("choose", choice, CHOICES)
    if choice == STABLE:
        assert stability is not None
        return sorted(_highest(stability, keep))
    assert distances is not None
    pool = list(range(len(distances)))
    if choice == BOTH:
        assert stability is not None
        pool = sorted(_highest(stability, max(keep, (len(stability) + 1) // 2)))
    return sorted(pool[index] for index in most_different(distances[pool][:, pool], keep))


def most_different(distances: Tensor, keep: int) -> list[int]:
    """Return `keep` rows that are far from each other, in the order in which they were found.

    The first two are the pair that is farthest apart; a single one is the row whose mean distance is the largest. Then
    follows the row whose distance to the nearest of those found is the largest, again and again. Of several that are
    equal the first counts. Where the triangle inequality holds, the smallest distance among the rows is at least half
    of what any other choice reaches (Ravi, Rosenkrantz and Tayi 1994).

    Args:
        distances: `(n, n)`, symmetric, with zeros on the diagonal.
        keep: from 1 to n.

    Raises:
        ValueError: a distance that is not a number.
    """
    if distances.isnan().any():
        raise ValueError(
            "The distance between two images is not a number, because the model returned NaN for one of them. "
            "Sample it with other settings or in float32, and compare again."
        )
    if keep == 1:
        return [int(distances.mean(dim=1).argmax())]
    found = list(divmod(int(distances.argmax()), len(distances)))
    if found[0] == found[1]:  # all are alike
        found[1] = 1
    nearest = distances[found].amin(dim=0)
    while len(found) < keep:
        nearest[found] = -1.0
        found.append(int(nearest.argmax()))
        nearest = torch.minimum(nearest, distances[found[-1]])
    return found


def separations(distances: Tensor, kept: Sequence[int]) -> Tensor:
    """Return the distance of every sample to the nearest kept one other than itself: `(n, n)` → `(n,)`.

    It is infinite where there is no other.
    """
    to_kept = distances[:, list(kept)].clone()
    to_kept[list(kept), range(len(kept))] = torch.inf
    return to_kept.amin(dim=1)


def _highest(scores: Tensor, keep: int) -> list[int]:
    """Return the indices of the highest scores; of equal ones the first count.

    Raises:
        ValueError: a score that is not a number.
    """
    wrong = int(scores.isnan().sum())
    if wrong:
        raise ValueError(
            f"The stability of {wrong} of {len(scores)} candidates is not a number, so they cannot be compared. The "
            "probe did not measure them, or the model returned NaN. Check the probe's blocks, or choose another score."
        )
    return scores.argsort(descending=True, stable=True)[:keep].tolist()
