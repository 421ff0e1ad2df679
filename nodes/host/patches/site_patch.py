"""Installing skew attention on a ModelPatcher: tagged sites, a chained override, and the state of one sampling run.

Every chosen site gets an object patch of its `forward` that puts our override into the `transformer_options` of that
call alone. Overrides of other packs stay in the slot and are called by ours. Wrappers around a sampling run and around
each model call keep the state; nothing outlives the run but the report.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from comfy.model_management import InterruptProcessingException
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import CallbacksMP, WrappersMP
from comfy.utils import get_attr
from torch import Tensor

from ....sad_core import adapt, average, modal_skew_attention, skew_attention, symmetricity
from ....sad_core.joint_attention import JOINT_NORMS
from ....sad_core.tiled_attention import runs_in_tiles
from ..browser import only_logged, tell
from ..models.families import SiteCall, Witness
from ..models.sites import Site
from ..progress import progress_at
from ..run_report import ModelCall, RunRecord, SkewReport
from ..settings import NEUTRAL, Circulation, SkewSettings
from .attention_backend import AttentionCall, Backend, HostAttention, compiles_whole, is_exact
from .observer import Observer

KEY = "symmetric_attention"
MOST_SAMPLES = 64  # video models fold frames or pixels into the batch; of more than these only the mean η is kept
OVERRIDE = "optimized_attention_override"
GAMMA_IS_1 = "γ is 1 among the image tokens, and no others are there"
TAKEN = "a later Skew Attention node acts on this site"
TILES = "tiles of rows"  # what the report calls our own attention (sad_core/tiled_attention.py)
Wrapped = Callable[..., Any]
Share = tuple[int, int, "SkewOverride | None"]  # samples from and to, and who skews them


@dataclass
class CallState:
    """What the sites need to know during one model call; written outside attention, read inside.

    Attributes:
        active: whether sites do anything; False outside the window and outside a model call.
        circulation: γ of this model call, in joint attention a γ for each pair of modalities.
        gamma_tensor: γ among the image tokens as a 0-d tensor on the model's device, which compiled graphs read.
        cond_or_uncond: ComfyUI's marks of the batch chunks.
        skewed: address of the site of every attention call that was skewed.
        backends: names of what did the inner attention, a name a retrieval.
        symmetricity, gammas: η and γ of adaptive attention calls, kept on the device until the model call ends.
        witnessed: lengths of the parts of joined sequences, by the name of the witness that saw them.
    """

    active: bool = False
    circulation: Circulation = NEUTRAL
    gamma_tensor: Tensor | None = None
    cond_or_uncond: tuple[int, ...] = ()
    skewed: list[str] = field(default_factory=list)
    backends: list[str] = field(default_factory=list)
    symmetricity: list[tuple[str, Tensor]] = field(default_factory=list)
    gammas: list[Tensor] = field(default_factory=list)
    witnessed: dict[str, int] = field(default_factory=dict)


@contextmanager
def watched(record: Any) -> Iterator[None]:
    """Sets the `status` of `record` to how the block ends: finished, interrupted by the user, or failed."""
    try:
        yield
        record.status = "finished"
    except InterruptProcessingException:
        record.status = "interrupted"
        raise
    except BaseException as error:
        record.status = f"failed ({type(error).__name__})"
        raise


class SitePatch:
    """Functions of ours at some sites of one loaded model, told of its sampling runs.

    Attributes:
        report: where the runs are recorded; twins on other modules share it.
        state: of the model call that is going on, with `active` and `witnessed` in it.
    """

    sites: list[Site]
    report: Any
    state: Any
    model_name: str = ""

    def install(self, patcher: ModelPatcher) -> None:
        """Patch the sites of `patcher`, a clone of ours, and follow its sampling runs."""
        witnesses = dict.fromkeys(witness for site in self.sites for witness in site.rule.witnesses)
        places: list[Site | Witness] = [*witnesses, *self.sites]
        for place in places:
            path = object_path(place)
            patcher.add_object_patch(path, self.patched(place, own_forward(patcher, path)))
        self.follow(patcher)

    def follow(self, patcher: ModelPatcher) -> None:
        """Be told of the sampling runs, the model calls and the clones of `patcher`."""
        self.model_name = model_name(patcher.model)
        patcher.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, self._outer_sample)
        patcher.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, self._apply_model)
        if not patcher.get_callbacks(CallbacksMP.ON_CLONE, KEY):
            patcher.add_callback_with_key(CallbacksMP.ON_CLONE, KEY, rebuild_on_clone)

    def twin(self) -> SitePatch:
        """The same patch for another module: own state, same settings, same report."""
        raise NotImplementedError

    def patched(self, place: Site | Witness, forward: Wrapped) -> Wrapped:
        """`forward` of a site or a witness with our part in it, as long as there is something to do."""
        function = self._observed(place, forward) if isinstance(place, Witness) else self._at_site(place, forward)
        if not compiles_whole():
            # A graph break inside a site leaves compiled pieces behind that a plain model would run into later, so only
            # an attention without breaks is compiled (host: comfy/ldm/modules/attention.py, chosen at start).
            function = torch.compiler.disable(function)
        function.skew_site = SkewSite(self, place, forward)  # type: ignore[attr-defined]
        return function

    def _observed(self, witness: Witness, forward: Wrapped) -> Wrapped:
        """`forward`, telling the sites after it how long the part of the sequence is that it sees."""

        def observed_forward(*args: Any, **kwargs: Any) -> Any:
            if self.state.active:
                witness.observe(SiteCall(args, kwargs), self.state.witnessed)
            return forward(*args, **kwargs)

        return observed_forward

    def _at_site(self, site: Site, forward: Wrapped) -> Wrapped:
        """The function that stands at `site` in place of its `forward`."""
        raise NotImplementedError

    def _outer_sample(self, executor: Wrapped, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError

    def _apply_model(self, executor: Any, x: Tensor, t: Tensor, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError

    def _acting_on(self, model: Any) -> Any:
        """The patch whose functions `model` holds; on several GPUs the host calls the main model's wrappers for all."""
        patcher = getattr(model, "current_patcher", None)
        wrappers = patcher.get_wrappers(WrappersMP.OUTER_SAMPLE, KEY) if patcher is not None else []
        return next((each.__self__ for each in wrappers if each.__self__.report is self.report), self)


