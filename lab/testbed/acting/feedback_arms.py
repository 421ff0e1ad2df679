"""The settings of feedback that are tried, and the static γ that are drawn to match their drift."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from lab.testbed.arms import Use, skew, use

STATIC = (0.9, 1.1, 1.2, 1.3, 1.4, 1.5, 1.75, 2.0, 2.5, 3.0)
STRONG = 2.0  # the γ that falling back is tried on
TENTH = 0.1  # the share of samples that is to fall back
THRESHOLDS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0)
# Room to move in ten steps.
FREE = {"gain": 0.2, "dead_band": 0.0, "most_change": 0.25, "lowest_gamma": 0.5, "highest_gamma": 3.0}


def feedback(**inputs: Any) -> Use:
    """*Stability Feedback (SAD)* with these inputs."""
    return use("SADStabilityFeedback", **inputs)


def arms(baseline: Any) -> dict[str, tuple[Use, ...]]:
    """The arms by name; the baseline is that of the plain model."""
    found: dict[str, tuple[Use, ...]] = {"defaults on γ 1.2": (skew(gamma=1.2), feedback())}
    for measure in ("alignment", "instability", "energy"):
        for direction in ("toward 1", "away from 1"):
            own = feedback(measure=measure, direction=direction, baseline=baseline, **FREE)
            found[f"{measure}, {direction}, on γ 1.5"] = (skew(gamma=1.5), own)
    return found


def falling_back(threshold: float, baseline: Any) -> tuple[Use, ...]:
    """γ 2 that goes to 1 for a sample whose alignment falls so many deviations below normal, and nothing else."""
    return (skew(gamma=STRONG), feedback(gain=0.0, fall_back=threshold, baseline=baseline))


def gamma_of_drift(drift: float, known: Sequence[tuple[float, float]]) -> float:
    """The γ above 1 at which the drift is this one, on straight lines through (γ, drift), from (1, 0) on.

    Beyond the last known γ it is that one.
    """
    points = [(1.0, 0.0), *sorted(pair for pair in known if pair[0] > 1)]
    for (gamma, low), (next_gamma, high) in pairwise(points):
        if low <= drift <= high and high > low:
            return round(gamma + (next_gamma - gamma) * (drift - low) / (high - low), 3)
    return points[-1][0]
