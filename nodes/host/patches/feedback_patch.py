"""A probe whose measures decide the γ of the next step: Stability Feedback on a ModelPatcher.

It measures as a Stability Probe does. Skew Attention nodes on the same model get γ from it when a model call begins,
whatever the order of the nodes. A step is known by its noise level, the index of the sigma in the sigmas of the run. So
a sampler that calls the model several times a step, or goes back, gets one γ a step.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from comfy.patcher_extension import WrappersMP, get_wrappers_with_key
from torch import Tensor

from ....sad_core import StabilityTrace
from ....sad_core.stability.feedback import FeedbackSettings, Observed, SampleFeedback
from ....sad_core.stability.run import StabilityRun
from ....sad_core.stability.step import Sample, step_of
from ..live_chart import GAMMA, LiveChart
from ..models.sites import Site
from ..noise_level import NoiseLevel
from ..prompts import NO_GUIDER, NO_IDS, OTHER_ROWS
from ..rows import numbers_of
from ..run_report import SkewReport
from ..settings import ProbeSettings
from .probe_patch import ProbePatch
from .probe_run import ProbeCallState, ProbedRun
from .row_gammas import RowGammas
from .side_runs import KEY
from .site_patch import MOST_SAMPLES, SitePatch

FEEDBACK = "Stability Feedback (SAD)"
UNKNOWN_ROWS = (NO_GUIDER, NO_IDS, OTHER_ROWS)  # reasons for which rows are not of known samples
SAME_SIGMA = 1e-5  # share by which two sigmas of one step may differ
NOTHING_FOLLOWS = (
    "No Skew Attention (SAD) acted on this model in this run, so feedback changed nothing. Put a Skew Attention (SAD) "
    f"with a gamma other than 1 before or after {FEEDBACK}."
)
NOT_BY_SAMPLE = "γ did not follow the measure in some model calls, because it is not known to which images they belong"


@dataclass
class FollowedRun(ProbedRun):
    """A sampling run whose γ follows its stability.

    Attributes:
        settings: how.
        sigmas: of the steps of the run, in its order, on the CPU; empty where nobody tells, None before the first call.
        lock: for those that come from several GPUs.
        observed: what was measured, by the number of the sample and the place of the step.
        followers: the feedback of every Skew Attention node, by the identity of its report, and by sample.
        gammas: γ in the last model call by the number of the sample, of the node that asked last.
        is_asked: whether any Skew Attention node asked for γ, also where it got none.
    """

    settings: FeedbackSettings = field(default_factory=FeedbackSettings)
    sigmas: list[float] | None = None
    lock: Any = field(default_factory=threading.Lock, repr=False)
    observed: dict[int, dict[float, Observed]] = field(default_factory=dict)
    followers: dict[tuple[int, int], SampleFeedback] = field(default_factory=dict)
    gammas: dict[int, float] = field(default_factory=dict)
    is_asked: bool = False

    def read_sigmas(self, options: Mapping[str, Any]) -> None:
        """Take the sigmas of the run from the options of its first model call; this waits for the device once."""
        with self.lock:
            if self.sigmas is None:
                given = options.get("sample_sigmas")
                self.sigmas = given.tolist() if isinstance(given, Tensor) else []

    def place_of(self, sigma: float) -> float:
        """Return the place of a noise level in the run; it rises from step to step.

        It is the number of sigmas of the run that are at least as noisy. Where the run has told no sigmas, every
        noise level is a step.
        """
        sigmas = self.sigmas or []
        if len(sigmas) < 2:
            return -sigma
        if sigmas[0] < sigmas[-1]:  # noise is added, as where an image is turned back into its noise
            return float(bisect_right(sigmas, sigma * (1 + SAME_SIGMA)))
        return float(bisect_right(sigmas, -sigma * (1 - SAME_SIGMA), key=lambda each: -each))

    def feedback_of(self, report: SkewReport, sample: int) -> SampleFeedback:
        """Return the feedback of one sample for the node with this report."""
        found = self.followers.get((id(report), sample))
        if found is None:
            shared = self.observed.setdefault(sample, {})
            found = self.followers[id(report), sample] = SampleFeedback(self.settings, shared)
        return found


class FeedbackPatch(ProbePatch):
    """Feedback on one loaded model: what it follows, its sites and the run that is going on."""

    run: FollowedRun | None

    def __init__(
        self,
        feedback: FeedbackSettings,
        settings: ProbeSettings,
        sites: list[Site],
        trace: StabilityTrace,
        node_id: str | None,
        notes: list[str],
    ):
        super().__init__(settings, sites, trace, node_id, notes)
        self.feedback = feedback

    def for_model(self) -> FeedbackPatch:
        """Return the same feedback for another module: same settings, same trace, state of its own."""
        return FeedbackPatch(self.feedback, self.settings, self.sites, self.handle, self.node_id, self.notes)

    def _charted(self) -> tuple[str, ...]:
        return (*self.settings.measures, GAMMA)

    def _new_run(self, record: StabilityRun, chart: LiveChart | None) -> FollowedRun:
        return FollowedRun(record, chart, settings=self.feedback)

    def _end_run(self, run: Any) -> None:
        if run.status == "finished" and run.reached and not run.is_asked:
            run.record.note(NOTHING_FOLLOWS)
        super()._end_run(run)

    def row_gammas(
        self, report: SkewReport, level: NoiseLevel, x: Tensor, options: Mapping[str, Any], without: float
    ) -> RowGammas | None:
        """Return γ for the rows of a model call; None where it is not known which sample they are of.

        Args:
            report: of the Skew Attention node that asks.
            level, x, options: of the model call.
            without: γ without feedback.
        """
        run, prompts, rows = self.run, self._prompts_of(options, x), len(x)
        passes = len(prompts.chunks)
        if run is not None:
            run.is_asked = True
        if run is None or prompts.reason in UNKNOWN_ROWS or rows % passes or rows > MOST_SAMPLES:
            self._remark(NOT_BY_SAMPLE)
            return None
        run.read_sigmas(options)
        with run.lock:
            place = run.place_of(level.sigma)
            run.gammas = {
                number: run.feedback_of(report, number).gamma(place, level.progress, without)
                for number in numbers_of(options, rows, passes, MOST_SAMPLES)
            }
        return RowGammas.of(tuple(run.gammas.values()), passes, without, x.device)

    def _begin_call(self, level: NoiseLevel, x: Tensor, options: Mapping[str, Any]) -> ProbeCallState:
        if self.run is not None:
            self.run.read_sigmas(options)
        return super()._begin_call(level, x, options)

    def _record(
        self,
        run: Any,
        level: NoiseLevel,
        samples: Sequence[Sample],
        values: Mapping[str, Tensor],
        maps: Mapping[str, Tensor],
    ) -> None:
        by_sample = self.state.reason not in UNKNOWN_ROWS and len(samples) <= MOST_SAMPLES
        is_of_call = by_sample and tuple(run.gammas) == self.state.numbers  # empty where no Skew Attention asked
        gammas = [run.gammas[sample.number] for sample in samples] if is_of_call else ()
        run.record.record(level.sigma, level.progress, samples, values, maps, gammas)
        own = {address: each for address, each in values.items() if address not in self.state.mixed}
        if by_sample and own:
            step = step_of(level.sigma, level.progress, samples, own)
            scored = self.feedback.score.values(step, self.settings.measures)
            with run.lock:
                place = run.place_of(level.sigma)
                for number, found in scored.items():
                    observed = run.observed.setdefault(number, {})
                    SampleFeedback(self.feedback, observed).observe(place, level.progress, found)


def feedback_of(patch: SitePatch, options: Mapping[str, Any]) -> FeedbackPatch | None:
    """Return the feedback on the model of a patch, with the run that is going on; the last one of several nodes.

    Args:
        patch: of a Skew Attention node.
        options: of a model call. Where the model is on several GPUs, the patch that has the run is in them.
    """
    patcher = getattr(patch.own_model, "current_patcher", None)
    if patcher is None:
        return None
    here = [each.__self__ for each in patcher.get_wrappers(WrappersMP.OUTER_SAMPLE, KEY)]
    handles = [each.handle for each in here if isinstance(each, FeedbackPatch)]
    calling = get_wrappers_with_key(WrappersMP.APPLY_MODEL, KEY, options) if handles else []
    for handle in reversed(handles):
        for each in [wrapper.__self__ for wrapper in calling]:
            if isinstance(each, FeedbackPatch) and each.handle is handle and each.run is not None:
                return each
    return None
