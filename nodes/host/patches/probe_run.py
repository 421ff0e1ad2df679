"""The state of a probe during a sampling run and during a model call."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, field

from torch import Tensor

from ....sad_core.stability.batch import StabilityBatch
from ....sad_core.stability.run import StabilityRun
from ..live_chart import LiveChart
from .site_patch import CallState


@dataclass
class ProbedRun:
    """A sampling run that is going on.

    Attributes:
        record: where its numbers go.
        chart: the chart that shows them as they come, where a browser has one.
        level: the number of the noise level, counted from 0; `sigma` is its sigma.
        reached: whether an attention call of a chosen site was seen.
        gamma_range: the lowest and the highest γ that was at work; None while none is known.
    """

    record: StabilityRun
    chart: LiveChart | None = None
    level: int = -1
    sigma: float | None = None
    reached: bool = False
    gamma_range: tuple[float, float] | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)  # several GPUs call from several threads

    @property
    def status(self) -> str:
        """The status of the record: running, finished, interrupted, or failed with the name of the error."""
        return self.record.status

    @status.setter
    def status(self, status: str) -> None:
        self.record.status = status

    def arrive_at(self, sigma: float) -> None:
        """Count noise levels: several calls at one sigma in a row are one."""
        with self._lock:
            if sigma != self.sigma:
                self.level, self.sigma = self.level + 1, sigma

    def retrieved_with(self, gamma: float | None) -> None:
        """Keep the range of γ, and what it is called in the record; nothing once one was not known."""
        with self._lock:
            if gamma is None:
                gamma = math.nan
            low, high = self.gamma_range or (gamma, gamma)
            unknown = math.isnan(gamma) or math.isnan(low)
            low, high = self.gamma_range = (math.nan, math.nan) if unknown else (min(low, gamma), max(high, gamma))
            named = f"γ {low:.4g}" if low == high else f"γ {low:.4g} … {high:.4g}"
            self.record.gamma = "" if math.isnan(low) else named


@dataclass
class ProbeCallState(CallState):
    """One model call: what its rows are, and what was measured, still on the device.

    Attributes:
        passes: names of the passes in the batch.
        samples: how many samples a pass has in the trace.
        numbers: of these samples in the run.
        latent: height and width of the latent; 0 where it is no picture.
        batch: the sums that were taken at the sites, and what follows from them.
        found: for each attention call in order, the site and its `(index in the batch, patterns)`, one or more.
        gammas: every γ that was at work, None where it was not one number.
        maps: `(rows, height, width)` by site.
        reason: why a prompt of the call is not known; empty where all are.
        mixed: addresses of attention calls in which it is not known which rows are of which sample.
    """

    passes: tuple[str, ...] = ()
    samples: int = 1
    numbers: tuple[int, ...] = (0,)
    latent: tuple[int, int] = (0, 0)
    batch: StabilityBatch = field(default_factory=StabilityBatch)
    found: list[tuple[str, list[tuple[int, int]]]] = field(default_factory=list)
    gammas: set[float | None] = field(default_factory=set)
    maps: dict[str, Tensor] = field(default_factory=dict)
    reason: str = ""
    mixed: set[str] = field(default_factory=set)

    def rows(self, values: Tensor) -> Tensor:
        """`(B, …)` numbers of one attention call, with a row per sample of the trace.

        Video models fold frames or pixels into B, which cannot be told apart; there a pass is averaged as a whole.
        """
        passes = len(self.passes)
        if len(values) == passes * self.samples:
            return values
        parts = values.unflatten(0, (passes, -1)).mean(dim=1) if len(values) % passes == 0 else values.mean(0)[None]
        return parts.repeat_interleave(passes * self.samples // len(parts), dim=0)
