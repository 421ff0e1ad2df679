"""γ over a sampling run: a curve over progress, 0 at the first step and 1 at the last."""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from .parameters import check_choice
from .shown_text import shown

NEUTRAL_GAMMA = 1.0

# How a curve moves from one keyframe (0) to the next (1).
EASINGS: dict[str, Callable[[float], float]] = {
    "linear": lambda t: t,
    "cosine": lambda t: (1 - math.cos(math.pi * t)) / 2,
    "ease in": lambda t: t * t,
    "ease out": lambda t: t * (2 - t),
    "ease in and out": lambda t: t * t * (3 - 2 * t),
    "hold": lambda t: 0.0,
}
PRESETS = ("constant", "linear", "cosine", "ease in", "ease out", "ease in and out", "window")


def split_entries(text: str) -> list[str]:
    """Return the entries between commas, semicolons or line ends, without the empty ones."""
    return [entry.strip() for entry in re.split(r"[,;\n]", text) if entry.strip()]


def read_values(values: str | Sequence[float] | float) -> list[float]:
    """Return the numbers of a text such as `1, 1.05, 1`, of a list, or of a single number.

    Raises:
        ValueError: an entry is not a number.
    """
    entries: Sequence[Any] = [values] if isinstance(values, (int, float)) else values
    if isinstance(entries, str):
        entries = split_entries(entries)
    try:
        return [float(entry) for entry in entries]
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"values: {shown(repr(values))} is not a list of numbers. Write them as 1, 1.05, 1.") from None


def out_of_order(start_name: str, start: float, end_name: str, end: float) -> str:
    """Return the sentence for a part of the run that does not begin before it ends, or leaves the run."""
    given = f"{start_name} is {start:g} and {end_name} is {end:g}"
    return f"{given}, but {start_name} must be smaller than {end_name}, and both from 0 to 1."