class SkewPatch(SitePatch):
    """Skew attention on one loaded model: its settings, its sites and the run that is going on."""

    def __init__(self, settings: SkewSettings, sites: list[Site], report: SkewReport, node_id: str | None):
        self.settings = settings
        self.sites = sites
        self.report = report
        self.node_id = node_id
        self.run: RunRecord | None = None
        self.state = CallState()
        self.attention = HostAttention(self._fell_back)
        self.progress: dict[float, float] = {}  # by sigma, for this run

    def twin(self) -> SkewPatch:
        """The same patch for another module: own state, same settings, same report."""
        return SkewPatch(self.settings, self.sites, self.report, self.node_id)

    # One sampling run, one model call

    def _outer_sample(self, executor: Wrapped, *args: Any, **kwargs: Any) -> Any:
        run = self.report.begin(self.model_name, [site.address for site in self.sites], self.settings.apply_to)
        outer, self.run = self.run, run
        try:
            with watched(run):
                return executor(*args, **kwargs)
        finally:
            self.run = outer
            self.progress.clear()
            self.attention.refused.clear()  # every run asks its backend again and tells of its own fallbacks
            with only_logged("what happened in this run could not be described"):
                tell(run.describe(), self.node_id, warning=run.warning is not None)

    def _apply_model(self, executor: Any, x: Tensor, t: Tensor, *args: Any, **kwargs: Any) -> Any:
        options = kwargs["transformer_options"] if "transformer_options" in kwargs else args[3]
        model, sigma = executor.class_obj, float(t.max())
        if sigma not in self.progress:
            self.progress[sigma] = progress_at(model.model_sampling, sigma)
        progress = self.progress[sigma]
        circulation = self.settings.circulation_at(progress)
        acting = self._acting_on(model)
        if acting.run is not self.run:  # another GPU's, at its first call of this run
            acting.run = self.run
            acting.attention.refused.clear()
        outer, acting.state = acting.state, self._call_state(circulation, x.device, options)
        try:
            result = executor(x, t, *args, **kwargs)
            acting._record(sigma, progress, circulation)
            return result
        finally:
            acting.state = outer

    def _call_state(self, circulation: Circulation, device: torch.device, options: Mapping[str, Any]) -> CallState:
        marks = tuple(options.get("cond_or_uncond", ()))
        wanted = self.settings.apply_to == "both" or any(map(self.settings.wants, marks))
        active = wanted and circulation != NEUTRAL
        tensor = torch.tensor(circulation.gamma, dtype=torch.float32, device=device) if active else None
        return CallState(active, circulation, tensor, marks)

    def _record(self, sigma: float, progress: float, circulation: Circulation) -> None:
        run, state = self.run, self.state
        if run is None:
            return
        low = high = circulation.gamma
        if state.gammas:
            low, high = torch.stack([torch.stack([each.min(), each.max()]) for each in state.gammas]).T.cpu().tolist()
            low, high = min(low), max(high)
        eta: tuple[tuple[str, tuple[float, ...]], ...] = ()
        if state.symmetricity:
            sizes = [len(each) for _, each in state.symmetricity]
            values = torch.cat([each for _, each in state.symmetricity]).cpu().split(sizes)
            eta = tuple(
                (address, tuple(each.tolist())) for (address, _), each in zip(state.symmetricity, values, strict=True)
            )
        call = ModelCall(sigma, progress, circulation, state.cond_or_uncond, len(state.skewed), eta, (low, high))
        run.add(call, state.skewed, state.backends)

    def _fell_back(self, sentence: str) -> None:
        if self.run is not None:
            self.run.fell_back(sentence)

    # One attention site

    def _at_site(self, site: Site, forward: Wrapped) -> Wrapped:
        """`forward` with our override in the options of the call."""

        def patched_forward(*args: Any, **kwargs: Any) -> Any:
            options = kwargs.get("transformer_options")
            if not self.state.active:
                return forward(*args, **kwargs)
            if options is None:
                self.left_alone("the model called the block without transformer_options")
                return forward(*args, **kwargs)
            slot = options.get(OVERRIDE)
            # A probe stays outside, so that it measures what really leaves the site.
            probe = slot.innermost if isinstance(slot, Observer) else None
            previous = slot if probe is None else probe.previous
            if isinstance(previous, SkewOverride):
                # A later Skew Attention node has chosen this site too and wins; ours are the samples it does not want.
                previous.earlier.append(SkewOverride(self, site, previous.call, previous.previous))
                return forward(*args, **kwargs)
            override = SkewOverride(self, site, SiteCall(args, kwargs, self.state.witnessed), previous)
            if probe is not None:
                probe.previous = override
                return forward(*args, **kwargs)
            return forward(*args, **{**kwargs, "transformer_options": {**options, OVERRIDE: override}})

        return patched_forward

    def left_alone(self, reason: str) -> None:
        """Count an attention call at a chosen site that stays as it is."""
        if not torch.compiler.is_compiling() and self.run is not None:
            self.run.untouched[reason] += 1


