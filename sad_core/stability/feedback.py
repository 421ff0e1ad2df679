"""γ that follows the stability of the run that is going on, for each sample by itself.

    e = how far the score of the last finished step is from its zero        below 0: less stable than normal
    d = |γ₀ − 1|                                                             γ₀: the γ without feedback
    wanted = d ± gain·deadband(e), within the bounds                         +: toward 1 where e < 0; −: away from it
    γ = 1 ± (d + what the last step had added, moved toward wanted by most_change at most)

A step has a place, a number that rises over the run. The γ of a place is decided once, by the places before it that
were measured. So a sampler that calls the model several times a step, or goes back, gets one γ a step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

from ..parameters import check_choice
from .baseline import StabilityBaseline, part_of
from .score import Key, StabilityScore, exact_mean, mean_of_values

TOWARD, AWAY = DIRECTIONS = ("toward 1", "away from 1")


@dataclass(frozen=True)
class FeedbackSettings:
    """The control law by which γ follows a score.

    Attributes:
        score: what is followed, and in which window of the run.
        gain: how far γ moves for each unit of the deviation beyond the dead band. A unit is a standard deviation of
            the baseline; without one it is the size of the measure in the first steps (root mean square over sites).
        direction: one of `DIRECTIONS`: where γ goes when a sample is less stable than its zero. It goes the other way
            when the sample is more stable.
        dead_band: deviations up to this size move nothing.
        most_change: of γ, from a step to the next.
        lowest, highest: bounds of γ. Where γ is outside without feedback, it may come back but goes no further out.
        first_steps: the steps inside the window whose mean is the zero where there is no baseline.
        fall_back: how far below its zero a score sets γ to 1 for the rest of the run; 0 means never.
        baseline: what is normal for the model, or None.

    Raises:
        ValueError: a number that is not finite or out of its range, an unknown direction, or a baseline without the
            measure or the sites of the score, or without any spread.
    """

    score: StabilityScore = field(default_factory=StabilityScore)
    gain: float = 0.05
    direction: str = TOWARD
    dead_band: float = 0.0
    most_change: float = 0.02
    lowest: float = -2.0
    highest: float = 3.0
    first_steps: int = 3
    fall_back: float = 0.0
    baseline: StabilityBaseline | None = None

    def __post_init__(self) -> None:
        check_choice("direction", self.direction, DIRECTIONS)
        for name in ("gain", "dead_band", "most_change", "fall_back"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name):g}, but it must be 0 or more.")
        if not -math.inf < self.lowest <= self.highest < math.inf:
            raise ValueError(
                f"lowest_gamma is {self.lowest:g} and highest_gamma {self.highest:g}, but they must be finite and in "
                "order."
            )
        if self.first_steps < 1:
            raise ValueError(f"first_steps is {self.first_steps}, but it must be 1 or more.")
        if self.baseline is not None:
            self._check(self.baseline)

    def _check(self, baseline: StabilityBaseline) -> None:
        if self.score.measure not in baseline.measures:
            raise ValueError(
                f'measure is "{self.score.measure}", but the baseline has only {", ".join(baseline.measures)}. Choose '
                "one of these, or make a baseline with this measure."
            )
        if not any(self.score.wants(site) for site in baseline.sites[1:]):
            raise ValueError(
                f'sites is "{self.score.sites}", but the baseline has none of these sites. It has '
                f"{', '.join(baseline.sites[1:])}."
            )
        if not self.normal:
            raise ValueError(
                f"The baseline has no spread of {self.score.measure}, so distances from normal cannot be measured "
                f"(images in it: {baseline.samples}). Add a run with other seeds to it."
            )

    @cached_property
    def normal(self) -> dict[tuple[str, str, int], tuple[float, float]]:
        """Signed mean and standard deviation of the score's sites by site, pass and tenth of the run."""
        baseline = self.baseline
        if baseline is None:
            return {}
        column = baseline.measures.index(self.score.measure)
        means, deviations = (table[..., column].tolist() for table in (baseline.mean, baseline.deviation))
        found = {}
        for row, site in enumerate(baseline.sites):
            if row and self.score.wants(site):
                for place, name in enumerate(baseline.passes):
                    for part, deviation in enumerate(deviations[row][place]):
                        if math.isfinite(deviation):
                            found[site, name, part] = (self.score.signed * means[row][place][part], deviation)
        return found

    def describe(self) -> str:
        """Return the settings in one line."""
        zero = "the baseline" if self.baseline else f"the first {self.first_steps} steps"
        window = (
            ""
            if (self.score.start, self.score.end) == (0, 1)
            else (f" from {self.score.start:.0%} to {self.score.end:.0%} of the run")
        )
        fall_back = f", back to 1 at {self.fall_back:g} units less stable than normal" if self.fall_back else ""
        return (
            f"γ follows {self.score.describe()}{window}, compared with {zero}: gain {self.gain:g}, direction "
            f"{self.direction}, dead band {self.dead_band:g}, at most {self.most_change:g} per step, γ from "
            f"{self.lowest:g} to {self.highest:g}{fall_back}"
        )


