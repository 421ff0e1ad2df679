"""Measuring the stability of retrievals while a model samples, without changing a bit of what it computes.

The function at a site puts an observer into the `transformer_options` of that call. The observer stays outside of all
that changes the attention, so it sees the model's own queries and keys and the retrieval that really left the site. At
the site it takes only sums over the tokens. At the end of the model call the measures of all sites follow from them
together, and go to the CPU together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ....sad_core import StabilityTrace, token_alignment
from ....sad_core.stability.batch import StabilityBatch
from ....sad_core.stability.run import StabilityRun
from ....sad_core.stability.step import Sample
from ..browser import log, show_on_node
from ..live_chart import LiveChart, charts
from ..memory import is_out_of_memory
from ..models.site_call import SiteCall
from ..models.site_rules import NOT_SAME_TOKENS, OF_OTHERS
from ..models.sites import Site
from ..noise_level import NoiseLevel
from ..picture import image_size, token_grid
from ..rows import numbers_of
from ..run_origin import current_origin
from ..settings import ProbeSettings
from .attention_backend import may_be_last_queries
from .given_keys import GivenKeys
from .object_patches import Forward
from .observer import ObservedCall, Observer
from .probe_measures import gamma_of, input_patterns
from .probe_run import ProbeCallState, ProbedRun
from .site_patch import MOST_SAMPLES, SitePatch
from .skew_override import SkewOverride
from .slots import OVERRIDE

PROBE = "Stability Probe (SAD)"
LARGEST_MAP = 64  # rows and columns of a map; larger ones are averaged down
UNCERTAIN = (
    "in some heads depth may be off by more than 0.001 and relative curvature by more than 0.01, so ignore small "
    "differences in them."
)
PADDED = "the samples have different numbers of tokens, and the padding would be measured with them"
NOTHING_REACHED = (
    "No attention site was reached, so nothing was measured. Another patch probably replaces the attention of these "
    "blocks. Remove that patch, or choose other blocks."
)


class ProbePatch(SitePatch):
    """A probe on one loaded model: its settings, its sites and the run that is going on."""

    acts_outside_runs = False
    undescribed = "the summary of this run's measurements could not be written"

    handle: StabilityTrace
    run: ProbedRun | None
    state: ProbeCallState

    def __init__(
        self, settings: ProbeSettings, sites: list[Site], trace: StabilityTrace, node_id: str | None, notes: list[str]
    ):
        super().__init__(sites, trace, node_id, ProbeCallState())
        self.settings = settings
        self.notes = notes

    def for_model(self) -> ProbePatch:
        """Return the same probe for another module: same settings, same trace, state of its own."""
        return ProbePatch(self.settings, self.sites, self.handle, self.node_id, self.notes)

    def _begin_run(self) -> ProbedRun:
        addresses = tuple(site.address for site in self.sites)
        measures, patterns = self.settings.measures, self.settings.patterns
        record = StabilityRun(
            self.model_name, addresses, measures, patterns, notes=list(self.notes), origin=current_origin()
        )
        run = self._new_run(record, charts.begin(self.node_id, self._charted(), self._bands()))
        self.handle.begin(run.record)
        return run

    def _charted(self) -> tuple[str, ...]:
        """Return the names of what the chart shows."""
        return self.settings.measures

    def _bands(self) -> list[list[tuple[float, float, float]]]:
        """Return what is normal for each measure of the chart; nothing where it is not known, or of other sites."""
        baseline = self.settings.baseline
        if baseline is None or set(baseline.sites[1:]) != {site.address for site in self.sites}:
            return []
        curves = [baseline.curve(name, None) if name in baseline.measures else [] for name in self._charted()]
        return [[(place, low, high) for place, low, _, high in curve] for curve in curves]

    def _new_run(self, record: StabilityRun, chart: LiveChart | None) -> ProbedRun:
        return ProbedRun(record, chart)

    def _end_run(self, run: ProbedRun) -> None:
        if run.status == "finished" and run.level >= 0 and not run.reached:
            run.record.note(NOTHING_REACHED)
            log.warning("%s: %s", PROBE, NOTHING_REACHED)
        if run.chart is not None:
            run.chart.close(run.status)
        show_on_node(run.record.summary(), self.node_id)

    def _begin_call(self, level: NoiseLevel, x: Tensor, options: Mapping[str, Any]) -> ProbeCallState:
        run = self.run
        if run is None:
            return ProbeCallState()
        run.arrive_at(level.sigma)
        if run.level % self.settings.every:
            return ProbeCallState()
        prompts, batch = self._prompts_of(options, x), len(x)
        if prompts.reason:
            run.record.note(
                f"For some images it is not known which measurements are cond and which are uncond: {prompts.reason}."
            )
        passes = tuple(prompt.label for prompt in prompts.chunks)
        numbers = tuple(numbers_of(options, batch, len(passes), MOST_SAMPLES))
        batch_of_call = StabilityBatch(self.settings.measures)
        keys = GivenKeys.read(options, self.settings.act_where_unverified)
        return ProbeCallState(
            True,
            keys=keys,
            passes=passes,
            samples=len(numbers),
            numbers=numbers,
            latent=image_size(x),
            batch=batch_of_call,
            reason=prompts.reason,
        )

    def _end_call(self, level: NoiseLevel) -> None:
        run, call = self.run, self.state
        if run is None or not call.found:
            return
        run.reached = True
        try:
            values = self._values(call)
        except Exception as error:  # an image is worth more than its measures
            return self._note(f"A step was not measured: {_in_a_line(error)}.")
        for gamma in call.gammas:
            run.retrieved_with(gamma)
        samples = [Sample(name, index) for name in call.passes for index in call.numbers]
        maps = {address: each.cpu() for address, each in call.maps.items()}
        run.record.tokens = max(run.record.tokens, call.batch.tokens)
        self._record(run, level, samples, values, maps)
        if run.chart is not None:
            run.chart.add(run.record)
        return None

    def _record(
        self,
        run: Any,
        level: NoiseLevel,
        samples: Sequence[Sample],
        values: Mapping[str, Tensor],
        maps: Mapping[str, Tensor],
    ) -> None:
        """Keep what a model call gave; arguments as for `StabilityRun.record`."""
        run.record.record(level.sigma, level.progress, samples, values, maps)

    def _values(self, call: ProbeCallState) -> dict[str, Tensor]:
        """Return the measures of every attention call, `(rows, measures, heads)` by the address of the site."""
        measured = call.batch.results()
        seen: Counter[str] = Counter()
        values = {}
        for address, pieces in call.found:
            seen[address] += 1
            name = address if seen[address] == 1 else f"{address}#{seen[address]}"  # a second attention of this site
            found = _mean_of_pieces([(measured[index].values, count) for index, count in pieces])
            if call.samples > 1 and len(found) != len(call.passes) * call.samples:
                call.mixed.add(name)
            values[name] = call.rows(found)
            if any(measured[index].is_uncertain for index, _ in pieces):
                self._note(f"{name}: {UNCERTAIN}")
        return values

    def _at_site(self, site: Site, forward: Forward) -> Forward:
        """Return `forward` with an observer in the options of the call, when there is something to measure."""
        rule = site.rule

        def measured_forward(module: Any, /, *args: Any, **kwargs: Any) -> Any:
            options, state = kwargs.get("transformer_options"), self.state
            if not state.active or not isinstance(options, dict):
                return forward(module, *args, **kwargs)
            if state.keys.reason or (rule.keys is not None and kwargs.get(rule.keys) is not None):
                reason = state.keys.reason_at(rule, args, kwargs)
                if reason:
                    if self.run is not None and not torch.compiler.is_compiling():
                        self.run.reached = True
                    self._left_alone(site, reason)
                    return forward(module, *args, **kwargs)
            site_call = SiteCall(args, kwargs, state.seen_lengths)
            observer = Observer(
                look=partial(self._measure, state, site, site_call),
                failed=partial(self._failed, site),
                previous=options.get(OVERRIDE),
            )
            return forward(module, *args, **{**kwargs, "transformer_options": {**options, OVERRIDE: observer}})

        return measured_forward

    def _measure(self, state: ProbeCallState, site: Site, site_call: SiteCall, seen: ObservedCall) -> None:
        compiling = torch.compiler.is_compiling()  # then nothing of the run is written, which is no part of a graph
        if self.run is not None and not compiling:
            self.run.reached = True
        tokens, queries = seen.k.shape[2], None
        if seen.q.shape != seen.k.shape:
            if not may_be_last_queries(seen.q, seen.k):
                return self._left_alone(site, NOT_SAME_TOKENS)
            queries = seen.q.shape[2]
        image_tokens, reason = site.rule.find_tokens(site_call, tokens, queries)
        if image_tokens is None:
            return None if reason == OF_OTHERS else self._left_alone(site, reason)
        if site.rule.pads_samples and seen.mask is not None:
            return self._left_alone(site, PADDED)
        # Tokens without a query are part of what was retrieved; what is measured are the logits among the image.
        before = tokens - seen.q.shape[2]
        rows = slice(image_tokens.start - before, image_tokens.stop - before)
        q, k = seen.q[:, :, rows], seen.k[:, :, image_tokens]
        pieces = []
        for patterns in self._patterns(site, site_call, seen):
            part = patterns[:, :, rows]
            pieces.append((state.batch.take(q, k, part), part.shape[-1]))
        state.found.append((site.address, pieces))
        state.gammas.add(None if compiling else gamma_of(seen))
        if site.address in self.settings.mapped and site.address not in state.maps:
            self._map(state, site, q, k, seen.out[:, :, rows])
        return None

    def _patterns(self, site: Site, site_call: SiteCall, seen: ObservedCall) -> list[Tensor]:
        """Return what was retrieved, `(B, H, L, P)` in pieces: of the values, or of the input where it can be seen."""
        if self.settings.patterns == "value":
            return [seen.out]
        x = site.rule.find_input(site_call, slice(None), seen.q)
        other = seen.previous.previous if isinstance(seen.previous, SkewOverride) else seen.previous
        if x is not None and other is None:
            return input_patterns(seen, x)
        # The input's patterns take further calls, and another pack's override may be one that counts its calls.
        reason = (
            "the input cannot be seen from outside" if x is None else "another pack's override computes the attention"
        )
        self._note(f'{site.address}: {reason}, so patterns "value" were used instead.')
        return [seen.out]

    @torch.no_grad()
    def _map(self, state: ProbeCallState, site: Site, q: Tensor, k: Tensor, patterns: Tensor) -> None:
        grid = token_grid(q.shape[2], *state.latent)
        if grid is None:
            return self._note(f"{site.address} has no map: its {q.shape[2]} tokens do not form a grid over the image.")
        maps = token_alignment(q, k, patterns).mean(dim=1).unflatten(-1, grid)
        smaller = (min(grid[0], LARGEST_MAP), min(grid[1], LARGEST_MAP))
        state.maps[site.address] = F.adaptive_avg_pool2d(state.rows(maps)[:, None], smaller)[:, 0]
        return None

    def _left_alone(self, site: Site, reason: str) -> None:
        self._note(f"{site.address} was not measured at some steps: {reason}.")

    def _failed(self, site: Site, error: Exception) -> None:
        """Note the error and go on: an image is worth more than its measures."""
        self._left_alone(site, _in_a_line(error))

    def _remark(self, sentence: str) -> None:
        self._note(f"{sentence}.")

    def _note(self, sentence: str) -> None:
        if self.run is not None and not torch.compiler.is_compiling():
            self.run.record.note(sentence)


def _in_a_line(error: Exception) -> str:
    return "out of memory" if is_out_of_memory(error) else str(error).partition("\n")[0]


def _mean_of_pieces(pieces: list[tuple[Tensor, int]]) -> Tensor:
    """Return the mean over all patterns of the means over some, each given with their number."""
    if len(pieces) == 1:
        return pieces[0][0]
    patterns = sum(count for _, count in pieces)
    return torch.stack([values * (count / patterns) for values, count in pieces]).sum(dim=0)
