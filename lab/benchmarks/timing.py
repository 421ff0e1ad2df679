"""Timing several ways of doing a thing in turn, so that what disturbs the machine disturbs all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any

Work = Callable[[], Any]


@dataclass(frozen=True)
class Timing:
    """Seconds of one way, and their ratio to the first way, round by round.

    Attributes:
        seconds: the median over the rounds.
        ratio: the median over the rounds of (this way / the first way) in the same round.
        low, high: the quartiles of that.
    """

    seconds: float
    ratio: float
    low: float
    high: float


def compare(ways: Mapping[str, Work], rounds: int) -> dict[str, Timing]:
    """Each way `rounds` times, one after the other in every round, after one round nobody looks at.

    Every second round goes backwards, so that no way always follows the same other one. The first way is what the
    others are compared with.
    """
    for work in ways.values():
        work()
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        for name, work in reversed(list(ways.items())) if number % 2 else ways.items():
            started = time.perf_counter()
            work()
            taken[name].append(time.perf_counter() - started)
    base = next(iter(taken.values()))
    timings = {}
    for name, seconds in taken.items():
        ratios = [one / other for one, other in zip(seconds, base, strict=True)]
        low, _, high = quantiles(ratios, n=4, method="inclusive") if rounds > 1 else ratios * 3
        timings[name] = Timing(median(seconds), median(ratios), low, high)
    return timings