class State(NamedTuple):
    """The state of feedback for one sample.

    Attributes:
        added: to the distance of γ from 1.
        fallen: whether γ is 1 from here on.
    """

    added: float = 0.0
    fallen: bool = False


@dataclass
class Observed:
    """The measurements at one site: the progress of the run, and the values of each evaluation."""

    progress: float
    evaluations: list[dict[Key, float]]


class SampleFeedback:
    """The feedback of one sample over one sampling run."""

    def __init__(self, settings: FeedbackSettings, observed: dict[float, Observed] | None = None):
        """Begin with the settings, and with what was measured; several that share a sample share `observed` too."""
        self.settings = settings
        self._observed = {} if observed is None else observed  # by place
        self._states: dict[float, State] = {}
        self._zero: tuple[float, float] | None = None  # of the first steps, decided once

    def observe(self, place: float, progress: float, values: Mapping[Key, float]) -> None:
        """Take what an evaluation at a place gave; several at one place count as their mean.

        Args:
            place: of the step.
            progress: of the evaluation. Outside the window it is not taken.
            values: as `StabilityScore.values` gives them for this sample.
        """
        if self.settings.score.is_inside(progress):
            self._observed.setdefault(place, Observed(progress, [])).evaluations.append(dict(values))

    def deviation(self, place: float) -> float | None:
        """Return how far the score at a measured place is from its zero; None where that is not known."""
        observed = self._observed[place]
        values = mean_of_values(observed.evaluations)
        if self.settings.baseline is not None:
            return self._from_normal(values, part_of(observed.progress))
        zero, unit = self._zero_at(place)
        found = exact_mean(values.values())
        return (found - zero) / unit if unit > 0 and math.isfinite(found - zero) else None

    def _zero_at(self, place: float) -> tuple[float, float]:
        """Return the mean score and the size of the measure in the first steps; NaN where they do not lie before."""
        if self._zero is None:
            first = sorted(self._observed)[: self.settings.first_steps]
            if len(first) < self.settings.first_steps or place <= first[-1]:
                return math.nan, math.nan
            before = [mean_of_values(self._observed[each].evaluations) for each in first]
            zero = exact_mean([exact_mean(each.values()) for each in before])
            size = math.sqrt(exact_mean([value * value for each in before for value in each.values()]))
            self._zero = zero, size
        return self._zero

    def _from_normal(self, values: Mapping[Key, float], part: int) -> float | None:
        scores = []
        for (site, name), value in values.items():
            known = self.settings.normal.get((site, name, part))
            if known is not None:
                scores.append((value - known[0]) / known[1])
        return exact_mean(scores) if scores else None

    def state(self, place: float, without: float) -> State:
        """Return where γ is at a place, decided when it is first asked for.

        Args:
            place: of the step.
            without: γ there without feedback.
        """
        chain = [place]  # back to the last place that is decided
        while chain[-1] not in self._states:
            before = [each for each in self._observed if each < chain[-1]]
            if before:
                chain.append(max(before))
            else:
                self._states[chain[-1]] = State()
        for earlier, later in pairwise(reversed(chain)):
            self._states[later] = self._moved(self._states[earlier], self.deviation(earlier), without)
        return self._states[place]

    def _moved(self, state: State, deviation: float | None, without: float) -> State:
        settings = self.settings
        if state.fallen or deviation is None:
            return state
        if settings.fall_back and deviation < -settings.fall_back:
            return State(state.added, fallen=True)
        beyond = math.copysign(max(0.0, abs(deviation) - settings.dead_band), deviation)
        pull = settings.gain * beyond if settings.direction == TOWARD else -settings.gain * beyond
        wanted = abs(self._with(pull, without) - 1.0) - abs(without - 1.0) if pull else 0.0
        change = min(max(wanted - state.added, -settings.most_change), settings.most_change)
        return State(state.added + change)

    def _with(self, added: float, without: float) -> float:
        """Return the γ whose distance from 1 is larger by `added`, on the same side of it and within the bounds."""
        gamma = 1.0 + math.copysign(max(0.0, abs(without - 1.0) + added), without - 1.0)
        return min(max(gamma, min(self.settings.lowest, without)), max(self.settings.highest, without))

    def gamma(self, place: float, progress: float, without: float) -> float:
        """Return γ for a model call.

        Args:
            place: of its step.
            progress: how far the run is. Outside the window γ is as it is without feedback, or 1 after falling back.
            without: γ without feedback. 1 stays 1.
        """
        if without == 1.0:
            return without
        state = self.state(place, without)
        if state.fallen:
            return 1.0
        if state.added == 0 or not self.settings.score.is_inside(progress):
            return without
        return self._with(state.added, without)
