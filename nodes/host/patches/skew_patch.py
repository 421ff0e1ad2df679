"""Skew attention on a ModelPatcher: a chained override at every chosen site, and the record of each sampling run.

The function at a site puts our override into the `transformer_options` of that call only. Overrides of other packs stay
in the slot and are called by ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ....sad_core.kernels.choice import constant_in_graphs
from ....sad_core.kernels.eligibility import has_kernel
from ....sad_core.kernels.operation import fallbacks_of_graphs
from ..browser import log_and_show
from ..model_calls import SiteTally, UnreadCall
from ..models.site_call import SiteCall
from ..models.sites import Site
from ..noise_level import NoiseLevel
from ..painted import RunMask
from ..prompts import UNREAD, CallPrompts
from ..run_report import RunRecord, SkewReport
from ..settings import NEUTRAL, SkewSettings
from .attention_backend import HostAttention, allows_triton
from .feedback_patch import feedback_of
from .given_keys import GivenKeys
from .object_patches import Forward
from .observer import Observer
from .override_context import CallLog, OverrideContext
from .site_patch import CallState, SitePatch
from .skew_override import SkewOverride
from .slots import OVERRIDE


@dataclass
class SkewCallState(CallState):
    """The state of one model call; active inside the window, where a pass wants γ.

    Attributes:
        context: what the overrides of this model call share.
        marks: ComfyUI's `cond_or_uncond` marks of the call, for the record.
        prompts: the prompts of the call; none where γ acts on all of them.
        interrupted: what each tally held of the model call in which this one is made, such as that of a ControlNet or
            a guider; empty where there is none.
    """

    context: OverrideContext | None = None
    marks: tuple[int, ...] = ()
    prompts: CallPrompts = UNREAD
    interrupted: Sequence[tuple[int, set[str]]] = ()


class SkewPatch(SitePatch):
    """Skew attention on one loaded model: its settings, its sites and the run that is going on."""

    handle: SkewReport
    run: RunRecord | None
    state: SkewCallState

    def __init__(self, settings: SkewSettings, sites: list[Site], report: SkewReport, node_id: str | None):
        super().__init__(sites, report, node_id, SkewCallState())
        self.settings = settings
        self.reads_prompts = settings.apply_to != "both" or settings.mask is not None
        self.mask = None if settings.mask is None else RunMask(settings.mask)
        self.attention = HostAttention(self._fell_back)
        self.constant_gammas = settings.constant_gammas
        self.tallies: list[SiteTally] = []
        self.fallbacks_in_graphs: set[str] = set()

    def for_model(self) -> SkewPatch:
        """Return the same patch for another module: same settings, same report, state of its own."""
        return SkewPatch(self.settings, self.sites, self.handle, self.node_id)

    def _begin_run(self) -> RunRecord:
        run = self.handle.begin(self.model_name, [site.address for site in self.sites], self.settings.apply_to)
        if self.settings.remark:
            run.remarks.append(f"Warning: {self.settings.remark}")
        return run

    def _end_run(self, run: RunRecord) -> None:
        if self.mask is not None:
            self.mask.forget()
        self.attention.forget_refusals()  # every run asks its backend again and records its own fallbacks
        for sentence in [*fallbacks_of_graphs(), *sorted(self.fallbacks_in_graphs)]:
            run.fell_back(sentence)
        log_and_show(run.describe(), self.node_id, warning=run.warning is not None)

    def _join(self, run: RunRecord | None) -> None:
        super()._join(run)
        self.attention.forget_refusals()

    def _begin_call(self, level: NoiseLevel, x: Tensor, options: Mapping[str, Any]) -> SkewCallState:
        gammas, feedback, followed = self.constant_gammas, feedback_of(self, options), None
        if gammas is None:
            gammas = self.settings.gammas_at(level.progress)
        if feedback is not None:
            followed = feedback.row_gammas(self.handle, level, x, options, gammas.image)
        if followed is not None:
            gammas = gammas._replace(image=followed.furthest)
        prompts = UNREAD if self.settings.apply_to == "both" else self._prompts_of(options, x)
        active = self.settings.acts_in(prompts.chunks) and gammas != NEUTRAL
        painted = self.mask.of_call(options, x) if active and self.mask is not None else None
        active = active and (self.mask is None or painted is not None)
        # Filled on the device: a number that is copied there waits for it.
        gamma_tensor = torch.full((), gammas.image, dtype=torch.float32, device=x.device) if active else None
        asks_kernel = active and allows_triton() and has_kernel(x.device)
        log = CallLog(self.run)
        context = OverrideContext(
            self.settings, self.attention, gammas, gamma_tensor, prompts.chunks, asks_kernel, log, followed, painted
        )
        marks = tuple(options.get("cond_or_uncond", ()))
        interrupted: list[tuple[int, set[str]]] = []
        if self.state.context is not None:
            interrupted = [(tally.calls, set(tally.backends)) for tally in self.tallies]
            self._clear_tallies()
        keys = GivenKeys.read(options, self.settings.act_where_unverified)
        return SkewCallState(active, keys=keys, context=context, marks=marks, prompts=prompts, interrupted=interrupted)

    def _end_call(self, level: NoiseLevel) -> None:
        call, context = self.state, self.state.context
        if self.run is None or context is None:
            return
        adaptive = context.log.adaptive
        adapted = tuple([(address, eta.shape[0]) for address, eta, _ in adaptive])
        etas, gammas = [eta for _, eta, _ in adaptive], [gamma for _, _, gamma in adaptive]
        numbers = torch.cat(etas + gammas).detach() if adaptive else None
        by_sample = () if context.followed is None else context.followed.by_sample
        calls = sum([tally.calls for tally in self.tallies])
        unread = UnreadCall(level, context.gammas, call.marks, calls, adapted, numbers, call.prompts, by_sample)
        self.run.add(unread, self.tallies)

    def _leave_call(self, ended: SkewCallState) -> None:
        self._clear_tallies()
        for tally, (calls, backends) in zip(self.tallies, ended.interrupted, strict=False):
            tally.calls = calls
            tally.backends.update(backends)

    def _clear_tallies(self) -> None:
        for tally in self.tallies:
            tally.calls = 0
            tally.backends.clear()

    def _remark(self, sentence: str) -> None:
        if self.run is not None and sentence not in self.run.remarks:
            self.run.remarks.append(sentence)

    def _fell_back(self, sentence: str) -> None:
        if torch.compiler.is_compiling():
            self._falls_back_in_graphs(sentence)
        elif self.run is not None:
            self.run.fell_back(sentence)

    @constant_in_graphs
    def _falls_back_in_graphs(self, sentence: str) -> None:
        """Keep a sentence about a graph that is being compiled, for this run and all later ones.

        The record of the run has no part in a graph: what it holds would be one of the conditions of the graph.
        """
        self.fallbacks_in_graphs.add(sentence)

    def _at_site(self, site: Site, forward: Forward) -> Forward:
        """Return `forward` with our override in the options of the call."""
        tally = SiteTally(site.address)
        self.tallies.append(tally)
        rule = site.rule

        def skewed_forward(module: Any, /, *args: Any, **kwargs: Any) -> Any:
            options, context = kwargs.get("transformer_options"), self.state.context
            if not self.state.active or context is None:
                return forward(module, *args, **kwargs)
            if not isinstance(options, dict):
                context.log.left_alone("the model called the block without transformer_options", site)
                return forward(module, *args, **kwargs)
            if self.state.keys.reason or (rule.keys is not None and kwargs.get(rule.keys) is not None):
                reason = self.state.keys.reason_at(rule, args, kwargs)
                if reason:
                    context.log.left_alone(reason, site)
                    return forward(module, *args, **kwargs)
            slot = options.get(OVERRIDE)
            # A probe stays outside, so that it measures what really leaves the site.
            probe = slot.innermost if isinstance(slot, Observer) else None
            previous = slot if probe is None else probe.previous
            if isinstance(previous, SkewOverride):
                # A later Skew Attention node has chosen this site too and wins; ours are the samples it does not want.
                previous.earlier.append(SkewOverride(context, site, previous.call, previous.previous, tally))
                return forward(module, *args, **kwargs)
            override = SkewOverride(context, site, SiteCall(args, kwargs, self.state.seen_lengths), previous, tally)
            if probe is not None:
                probe.previous = override
                return forward(module, *args, **kwargs)
            return forward(module, *args, **{**kwargs, "transformer_options": {**options, OVERRIDE: override}})

        return skewed_forward
