"""Measuring the stability of retrievals while a model samples, without changing a bit of what it computes.

Every chosen site gets an object patch of its `forward` that puts an observer into the `transformer_options` of that
call. The observer stays outside of all that changes the attention, so it sees the model's own queries and keys and the
retrieval that really left the site. The numbers of one model call go to the CPU together.
"""

from __future__ import annotations

import copy
import math
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from ....sad_core import StabilityTrace, hopfield_stability, symmetricity, token_alignment
from ....sad_core.norm_guard import SMALLEST_NORM
from ....sad_core.parameters import check_choice
from ....sad_core.stability.measures import MEASURES
from ....sad_core.stability.run import TRACE_MEASURES, Sample, StabilityRun
from ..browser import log, only_logged, show
from ..live_chart import LiveChart, charts
from ..models.families import SiteCall
from ..models.sites import Site
from ..progress import progress_at
from ..settings import CHUNK_MARK
from .attention_backend import HostAttention, is_out_of_memory
from .observer import ObservedCall, Observer
from .site_patch import MOST_SAMPLES, OVERRIDE, SitePatch, SkewOverride, Wrapped, watched

PROBE = "Stability Probe (SAD)"
CHEAP = TRACE_MEASURES[:4]
PATTERNS = ("value", "input")
LARGEST_MAP = 64  # rows and columns of a map; larger ones are averaged down
CHUNKS = {mark: chunk for chunk, mark in CHUNK_MARK.items()}
NOTHING_REACHED = (
    "No attention site was reached. A model compiled with torch.compile is not measured where ComfyUI attends with "
    "PyTorch; put the probe on a model without it. Otherwise another patch replaces the attention of these blocks."
)


@dataclass(frozen=True)
class ProbeSettings:
    """What one Stability Probe node measures.

    Attributes:
        measures: which of `TRACE_MEASURES`.
        every: every how many noise levels, from the first; 1 means all.
        patterns: one of `PATTERNS`: what the retrieved patterns are taken of. "input" is the block's normalised input,
            the paper's choice; sites whose input cannot be seen are measured by "value".
        mapped: addresses of the sites whose alignment is also kept by place in the picture.

    Raises:
        ValueError: no measure, `every` below 1, or a value that is not among the named ones.
    """

    measures: tuple[str, ...] = CHEAP
    every: int = 1
    patterns: str = "value"
    mapped: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for measure in self.measures:
            check_choice("measure", measure, TRACE_MEASURES)
        if not self.measures:
            raise ValueError(f"measures is empty; choose some of {', '.join(TRACE_MEASURES)}.")
        check_choice("patterns", self.patterns, PATTERNS)
        if self.every < 1:
            raise ValueError(f"every_nth_step is {self.every}, but it must be 1 or more.")


@dataclass
class ProbedRun:
    """A sampling run that is going on.

    Attributes:
        record: where its numbers go.
        chart: the chart that shows them as they come, where a browser has one.
        passes: cond, uncond, cond 2 …, by the id ComfyUI gives every conditioning for one run.
        progress: by sigma.
        level: the number of the noise level, counted from 0; `sigma` is its sigma.
        reached: whether an attention call of a chosen site was seen.
        gammas: the lowest and the highest γ that was at work; None while none is known.
    """

    record: StabilityRun
    chart: LiveChart | None = None
    passes: dict[Any, str] = field(default_factory=dict)
    progress: dict[float, float] = field(default_factory=dict)
    level: int = -1
    sigma: float | None = None
    reached: bool = False
    gammas: tuple[float, float] | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)  # several GPUs call from several threads

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
            low, high = self.gammas or (gamma, gamma)
            unknown = math.isnan(gamma) or math.isnan(low)
            low, high = self.gammas = (math.nan, math.nan) if unknown else (min(low, gamma), max(high, gamma))
            named = f"γ {low:.4g}" if low == high else f"γ {low:.4g} … {high:.4g}"
            self.record.gamma = "" if math.isnan(low) else named

    def passes_of(self, options: Mapping[str, Any]) -> list[str]:
        """What every chunk of the batch is called."""
        with self._lock:
            return self._names(options)

    def _names(self, options: Mapping[str, Any]) -> list[str]:
        marks = list(options.get("cond_or_uncond") or [0])
        ids = list(options.get("uuids") or [])
        if len(ids) != len(marks):
            ids = [(mark, marks[:place].count(mark)) for place, mark in enumerate(marks)]
        for mark, each in zip(marks, ids, strict=True):
            if each not in self.passes:
                name = CHUNKS.get(mark, f"pass {mark}")
                number = 1 + sum(other == name or other.startswith(f"{name} ") for other in self.passes.values())
                self.passes[each] = name if number == 1 else f"{name} {number}"
        return [self.passes[each] for each in ids]