@dataclass(frozen=True)
class GammaSchedule:
    """Keyframes of γ joined by one easing; before the first and after the last the curve is flat.

    Attributes:
        keyframes: `(progress, gamma)` pairs, progress in [0, 1] and rising.
        easing: one of `EASINGS`.

    Raises:
        ValueError: no keyframes, progress outside [0, 1] or not rising, a γ that is not finite, an unknown easing.
    """

    keyframes: tuple[tuple[float, float], ...]
    easing: str = "linear"

    def __post_init__(self) -> None:
        check_choice("The easing", self.easing, EASINGS)
        if not self.keyframes:
            raise ValueError("The schedule is empty. Give at least one pair (progress, gamma).")
        last = -math.inf
        for progress, gamma in self.keyframes:
            if not 0 <= progress <= 1:
                raise ValueError(f"A keyframe is at {progress:g}, but progress runs from 0 (start) to 1 (end).")
            if progress <= last:
                raise ValueError(f"A keyframe at {progress:g} follows one at {last:g}. Put keyframes in rising order.")
            if not math.isfinite(gamma):
                raise ValueError(f"γ is {gamma} at progress {progress:g}, but it must be a finite number.")
            last = progress

    def at(self, progress: float) -> float:
        """γ at `progress` in [0, 1]; outside of it the nearest end counts."""
        positions = [position for position, _ in self.keyframes]
        after = bisect_right(positions, progress)
        if after == 0:
            return self.keyframes[0][1]
        (start, gamma) = self.keyframes[after - 1]
        if after == len(self.keyframes):
            return gamma
        (stop, target) = self.keyframes[after]
        return gamma + (target - gamma) * EASINGS[self.easing]((progress - start) / (stop - start))

    def polyline(self, pieces: int = 32) -> list[tuple[float, float]]:
        """`(progress, gamma)` points from 0 to 1 that give the curve when straight lines join them.

        Exact where the curve is straight or jumps (two points at one progress); an eased piece is cut into `pieces`.
        """
        points = [(0.0, self.keyframes[0][1])]
        for (start, gamma), (stop, _) in pairwise(self.keyframes):
            if self.easing == "hold":
                points += [(start, gamma), (stop, gamma)]
            elif self.easing == "linear":
                points.append((start, gamma))
            else:
                places = (start + (stop - start) * piece / pieces for piece in range(pieces))
                points += [(place, self.at(place)) for place in places]
        points += [self.keyframes[-1], (1.0, self.keyframes[-1][1])]
        return list(dict.fromkeys(points))

    @property
    def is_neutral(self) -> bool:
        """True if γ is 1 all along, so that nothing needs to be patched."""
        return all(gamma == NEUTRAL_GAMMA for _, gamma in self.keyframes)

    @property
    def gamma_range(self) -> tuple[float, float]:
        """The lowest and the highest γ of the curve."""
        gammas = [gamma for _, gamma in self.keyframes]
        return min(gammas), max(gammas)

    @classmethod
    def from_preset(
        cls, preset: str, start_gamma: float, end_gamma: float | None = None, start: float = 0.0, end: float = 1.0
    ) -> GammaSchedule:
        """One of the named shapes.

        Args:
            preset: one of `PRESETS`. "constant" holds `start_gamma`; "window" holds it from `start` to `end` and is 1
                outside; the others move from `start_gamma` to `end_gamma` between `start` and `end`.
            start_gamma, end_gamma: γ at either end; `end_gamma` defaults to 1.
            start, end: progress in [0, 1], start before end.

        Raises:
            ValueError: an unknown preset, or start and end out of order or range.
        """
        check_choice("The preset", preset, PRESETS)
        if preset == "constant":
            return cls(((0.0, start_gamma),))
        if not 0 <= start < end <= 1:
            raise ValueError(out_of_order("start", start, "end", end))
        end_gamma = NEUTRAL_GAMMA if end_gamma is None else end_gamma
        if preset != "window":
            return cls(((start, start_gamma), (end, end_gamma)), easing=preset)
        frames = [(start, start_gamma)]
        if start > 0:
            frames.insert(0, (0.0, NEUTRAL_GAMMA))
        if end < 1:
            frames.append((end, NEUTRAL_GAMMA))
        return cls(tuple(frames), easing="hold")

    @classmethod
    def from_keyframes(cls, text: str, easing: str = "linear") -> GammaSchedule:
        """A curve from text such as `0:1, 0.3:1.05, 1:1`: progress, a colon, γ, separated by commas or lines.

        Raises:
            ValueError: no entry, one that is not `progress:gamma`, and as the class itself.
        """
        frames = []
        entries = split_entries(text)
        if not entries:
            raise ValueError("keyframes is empty. Write progress:gamma, as in 0:1, 0.3:1.05, 1:1.")
        for entry in entries:
            try:
                progress, gamma = (float(number) for number in entry.split(":"))
            except ValueError:
                raise ValueError(
                    f'The keyframe "{shown(entry)}" is not understood. Write progress:gamma, as in 0:1, 0.3:1.05, 1:1.'
                ) from None
            frames.append((progress, gamma))
        return cls(tuple(frames), easing)

    @classmethod
    def from_points(cls, points: Iterable[Sequence[float]], easing: str = "linear") -> GammaSchedule:
        """A curve through `(progress, gamma)` points, such as those of a drawn curve.

        Raises:
            ValueError: a point that is not a pair of numbers, and as the class itself.
        """
        frames = []
        for point in points:
            try:
                progress, gamma = (float(number) for number in point)
            except (TypeError, ValueError, OverflowError):
                raise ValueError(f"The point {shown(repr(point))} is not a pair (progress, gamma).") from None
            frames.append((progress, gamma))
        return cls(tuple(frames), easing)

    @classmethod
    def from_values(cls, values: Sequence[float]) -> GammaSchedule:
        """A curve through γ values spread evenly over the run, the first at progress 0, the last at 1.

        Raises:
            ValueError: no values, and as the class itself.
        """
        if not len(values):
            raise ValueError("values is empty. Write at least one γ, as in 1, 1.05, 1.")
        steps = max(len(values) - 1, 1)
        return cls.from_points((index / steps, gamma) for index, gamma in enumerate(values))