@dataclass(frozen=True)
class SkewSite:
    """What a patched `forward` of ours is made of; it hangs on the function as `skew_site`."""

    patch: SitePatch
    place: Site | Witness
    forward: Wrapped


def model_name(model: torch.nn.Module) -> str:
    """What to call a loaded model in messages: the class of its configuration, such as SD15, SDXL or Flux."""
    return type(getattr(model, "model_config", model)).__name__


def object_path(place: Site | Witness) -> str:
    """The name under which ComfyUI patches the `forward` of a site or a witness."""
    return f"diffusion_model.{place.path}.forward"


def own_forward(patcher: ModelPatcher, path: str) -> Wrapped:
    """The `forward` at `path` as this patcher will have it, whatever another clone's patches left in the network."""
    if path not in patcher.object_patches and path not in patcher.object_patches_backup:
        for replaced, original in patcher.object_patches_backup.items():
            if path.startswith(f"{replaced}."):
                return get_attr(original, path.removeprefix(f"{replaced}."))
    return patcher.get_model_object(path)


def rebuild_on_clone(old: ModelPatcher, new: ModelPatcher) -> None:
    """Give a clone that holds another module (comfy/model_patcher.py, `clone`) patches that call that module.

    Our functions hold the `forward` of the module they were made for, so on the clone they would run its weights.
    Functions of other packs below ours stay in the chain.
    """
    if new.model is old.model:
        return
    patches = [wrapper.__self__ for wrapper in new.get_wrappers(WrappersMP.OUTER_SAMPLE, KEY)]
    twins = {id(patch): patch.twin() for patch in patches}

    def rebuilt(path: str, function: Wrapped) -> Wrapped:
        ours: SkewSite | None = getattr(function, "skew_site", None)
        if ours is not None:
            return twins[id(ours.patch)].patched(ours.place, rebuilt(path, ours.forward))
        is_the_modules_own = isinstance(getattr(function, "__self__", None), torch.nn.Module)
        return new.get_model_object(path) if is_the_modules_own else function

    for path in [path for path, patch in new.object_patches.items() if hasattr(patch, "skew_site")]:
        function = new.object_patches.pop(path)
        new.add_object_patch(path, rebuilt(path, function))
    for kind in (WrappersMP.OUTER_SAMPLE, WrappersMP.APPLY_MODEL):
        new.remove_wrappers_with_key(kind, KEY)
    for patch in twins.values():
        patch.follow(new)


