"""The pairs of arms that answer the questions of README.md. All choices are made on the choice seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

from torch import Tensor

from lab.testbed.arms import PLAIN, Arm, skew

DEFAULTS = "γ, β 3 1.05"  # the arm with the defaults of Skew Attention
TEMPERATURES = ("temperature of attention", "temperature among pixels")  # the second where text is in the stream
STATIC = ("γ", "γ, β 3", "γ, β 5")
ON_TOP = "γ on top of "
GAMMAS_ON_TOP = (0.5, 0.8, 1.2, 1.5, 2.0)
EQUAL_WITHIN = 0.25  # of two drifts that are said to be equal, as a share of the first


@dataclass(frozen=True)
class Pair:
    """Two arms of one sampler, by name: the change from `against` to `arm` answers a question (its number)."""

    question: int
    arm: str
    against: str


def is_ours(knob: str) -> bool:
    """Return whether a knob is γ or a part of it, under the first sampler and not on top of a rival."""
    return knob.startswith("γ") and not knob.startswith(ON_TOP) and not is_stochastic(knob)


def is_rival(knob: str) -> bool:
    """Return whether a knob is a rival under the first sampler."""
    return not knob.startswith("γ") and knob != PLAIN.knob and not is_stochastic(knob)


def is_stochastic(knob: str) -> bool:
    """Return whether a knob was tried under the second sampler."""
    return knob.endswith(", ancestral")


def best_of(planes: Mapping[str, Tensor], picked: Mapping[str, str], wanted: Callable[[str], bool]) -> str | None:
    """The name of the most diverse of the arms chosen of some knobs; None if there is none.

    Args:
        planes: of the choice seeds; see `results.plane_of`.
        picked: the arm chosen of each knob.
        wanted: whether a knob counts.
    """
    names = [name for knob, name in picked.items() if wanted(knob)]
    return max(names, key=lambda name: float(planes[name][0, 1]), default=None)


def on_top_arms(rival: Arm) -> tuple[Arm, ...]:
    """γ on top of a rival's chosen strength: the rival's nodes, then *Skew Attention (SAD)* with β 1."""
    knob = f"{ON_TOP}{rival.name}"
    return tuple(
        replace(
            rival, name=f"γ {gamma:g} on top of {rival.name}", knob=knob, strength=gamma,
            uses=(*rival.uses, skew(gamma=gamma)),
        )
        for gamma in GAMMAS_ON_TOP
    )  # fmt: skip


def pairs(
    planes: Mapping[str, Tensor],
    drifts: Mapping[str, float],
    picked: Mapping[str, str],
    arms: Sequence[Arm],
    best_rival: str | None = None,
) -> Iterator[Pair]:
    """The pairs that questions 3, 4, 5, 7 and 9 ask about.

    Args:
        planes: of the choice seeds, by arm.
        drifts: of the same, by arm; those of one size are said to drift equally.
        picked: the arm chosen of each knob.
        arms: all of them.
        best_rival: the arm of the best rival, if it was chosen before; None chooses it.
    """
    of_knob = {arm.knob: [each for each in arms if each.knob == arm.knob and each.name in drifts] for arm in arms}
    for arm, knob in product(of_knob.get("γ", []), TEMPERATURES):
        if other := nearest(arm, of_knob.get(knob, []), drifts):
            yield Pair(3, arm.name, other.name)
    ours, rival = (best_of(planes, picked, wanted) for wanted in (is_ours, is_rival))
    if ours:
        yield from (Pair(4, ours, name) for knob, name in picked.items() if is_rival(knob))
    if rival := best_rival or rival:
        yield from (Pair(5, arm.name, rival) for arm in arms if arm.knob == f"{ON_TOP}{rival}")
    static = [arm for knob in STATIC for arm in of_knob.get(knob, [])]
    for arm in of_knob.get("γ, adaptive", []):
        if other := nearest(arm, static, drifts):
            yield Pair(7, arm.name, other.name)
    if ours and DEFAULTS in drifts and ours != DEFAULTS:
        yield Pair(9, ours, DEFAULTS)


def nearest(arm: Arm, others: Iterable[Arm], drifts: Mapping[str, float]) -> Arm | None:
    """The arm among others that drifts most nearly as far as an arm; None where none drifts within a quarter of it."""
    drift = drifts[arm.name]
    near = [other for other in others if abs(drifts[other.name] - drift) <= EQUAL_WITHIN * drift]
    return min(near, key=lambda other: abs(drifts[other.name] - drift), default=None)
