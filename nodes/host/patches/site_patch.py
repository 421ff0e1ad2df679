"""The base of our patches: functions at some sites of one loaded model, and its sampling runs and model calls.

Every chosen site gets an object patch of its `forward`. Wrappers around a sampling run and around each model call keep
the state; nothing outlives the run but what it recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MethodType
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import CallbacksMP, WrappersMP
from torch import Tensor

from ..browser import log_exceptions
from ..models.site_call import SiteCall
from ..models.site_rules import NETWORK, OPTIONS, LengthSensor
from ..models.sites import Site
from ..noise_level import LEVEL, NoiseLevel, NoiseScale, level_of
from ..progress import ModelSampling
from ..prompts import NOBODY, PLACES, CallPrompts, RunPrompts, prompts_of_guider
from ..shared import Shared
from .attention_backend import compiles_whole
from .given_keys import GivenKeys
from .object_patches import (
    UNDOING,
    Forward,
    PatchedForward,
    loading_errors_kept,
    method_of,
    object_path,
    own_forward,
    own_module,
    patched_forward_of,
)
from .side_runs import KEY, SideRuns, forget_aside, status_after
from .slots import NetworkSlot, close_slot, entering, handing, open_slot

MOST_SAMPLES = 64  # video models fold frames or pixels into the batch; of more than these only a mean is kept
Wrapped = Callable[..., Any]


@dataclass
class CallState:
    """The state that the sites share during one model call.

    Attributes:
        active: whether the sites do anything; False outside a model call.
        seen_lengths: lengths of the parts of joined sequences, by the name of the sensor that saw them.
        keys: what functions of other nodes may do to the keys.
        slot: the place of the overrides of sites whose attention reads the options of the whole forward.
    """

    active: bool = False
    seen_lengths: dict[str, int] = field(default_factory=dict)
    keys: GivenKeys = field(default_factory=GivenKeys)
    slot: NetworkSlot | None = None


class SitePatch(SideRuns, Shared):
    """Functions of ours at some sites of one loaded model, and the sampling run that is going on.

    Attributes:
        sites: where the functions are.
        handle: what the node gave out; the runs fill it. Patches of the same node on other modules share it.
        node_id: the node to show texts on.
        run: the sampling run that is going on, or None.
        state: of the model call that is going on.
        prompts: of the run, by name; None outside a run, and where nothing depends on them.
        reads_prompts: whether it matters which prompt a row belongs to.
        acts_outside_runs: whether model calls outside a sampling run matter, as those a script makes by hand.
        undescribed: what the log says where a run that has ended cannot be described.
    """

    reads_prompts = True
    acts_outside_runs = True
    undescribed = "the report of this run could not be written"

    def __init__(self, sites: list[Site], handle: Any, node_id: str | None, state: Any):
        super().__init__()
        self.sites = sites
        self.handle = handle
        self.node_id = node_id
        self.state = state
        self.run: Any = None
        self.prompts: RunPrompts | None = None
        self.model_name = ""
        self._scale: NoiseScale | None = None  # of this run
        self._joined: list[SitePatch] = []  # patches on other modules that take part in this run

    # To be given by each kind of patch

    def for_model(self) -> SitePatch:
        """Return the same patch for another module: same settings, same handle, state of its own."""
        raise NotImplementedError

    def _at_site(self, site: Site, forward: Forward) -> Forward:
        """Return the function that replaces the `forward` of `site`. Both get the module first."""
        raise NotImplementedError

    def _begin_run(self) -> Any:
        """Return the record of a sampling run that starts now; it has a `status`."""
        raise NotImplementedError

    def _end_run(self, run: Any) -> None:
        """Describe a run that has ended; errors in here are logged."""
        raise NotImplementedError

    def _join(self, run: Any) -> None:
        """Take part in a run that a patch on another module has begun, as on several GPUs."""
        self.run = run

    def _remark(self, sentence: str) -> None:
        """Keep a sentence about the run that is going on, once."""
        raise NotImplementedError

    def _begin_call(self, level: NoiseLevel, x: Tensor, options: Mapping[str, Any]) -> Any:
        """Return the state for a model call that starts now. Reading the level waits for the device."""
        raise NotImplementedError

    def _end_call(self, level: NoiseLevel) -> None:
        """Record the model call that has ended without an error, from `state`."""
        raise NotImplementedError

    def _leave_call(self, ended: Any) -> None:
        """Forget what the sites left behind in a model call that has ended, in whatever way; `ended` was its state."""

    # On a patcher

    def install(self, patcher: ModelPatcher) -> None:
        """Patch the sites of `patcher`, a clone of ours, and follow its sampling runs."""
        sensors = dict.fromkeys(sensor for site in self.sites for sensor in site.rule.sensors)
        places: list[Site | LengthSensor] = [*sensors, *self.sites]
        for place in places:
            path = object_path(place)
            function = self.patched(place, own_forward(patcher, path))
            patcher.add_object_patch(path, MethodType(function, own_module(patcher, path)))
        self.follow(patcher)

    def follow(self, patcher: ModelPatcher) -> None:
        """Wrap the sampling runs, the model calls and the clones of `patcher`, and order how it is unpatched."""
        self.model_name = model_name(patcher.model)
        patcher.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, self._outer_sample)
        patcher.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, self._apply_model)
        if self.reads_prompts:
            patcher.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, KEY, self._evaluate)
        self.follow_aside(patcher)
        if not patcher.get_callbacks(CallbacksMP.ON_CLONE, KEY):
            patcher.add_callback_with_key(CallbacksMP.ON_CLONE, KEY, rebuild_on_clone)
        patcher.set_injections(KEY, [UNDOING])

    def patched(self, place: Site | LengthSensor, forward: Forward) -> Forward:
        """Return `forward` of a site or a sensor with our part in it, as long as there is something to do."""
        is_reached = isinstance(place, LengthSensor) or place.reach == OPTIONS
        if isinstance(place, LengthSensor):
            function = self._sensing(place, forward)
        elif is_reached:
            function = named_from_options(self._at_site(place, forward), place.rule.arguments)
        else:
            function = entering(self._at_site(place, handing(forward)), place.reach, lambda: self.state.slot)
        if not compiles_whole() or not is_reached:
            # A graph break inside a site leaves compiled pieces behind that a plain model would run into later, so only
            # an attention without breaks is compiled (host: comfy/ldm/modules/attention.py, chosen at start). Where an
            # override is put into the model and taken out again, that is left out of any graph too.
            function = torch.compiler.disable(function)
        function.patched_forward = PatchedForward(self, place, forward, function)  # type: ignore[attr-defined]
        function.__name__ = method_of(place)  # a method is saved by its name: what is loaded is the class's own
        return function

    def _sensing(self, sensor: LengthSensor, forward: Forward) -> Forward:
        """Return `forward` that also writes down the length of the part of the sequence that it gets."""

        def sensing_forward(module: Any, /, *args: Any, **kwargs: Any) -> Any:
            if self.state.active:
                sensor.observe(SiteCall(args, kwargs), self.state.seen_lengths)
            return forward(module, *args, **kwargs)

        return sensing_forward

    # One sampling run, one model call

    def _outer_sample(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        self._end_aside(None)  # one that was never cleaned up
        run = self._begin_run()
        prompts = prompts_of_guider(executor.class_obj) if self.reads_prompts else None
        outer = self.run, self.prompts, self._scale, self._joined
        self.run, self.prompts, self._scale, self._joined = run, prompts, None, []
        try:
            with record_status(run), loading_errors_kept(getattr(executor.class_obj, "model_patcher", None)):
                self._remark_shared(executor.class_obj)
                return executor(*args, **kwargs)
        finally:
            self._forget_run()
            self.run, self.prompts, self._scale, self._joined = outer
            with log_exceptions(self.undescribed):
                self._end_run(run)

    def _evaluate(self, executor: Wrapped, *args: Any, **kwargs: Any) -> Any:
        if self.prompts is None:
            return executor(*args, **kwargs)
        return self.prompts.evaluate(executor, *args, **kwargs)

    def _apply_model(self, executor: Any, x: Tensor, t: Tensor, *args: Any, **kwargs: Any) -> Any:
        if self.run is None and not self.acts_outside_runs:
            return executor(x, t, *args, **kwargs)
        options = kwargs["transformer_options"] if "transformer_options" in kwargs else args[3]
        model = executor.class_obj
        acting = self._acting_on(model)
        if acting is None:  # another MODEL's call, in which ours has no part
            return executor(x, t, *args, **kwargs)
        is_outermost = LEVEL not in options
        level = level_of(options, t, self._scale_of(model.model_sampling, options.get("sample_sigmas")))
        if acting.run is not self.run:  # another GPU's, at its first call of this run
            acting._join(self.run)
            acting.prompts = self.prompts
            self._joined.append(acting)
        outer, has_opened = acting.state, False
        try:
            acting.state = acting._begin_call(level, x, options)
            if acting.state.active and any([site.reach == NETWORK for site in acting.sites]):
                acting.state.slot, has_opened = open_slot(options)
            result = executor(x, t, *args, **kwargs)
            acting._end_call(level)
            return result
        finally:
            ended, acting.state = acting.state, outer
            if has_opened:
                close_slot(options)
            if ended is not outer:
                acting._leave_call(ended)
            if is_outermost:
                options.pop(LEVEL, None)

    def _prompts_of(self, options: Mapping[str, Any], x: Tensor) -> CallPrompts:
        """Return which prompts the rows `x` of a model call belong to."""
        prompts = self.prompts
        if prompts is None and PLACES in options:  # a MODEL that the guider brought in without naming its prompts
            prompts = options[PLACES].source
        return NOBODY if prompts is None else prompts.of_call(options, len(x))

    def _scale_of(self, model_sampling: ModelSampling, sigmas: Any = None) -> NoiseScale:
        """Return the one scale of this run with its `sigmas`. Outside a run the model may be another each time."""
        if self.run is None:
            return NoiseScale(model_sampling)
        if self._scale is None:
            self._scale = NoiseScale(model_sampling, sigmas if isinstance(sigmas, Tensor) else None)
        return self._scale

    def _forget_run(self) -> None:
        """End the run here and at the patches that took part in it."""
        for patch in self._joined:
            patch.run = patch.prompts = None
        self.run, self.prompts, self._scale, self._joined = None, None, None, []


def named_from_options(function: Forward, names: tuple[str, ...]) -> Forward:
    """Return `function`, which gets `transformer_options` and what comes after by name, however it is called.

    Args:
        function: called with the module first.
        names: of the arguments after it that may be given by place; none where the options never are.
    """
    if "transformer_options" not in names:
        return function
    start = names.index("transformer_options")

    def named(module: Any, /, *args: Any, **kwargs: Any) -> Any:
        # Not strict: arguments beyond those names cannot be there.
        return function(module, *args[:start], **dict(zip(names[start:], args[start:], strict=False)), **kwargs)

    return named


@contextmanager
def record_status(record: Any) -> Iterator[None]:
    """Set the `status` of `record` to how the block ends: finished, interrupted by the user, or failed."""
    try:
        yield
        record.status = status_after(None)
    except BaseException as error:
        record.status = status_after(error)
        raise


def model_name(model: torch.nn.Module) -> str:
    """Return the name of a loaded model for messages: the class of its configuration, such as SD15, SDXL or Flux."""
    return type(getattr(model, "model_config", model)).__name__


def rebuild_on_clone(old: ModelPatcher, new: ModelPatcher) -> None:
    """Give a clone that holds another module (comfy/model_patcher.py, `clone`) patches of its own for that module.

    Our functions are methods of the modules they were made for, and hold the state of the model they are in. Functions
    of other packs below ours stay in the chain, and every function keeps its place in the order of the patches.
    """
    if new.model is old.model:
        return
    patches = [wrapper.__self__ for wrapper in new.get_wrappers(WrappersMP.OUTER_SAMPLE, KEY)]
    rebuilt_patches: dict[int, SitePatch] = {id(patch): patch.for_model() for patch in patches}

    def rebuilt(forward: Forward) -> Forward:
        ours = patched_forward_of(forward)
        return forward if ours is None else rebuilt_patches[id(ours.patch)].patched(ours.place, rebuilt(ours.inner))

    for path, function in list(new.object_patches.items()):
        if patched_forward_of(function) is not None:
            new.object_patches[path] = MethodType(rebuilt(function.__func__), own_module(new, path))
    for kind in (WrappersMP.OUTER_SAMPLE, WrappersMP.CALC_COND_BATCH, WrappersMP.APPLY_MODEL):
        new.remove_wrappers_with_key(kind, KEY)
    forget_aside(new)
    for patch in rebuilt_patches.values():
        patch.follow(new)
