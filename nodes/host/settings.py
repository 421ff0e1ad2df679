"""The settings that a user chose, frozen before anything is patched."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from ...sad_core import NORMS, GammaSchedule, StabilityBaseline
from ...sad_core.parameters import check_choice
from ...sad_core.schedule import out_of_order
from ...sad_core.stability.measures import DEFAULT_MEASURES, TRACE_MEASURES
from .painted import PaintedMask
from .prompts import NEGATIVE, POSITIVE, Prompt

ADAPTIVE_MODES = ("off", "gamma", "gamma and beta")
APPLY_TO = ("both", "cond", "uncond")
PATTERNS = ("value", "input")
LOWEST_GAMMA, HIGHEST_GAMMA = -2.0, 3.0  # of the widgets; wires and texts may carry others
SIDE_OF = {"cond": POSITIVE, "uncond": NEGATIVE}  # a choice of `APPLY_TO`, and the prompts it means


class Gammas(NamedTuple):
    """γ of one model call: among the image tokens; in joint attention also among all others, and between the two."""

    image: float = 1.0
    text: float = 1.0
    cross: float = 1.0


NEUTRAL = Gammas()


def beyond_range(*gammas: float) -> str | None:
    """Return a sentence, without its full stop, about a γ that no widget takes; None where all are within the range."""
    far = max(gammas, key=lambda gamma: abs(gamma - (LOWEST_GAMMA + HIGHEST_GAMMA) / 2))
    if LOWEST_GAMMA <= far <= HIGHEST_GAMMA:
        return None
    return (
        f"γ {far:g} is outside the range of the widgets, {LOWEST_GAMMA:g} to {HIGHEST_GAMMA:g}, and has not been tested"
    )


@dataclass(frozen=True)
class SkewSettings:
    """The widgets of one Skew Attention node.

    Attributes:
        gamma_schedule: γ over progress.
        beta: blending, 1 is the pure knob.
        adaptive: one of `ADAPTIVE_MODES`.
        norm: one of `sad_core.NORMS`; joint sites use "value" where "projected" or "input" was asked for.
        start, end: the part of the run, in progress, where anything happens; `end` itself is outside unless it is 1.
        apply_to: one of `APPLY_TO`.
        gamma_text, gamma_cross: γ in joint attention among the tokens beside the image, and between those and the
            image, constant from `start` to `end`. `gamma_schedule` and `adaptive` drive only the γ among image tokens.
        act_where_unverified: whether γ also acts where it is not verified that queries and keys are the same tokens: in
            a model that no rule knows, and beside functions of other nodes that may hand over other keys.
        mask: where in the picture γ acts; everywhere where it is None.

    Raises:
        ValueError: no schedule, β or a γ not finite, start and end out of order, a value that is not among the named
            ones, or a mask beside a γ of the text.
    """

    gamma_schedule: GammaSchedule
    beta: float = 1.0
    adaptive: str = "off"
    norm: str = "value"
    start: float = 0.0
    end: float = 1.0
    apply_to: str = "both"
    gamma_text: float = 1.0
    gamma_cross: float = 1.0
    act_where_unverified: bool = False
    mask: PaintedMask | None = None

    def __post_init__(self) -> None:
        if self.mask is not None and self.is_modal:
            raise ValueError(
                f"A mask is connected, gamma_text is {self.gamma_text:g} and gamma_cross is {self.gamma_cross:g}, but "
                "a mask changes only gamma. Set both to 1, or remove the mask."
            )
        if not isinstance(self.gamma_schedule, GammaSchedule):
            given = type(self.gamma_schedule).__name__
            raise ValueError(f"schedule is a {given}, but it must be the output of Gamma Schedule (SAD).")
        for name in ("beta", "gamma_text", "gamma_cross"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"{name} is {getattr(self, name)}, but it must be a finite number.")
        if not 0 <= self.start < self.end <= 1:
            raise ValueError(out_of_order("start_percent", self.start, "end_percent", self.end))
        check_choice("adaptive", self.adaptive, ADAPTIVE_MODES)
        check_choice("norm", self.norm, NORMS)
        check_choice("apply_to", self.apply_to, APPLY_TO)

    @property
    def is_neutral(self) -> bool:
        """True if the settings leave the model unchanged, so that nothing needs to be patched."""
        nothing_painted = self.mask is not None and self.mask.is_empty
        return (self.gamma_schedule.is_neutral and not self.is_modal) or self.beta == 0.0 or nothing_painted

    @property
    def is_modal(self) -> bool:
        """True if joint attention has its own γ for text tokens or across."""
        return (self.gamma_text, self.gamma_cross) != (1.0, 1.0)

    def acts_in(self, prompts: Iterable[Prompt]) -> bool:
        """Return whether γ acts on the rows of one of these prompts. True if it acts on all prompts."""
        return self.apply_to == "both" or any(map(self.wants, prompts))

    def wants(self, prompt: Prompt) -> bool:
        """Return whether γ acts on the rows of this prompt."""
        return self.apply_to == "both" or SIDE_OF[self.apply_to] in prompt.sides

    def gammas_at(self, progress: float) -> Gammas:
        """Return γ for a model call: from the schedule and the two of joint attention inside the window, 1 outside."""
        inside = self.start <= progress and (progress < self.end or self.end == 1)
        return Gammas(self.gamma_schedule.at(progress), self.gamma_text, self.gamma_cross) if inside else NEUTRAL

    @property
    def remark(self) -> str | None:
        """A sentence, without its full stop, about a γ beyond the range of the widgets; None where there is none."""
        return beyond_range(*self.gamma_schedule.gamma_range, self.gamma_text, self.gamma_cross)

    @property
    def constant_gammas(self) -> Gammas | None:
        """The γ of every model call where they do not depend on the progress, else None."""
        low, high = self.gamma_schedule.gamma_range
        return self.gammas_at(0.0) if low == high and (self.start, self.end) == (0, 1) else None

    def describe(self) -> str:
        """The settings in one line, for the plan."""
        low, high = self.gamma_schedule.gamma_range
        gamma = f"γ {low:g}" if low == high else f"γ {low:g} … {high:g} by the schedule"
        if self.is_modal:
            gamma += f", gamma_text {self.gamma_text:g}, gamma_cross {self.gamma_cross:g}"
        window = "" if (self.start, self.end) == (0, 1) else f" from {self.start:.0%} to {self.end:.0%} of the run"
        passes = "" if self.apply_to == "both" else f", {self.apply_to} only"
        adaptive = "" if self.adaptive == "off" else f", adaptive {self.adaptive}"
        painted = "" if self.mask is None else f", {self.mask.describe()}"
        return f"{gamma}{window}, β {self.beta:g}, norm {self.norm}{adaptive}{passes}{painted}"


@dataclass(frozen=True)
class ProbeSettings:
    """The settings of one Stability Probe node.

    Attributes:
        measures: which of `TRACE_MEASURES`.
        every: every how many noise levels, from the first; 1 means all.
        patterns: one of `PATTERNS`: what the retrieved patterns are taken of. "input" is the block's normalised input,
            the paper's choice; sites whose input cannot be seen are measured by "value".
        mapped: addresses of the sites whose alignment is also kept by place in the picture.
        act_where_unverified: as in `SkewSettings`, for what is measured.
        baseline: what is normal for the model, for the chart; or None.

    Raises:
        ValueError: no measure, `every` below 1, or a value that is not among the named ones.
    """

    measures: tuple[str, ...] = DEFAULT_MEASURES
    every: int = 1
    patterns: str = "value"
    mapped: tuple[str, ...] = ()
    act_where_unverified: bool = False
    baseline: StabilityBaseline | None = None

    def __post_init__(self) -> None:
        for measure in self.measures:
            check_choice("measure", measure, TRACE_MEASURES)
        if not self.measures:
            raise ValueError(f"measures is empty. Choose some of {', '.join(TRACE_MEASURES)}.")
        check_choice("patterns", self.patterns, PATTERNS)
        if self.every < 1:
            raise ValueError(f"every_nth_step is {self.every}, but it must be 1 or more.")