class SkewOverride:
    """The attention override for one call of one site.

    Attributes:
        previous: the override of another pack that was in the slot.
        earlier: overrides of Skew Attention nodes before ours at the same site, nearest first.
    """

    def __init__(self, patch: SkewPatch, site: Site, call: SiteCall, previous: Backend | None):
        self.patch = patch
        self.site = site
        self.call = call
        self.previous = previous
        self.earlier: list[SkewOverride] = []

    def __call__(
        self, function: Backend, q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None, **keyword: Any
    ) -> Tensor:
        """The host's attention call (wrap_attn in comfy/ldm/modules/attention.py), skewed where it can be."""
        call = AttentionCall.read(q, k, v, heads, mask, keyword)
        reason, inner, chunks = self._shares(call)
        if inner is None:
            self.patch.left_alone(reason)
            if self.previous is not None:
                return self.previous(function, q, k, v, heads, mask=mask, **keyword)
            return function(q, k, v, heads, mask=mask, **keyword)
        attend = self.patch.attention.bind(function, self.previous, call, self.patch.state.backends)
        replaceable = self.previous is None and is_exact(function)
        owners = dict.fromkeys(owner for _, _, owner in chunks if owner is not None)
        for other in (self, *self.earlier):
            if not other._acts(call, inner):
                other.patch.left_alone(GAMMA_IS_1)
            elif other is not self and other not in owners:
                other.patch.left_alone(TAKEN)
        for acting in owners:
            acting.patch.state.skewed.append(acting.site.address)
        parts = []
        for start, stop, owner in chunks:
            part = call.rows(start, stop)
            if owner is not None:
                parts.append(owner._skewed(part, inner, slice(start, stop), attend, replaceable))
            else:
                parts.append(attend(part.q, part.k, part.v, part.mask, part.scale))
        return call.write(parts[0] if len(parts) == 1 else torch.cat(parts))

    @property
    def _norm(self) -> str:
        wanted = self.patch.settings.norm
        return wanted if self.site.shows_input or wanted in JOINT_NORMS else "value"

    def _shares(self, call: AttentionCall) -> tuple[str, slice | None, list[Share]]:
        """Which tokens γ acts among and who skews which samples, or a reason to leave the call alone."""
        if call.q.shape != call.k.shape:
            return "queries and keys are not the same tokens", None, []
        inner = self.site.rule.inner(self.call, call.q.shape[2])
        if inner is None:
            return self.site.rule.otherwise, None, []
        acting = [each for each in (self, *self.earlier) if each._acts(call, inner)]
        if not acting:
            return GAMMA_IS_1, None, []
        chunks = self._chunks(call.q.shape[0], acting)
        return ("", inner, chunks) if chunks else ("the batch does not split into cond and uncond", None, [])

    def _acts(self, call: AttentionCall, inner: slice) -> bool:
        """Whether a γ of ours other than 1 bears on this call; taken to in a compiled graph, where γ is a tensor."""
        if torch.compiler.is_compiling() or self.patch.state.circulation.gamma != 1.0:
            return True
        return self.patch.settings.is_modal and inner != slice(0, call.q.shape[2])

    def _chunks(self, batch: int, acting: list[SkewOverride]) -> list[Share]:
        """Runs of samples `(start, stop, who skews them)`; empty where the batch does not split evenly."""
        if acting[0].patch.settings.apply_to == "both":
            return [(0, batch, acting[0])]
        marks = self.patch.state.cond_or_uncond
        size, rest = divmod(batch, len(marks))
        if rest:
            return []
        owners = [next((each for each in acting if each.patch.settings.wants(mark)), None) for mark in marks]
        return [(index * size, (index + 1) * size, owner) for index, owner in enumerate(owners)]

    def _skewed(
        self, call: AttentionCall, inner: slice, rows: slice, attend: Callable[..., Tensor], replaceable: bool
    ) -> Tensor:
        """The samples `rows` of the whole call, which are `call`, by our settings.

        Where `attend` is `replaceable`, tiles of our own may do its work on the CPU.
        """
        gamma, beta = self._strengths(call, inner)
        x = self.site.rule.block_input(self.call) if self._norm in ("projected", "input") else None
        x = None if x is None else x[rows]
        settings = self.patch.settings
        common: dict[str, Any] = {"norm": self._norm, "scale": call.scale, "mask": call.mask, "attend": attend}
        if inner == slice(0, call.q.shape[2]):
            tiles = replaceable and runs_in_tiles(call.q, call.k, call.v, call.mask)
            if tiles:
                self.patch.state.backends.append(TILES)
            return skew_attention(call.q, call.k, call.v, gamma, beta, x=x, tiles=tiles, **common)
        common.update(gamma_text=settings.gamma_text, gamma_cross=settings.gamma_cross)
        return modal_skew_attention(call.q, call.k, call.v, gamma, beta, inner=inner, **common)

    def _strengths(self, call: AttentionCall, inner: slice) -> tuple[float | Tensor, float | Tensor]:
        """γ and β of every sample of this call."""
        settings, state = self.patch.settings, self.patch.state
        compiling = torch.compiler.is_compiling()
        gamma = state.gamma_tensor if compiling and state.gamma_tensor is not None else state.circulation.gamma
        if settings.adaptive == "off":
            return gamma, settings.beta
        eta = average(symmetricity(call.q[:, :, inner], call.k[:, :, inner]), over="sample")
        gammas, betas = adapt(gamma, settings.beta, eta, adapt_beta=settings.adaptive == "gamma and beta")
        if not compiling:
            state.symmetricity.append((self.site.address, eta if len(eta) <= MOST_SAMPLES else eta.mean()[None]))
            state.gammas.append(gammas)
        return gammas, betas