@dataclass
class ProbedCall:
    """One model call: what its rows are, and what was measured, still on the device.

    Attributes:
        active: whether sites measure.
        passes: the chunks of the batch.
        samples: how many samples a chunk has in the trace.
        latent: height and width of the latent; 0 where it is no picture.
        found: `(site, (rows, measures, heads))` in the order of the calls.
        maps: `(rows, height, width)` by site.
        witnessed: lengths of the parts of joined sequences, by the name of the witness that saw them.
    """

    active: bool = False
    passes: tuple[str, ...] = ()
    samples: int = 1
    latent: tuple[int, int] = (0, 0)
    found: list[tuple[str, Tensor]] = field(default_factory=list)
    maps: dict[str, Tensor] = field(default_factory=dict)
    witnessed: dict[str, int] = field(default_factory=dict)

    def rows(self, values: Tensor) -> Tensor:
        """`(B, …)` numbers of one attention call, with a row per sample of the trace.

        Video models fold frames or pixels into B, which cannot be told apart; there a chunk is averaged as a whole.
        """
        chunks = len(self.passes)
        if len(values) == chunks * self.samples:
            return values
        parts = values.unflatten(0, (chunks, -1)).mean(dim=1) if len(values) % chunks == 0 else values.mean(0)[None]
        return parts.repeat_interleave(chunks * self.samples // len(parts), dim=0)


class ProbePatch(SitePatch):
    """A probe on one loaded model: its settings, its sites and the run that is going on."""

    def __init__(
        self,
        settings: ProbeSettings,
        sites: list[Site],
        report: StabilityTrace,
        node_id: str | None,
        notes: list[str],
    ):
        self.settings = settings
        self.sites = sites
        self.report = report
        self.node_id = node_id
        self.notes = notes
        self.run: ProbedRun | None = None
        self.state = ProbedCall()

    def twin(self) -> ProbePatch:
        """The same probe for another module: own state, same settings, same trace."""
        return ProbePatch(self.settings, self.sites, self.report, self.node_id, self.notes)

    # One sampling run, one model call

    def _outer_sample(self, executor: Wrapped, *args: Any, **kwargs: Any) -> Any:
        addresses = tuple(site.address for site in self.sites)
        measures, patterns = self.settings.measures, self.settings.patterns
        record = StabilityRun(self.model_name, addresses, measures, patterns, notes=list(self.notes))
        run = ProbedRun(record, charts.begin(self.node_id, measures))
        self.report.begin(run.record)
        outer, self.run = self.run, run
        try:
            with watched(run.record):
                return executor(*args, **kwargs)
        finally:
            self.run = outer
            with only_logged("what this run measured could not be described"):
                self._tell(run)

    def _tell(self, run: ProbedRun) -> None:
        if run.record.status == "finished" and run.level >= 0 and not run.reached:
            run.record.note(NOTHING_REACHED)
            log.warning("%s: %s", PROBE, NOTHING_REACHED)
        if run.chart is not None:
            run.chart.close(run.record.status)
        show(run.record.summary(), self.node_id)

    def _apply_model(self, executor: Any, x: Tensor, t: Tensor, *args: Any, **kwargs: Any) -> Any:
        run = self.run
        if run is None:
            return executor(x, t, *args, **kwargs)
        options = kwargs["transformer_options"] if "transformer_options" in kwargs else args[3]
        model, sigma = executor.class_obj, float(t.max())
        run.arrive_at(sigma)
        if sigma not in run.progress:
            run.progress[sigma] = progress_at(model.model_sampling, sigma)
        acting = self._acting_on(model)
        outer = acting.run, acting.state
        acting.run, acting.state = run, self._call_state(run, x, options)
        try:
            result = executor(x, t, *args, **kwargs)
            self._record(run, sigma, run.progress[sigma], acting.state)
            return result
        finally:
            acting.run, acting.state = outer

    def _call_state(self, run: ProbedRun, x: Tensor, options: Mapping[str, Any]) -> ProbedCall:
        if run.level % self.settings.every:
            return ProbedCall()
        passes, batch = tuple(run.passes_of(options)), len(x)
        samples = batch // len(passes) if batch % len(passes) == 0 and batch <= MOST_SAMPLES else 1
        is_picture = x.dim() == 4 or (x.dim() == 5 and x.shape[2] == 1)
        return ProbedCall(True, passes, samples, (x.shape[-2], x.shape[-1]) if is_picture else (0, 0))

    def _record(self, run: ProbedRun, sigma: float, progress: float, call: ProbedCall) -> None:
        if not call.found:
            return
        flat = torch.cat([values.flatten() for _, values in call.found]).cpu()  # one transfer for all sites
        parts = flat.split([values.numel() for _, values in call.found])
        seen: Counter[str] = Counter()
        values = {}
        for (address, measured), part in zip(call.found, parts, strict=True):
            seen[address] += 1
            name = address if seen[address] == 1 else f"{address}#{seen[address]}"  # a second attention of this site
            values[name] = part.reshape(measured.shape)
        samples = [Sample(chunk, index) for chunk in call.passes for index in range(call.samples)]
        maps = {address: each.cpu() for address, each in call.maps.items()}
        run.record.record(sigma, progress, samples, values, maps)
        if run.chart is not None:
            run.chart.add(run.record)

    # One attention site

    def _at_site(self, site: Site, forward: Wrapped) -> Wrapped:
        """`forward` with an observer in the options of the call, when there is something to measure."""

        def patched_forward(*args: Any, **kwargs: Any) -> Any:
            if torch.compiler.is_compiling():  # recording would break the graph
                return forward(*args, **kwargs)
            options, state = kwargs.get("transformer_options"), self.state
            if not state.active or options is None:
                return forward(*args, **kwargs)
            site_call = SiteCall(args, kwargs, state.witnessed)
            observer = Observer(
                look=lambda seen: self._measure(state, site, site_call, seen),
                failed=lambda error: self._failed(site, error),
                previous=options.get(OVERRIDE),
            )
            return forward(*args, **{**kwargs, "transformer_options": {**options, OVERRIDE: observer}})

        return patched_forward

    def _measure(self, state: ProbedCall, site: Site, site_call: SiteCall, seen: ObservedCall) -> None:
        if self.run is not None:
            self.run.reached = True
        if seen.q.shape != seen.k.shape:
            return self._left_alone(site, "queries and keys are not the same tokens")
        inner = site.rule.inner(site_call, seen.q.shape[2])
        if inner is None:
            return self._left_alone(site, site.rule.otherwise)
        q, k = seen.q[:, :, inner], seen.k[:, :, inner]
        with torch.no_grad():
            parts = self._patterns(site, site_call, seen)
            found = [(measure(q, k, part[:, :, inner], self.settings.measures), part.shape[-1]) for part in parts]
            mean = sum(values * (count / sum(each for _, each in found)) for values, count in found)
            state.found.append((site.address, state.rows(cast(Tensor, mean))))
            if self.run is not None:
                self.run.retrieved_with(gamma_of(seen))
            if site.address in self.settings.mapped and site.address not in state.maps:
                self._map(state, site, q, k, seen.out[:, :, inner])
        return None

    def _patterns(self, site: Site, site_call: SiteCall, seen: ObservedCall) -> list[Tensor]:
        """What was retrieved, `(B, H, L, P)` in pieces: of the values, or of the block's input if it can be had."""
        if self.settings.patterns == "value":
            return [seen.out]
        x = site.rule.block_input(site_call)
        inner = seen.previous.previous if isinstance(seen.previous, SkewOverride) else seen.previous
        if x is not None and inner is None:
            return input_patterns(seen, x)
        # The input's patterns take further calls, and another pack's override may be one that counts its calls.
        reason = "the input cannot be seen from outside" if x is None else "another pack's override does the attention"
        self._note(f"{site.address}: {reason}; measured by the values.")
        return [seen.out]

    def _map(self, state: ProbedCall, site: Site, q: Tensor, k: Tensor, patterns: Tensor) -> None:
        grid = token_grid(q.shape[2], *state.latent)
        if grid is None:
            return self._note(f"{site.address} has no map: its {q.shape[2]} tokens are no grid over the picture.")
        maps = token_alignment(q, k, patterns).mean(dim=1).unflatten(-1, grid)
        smaller = (min(grid[0], LARGEST_MAP), min(grid[1], LARGEST_MAP))
        state.maps[site.address] = F.adaptive_avg_pool2d(state.rows(maps)[:, None], smaller)[:, 0]
        return None

    def _left_alone(self, site: Site, reason: str) -> None:
        self._note(f"{site.address} was not measured at some step: {reason}.")

    def _failed(self, site: Site, error: Exception) -> None:
        """A picture is worth more than its measures."""
        self._left_alone(site, "out of memory" if is_out_of_memory(error) else str(error).partition("\n")[0])

    def _note(self, sentence: str) -> None:
        if self.run is not None:
            self.run.record.note(sentence)


def token_grid(tokens: int, height: int, width: int) -> tuple[int, int] | None:
    """Rows and columns of the tokens of one site: the latent's, divided by a patch or a downsampling of 1, 2, 4 …"""
    for patch in (1, 2, 4, 8, 16, 32):
        rows, columns = -(-height // patch), -(-width // patch)
        if rows * columns == tokens:
            return rows, columns
    return None


def gamma_of(seen: ObservedCall) -> float | None:
    """The γ of a call, before any adaptive rule: 1 without an override, None where there is more than one number to it.

    So it is where another pack does the work, where several nodes share the site, where γ differs between image and
    text, and where it acts on cond or uncond alone.
    """
    if seen.previous is None:
        return 1.0
    if not isinstance(seen.previous, SkewOverride) or seen.previous.earlier:
        return None
    settings = seen.previous.patch.settings
    if settings.is_modal or settings.apply_to != "both":
        return None
    return seen.previous.patch.state.circulation.gamma


def input_patterns(seen: ObservedCall, x: Tensor) -> list[Tensor]:
    """What the attention of a call retrieves from the block input x, in pieces of the head dim, each `(B, H, L, d)`.

    All but the norm guard is linear in the values, so the same retrieval is asked for x without it. ρ is one number a
    token and a head, whatever the values: it is how much longer the real result is than the unguarded one.

    Args:
        seen: the call and its result.
        x: `(B, L, C)`.
    """
    bare = without_norm_guard(seen.previous) if isinstance(seen.previous, SkewOverride) else seen.previous
    heads, head_dim = seen.q.shape[1], seen.q.shape[-1]
    pieces = []
    for piece in x.to(seen.out.dtype).split(head_dim, dim=-1):
        values = F.pad(piece, (0, head_dim - piece.shape[-1]))[:, None].repeat(1, heads, 1, 1)
        pieces.append(seen.retrieve(bare, values)[..., : piece.shape[-1]])
    if bare is seen.previous:
        return pieces
    unguarded = torch.linalg.vector_norm(seen.retrieve(bare, seen.v), dim=-1, keepdim=True)
    ratio = torch.linalg.vector_norm(seen.out, dim=-1, keepdim=True) / unguarded.clamp_min(SMALLEST_NORM)
    return [piece * ratio for piece in pieces]


def without_norm_guard(override: SkewOverride) -> SkewOverride:
    """The same retrieval with ρ = 1, told to no report."""

    def bare(each: SkewOverride) -> SkewOverride:
        patch = copy.copy(each.patch)
        patch.settings = replace(patch.settings, norm="none")
        patch.state = replace(patch.state, skewed=[], backends=[], symmetricity=[], gammas=[])
        patch.run = None
        patch.attention = HostAttention(lambda _: None)
        patch.attention.refused.update(each.patch.attention.refused)
        return SkewOverride(patch, each.site, each.call, each.previous)

    result = bare(override)
    result.earlier = [bare(each) for each in override.earlier]
    return result


def measure(q: Tensor, k: Tensor, patterns: Tensor, measures: tuple[str, ...]) -> Tensor:
    """The measures of every sample and head, averaged over the patterns.

    Args:
        q, k: `(B, H, L, d)`.
        patterns: `(B, H, L, P)`.
        measures: which of `TRACE_MEASURES`.

    Returns:
        `(B, measures, H)`, float32 or wider.
    """
    q, k, patterns = (x.contiguous() for x in (q, k, patterns))  # once, not in every product
    wanted = {"relative curvature": "curvature"}
    stability = hopfield_stability(
        q, k, patterns, [name for name in (wanted.get(each, each) for each in measures) if name in MEASURES]
    )

    def per_head(name: str) -> Tensor:
        if name == "symmetricity":
            return symmetricity(q, k)
        values: Tensor = getattr(stability, name.replace(" ", "_"))
        return values.mean(dim=-1)

    return torch.stack([per_head(name) for name in measures], dim=1)
