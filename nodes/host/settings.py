"""What a user asked for, frozen before anything is patched."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ...sad_core import NORMS, GammaSchedule
from ...sad_core.parameters import check_choice

ADAPTIVE_MODES = ("off", "gamma", "gamma and beta")
APPLY_TO = ("both", "cond", "uncond")
# ComfyUI's `cond_or_uncond` marks a chunk of the batch with 0 for cond and 1 for uncond.
CHUNK_MARK = {"cond": 0, "uncond": 1}


@dataclass(frozen=True)
class SkewSettings:
    """The widgets of one Skew Attention node.

    Attributes:
        schedule: γ over progress.
        beta: blending, 1 is the pure knob.
        adaptive: one of `ADAPTIVE_MODES`.
        norm: one of `sad_core.NORMS`; joint sites use "value" where "projected" or "input" was asked for.
        start, end: the part of the run, in progress, where anything happens; `end` itself is outside unless it is 1.
        apply_to: one of `APPLY_TO`.

    Raises:
        ValueError: no schedule, β not finite, start and end out of order, or a value that is not among the named ones.
    """

    schedule: GammaSchedule
    beta: float = 1.0
    adaptive: str = "off"
    norm: str = "value"
    start: float = 0.0
    end: float = 1.0
    apply_to: str = "both"

    def __post_init__(self) -> None:
        if not isinstance(self.schedule, GammaSchedule):
            raise ValueError(
                f"schedule is a {type(self.schedule).__name__}, but it must be the output of Gamma Schedule (SAD)."
            )
        if not math.isfinite(self.beta):
            raise ValueError(f"beta is {self.beta}, but it must be a finite number.")
        if not 0 <= self.start < self.end <= 1:
            raise ValueError(
                f"start_percent is {self.start:g} and end_percent {self.end:g}, but they must be in order within 0 … 1."
            )
        check_choice("adaptive", self.adaptive, ADAPTIVE_MODES)
        check_choice("norm", self.norm, NORMS)
        check_choice("apply_to", self.apply_to, APPLY_TO)

    @property
    def is_neutral(self) -> bool:
        """Whether the model comes out as it went in, so that nothing needs to be patched."""
        return self.schedule.is_neutral or self.beta == 0.0

    def wants(self, mark: int) -> bool:
        """Whether a chunk with this mark of ComfyUI's `cond_or_uncond` is to be changed."""
        return self.apply_to == "both" or mark == CHUNK_MARK[self.apply_to]

    def gamma_at(self, progress: float) -> float:
        """γ of a model call: the schedule's inside the window, 1 outside."""
        inside = self.start <= progress and (progress < self.end or self.end == 1)
        return self.schedule.at(progress) if inside else 1.0

    def describe(self) -> str:
        """The settings in one line, for the plan."""
        low, high = self.schedule.gamma_range
        gamma = f"γ {low:g}" if low == high else f"γ {low:g} … {high:g} by the schedule"
        window = "" if (self.start, self.end) == (0, 1) else f" from {self.start:.0%} to {self.end:.0%} of the run"
        chunks = "" if self.apply_to == "both" else f", {self.apply_to} alone"
        adaptive = "" if self.adaptive == "off" else f", adaptive {self.adaptive}"
        return f"{gamma}{window}, β {self.beta:g}, norm {self.norm}{adaptive}{chunks}"
