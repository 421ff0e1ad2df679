"""Runs in which a guider samples a MODEL besides its own, as the negative one of *Dual Model CFG Guider*.

ComfyUI calls the wrappers of the guider's own MODEL for all of them. The other MODEL is only told that it is prepared,
that a step begins and that the run has ended (comfy/model_patcher.py, `pre_run`, `prepare_state`, `cleanup`). From
that a patch on it makes a run of its own, and it puts its wrapper of the model calls into the options of the guider's
run.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from typing import Any

import torch
from comfy import model_management
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import CallbacksMP, WrappersMP, add_wrapper_with_key, get_wrappers_with_key

from ..browser import log_exceptions
from ..prompts import RunPrompts

KEY = "symmetric_attention"
DISPLACED = (
    "The sampler was also given another MODEL of the same checkpoint. ComfyUI uses the patches of the guider's first "
    "MODEL for both. This node is only on the other one, so it did nothing in this run. Put it on the first MODEL of "
    "the guider"
)
UNSHOWN = (
    "The sampler ran on another MODEL and also called this one. This version of ComfyUI does not let a node act in "
    "such calls, so this node did nothing in this run. Update ComfyUI to 0.33.0 or newer"
)


class StoppedEarly(Exception):
    """Raised inside a sampling run by what started it, where the run is not needed any further."""


class SideRuns:
    """The part of a patch that finds the MODEL of a call, and follows runs that it is not called for.

    `SitePatch` inherits it.

    Attributes:
        handle: of the node; patches of the same node on other modules have the same.
        run: the sampling run that is going on, or None.
        prompts: of the run, by name.
        reads_prompts: whether it matters which prompt a row belongs to.
        undescribed: what the log says where a run that has ended cannot be described.
    """

    handle: Any
    run: Any
    prompts: RunPrompts | None
    reads_prompts: bool
    undescribed: str
    _apply_model: Callable[..., Any]
    _begin_run: Callable[[], Any]
    _end_run: Callable[[Any], None]
    _remark: Callable[[str], None]
    _forget_run: Callable[[], None]

    def __init__(self) -> None:
        self._own_model: weakref.ref[torch.nn.Module] | None = None  # the one that holds our functions
        self._is_prepared = False  # for a run that no guider has called us for
        self._is_aside = False  # `run` is such a run
        self._is_unshown = False  # the host does not show the options of its calls
        self._lists: list[list[Any]] = []  # of wrappers, in the options of other MODELs' calls, with ours among them
        self._given: RunPrompts | None = None  # its prompts
        self._error_before: BaseException | None = None  # that was already on its way when it began

    @property
    def own_model(self) -> torch.nn.Module | None:
        """The loaded model that holds the functions of this patch; None once it is gone."""
        return None if self._own_model is None else self._own_model()

    # Whose call it is

    def _acting_on(self, model: Any) -> Any:
        """Return the patch of our node whose functions `model` holds, None where it holds none.

        On several GPUs, and where a guider samples several MODELs, the host calls the wrappers of the main one for all.
        """
        patcher = getattr(model, "current_patcher", None)
        if patcher is None:  # outside of a run
            return self if model is not None and model is self.own_model else None
        return self._of_our_node(patcher)

    def _of_our_node(self, patcher: ModelPatcher) -> Any:
        """Return the patch of our node on a patcher, or None."""
        wrappers = patcher.get_wrappers(WrappersMP.OUTER_SAMPLE, KEY)
        return next((each.__self__ for each in wrappers if each.__self__.handle is self.handle), None)

    def _remark_shared(self, guider: Any) -> None:
        """Say where the guider has other MODELs of our checkpoint, which share what our node does."""
        own = getattr(guider, "model_patcher", None)
        others = [each for each in getattr(guider, "__dict__", {}).values() if isinstance(each, ModelPatcher)]
        if any(
            own is not None and each is not own and each.is_clone(own) and self._of_our_node(each) is None
            for each in others
        ):
            self._remark(
                "The sampler was also given a MODEL of the same checkpoint that did not go through this node. ComfyUI "
                "uses the patches of the guider's first MODEL for both, so this node acts on both"
            )

    # Runs aside

    def follow_aside(self, patcher: ModelPatcher) -> None:
        """Have `patcher` report the runs that the guider of another MODEL makes with it."""
        self._own_model = weakref.ref(patcher.model)
        patcher.add_callback_with_key(CallbacksMP.ON_PRE_RUN, KEY, self._prepared)
        patcher.add_callback_with_key(CallbacksMP.ON_PREPARE_STATE, KEY, self._step_begins)
        patcher.add_callback_with_key(CallbacksMP.ON_CLEANUP, KEY, self._cleaned_up)
        if self.reads_prompts:  # such a MODEL is loaded with its own options, so only a wrapper in these is called
            add_wrapper_with_key(
                WrappersMP.PREPARE_SAMPLING, KEY, self._prompts_given, patcher.model_options, is_model_options=True
            )

    def _prompts_given(
        self, executor: Callable[..., Any], model: Any, noise_shape: Any, conds: Any, *args: Any, **kwargs: Any
    ) -> Any:
        if self.run is None or self._is_aside:
            given = dict(conds)
            self._given = RunPrompts(given, lambda: given).without_contents()
        return executor(model, noise_shape, conds, *args, **kwargs)

    def _prepared(self, patcher: ModelPatcher) -> None:
        if self.run is not None and not self._is_aside:
            return  # the guider's own MODEL
        self._end_aside(None)  # one that was never cleaned up
        # Further devices of the guider's own MODEL take part in its run.
        self._is_prepared = not getattr(patcher, "is_multigpu_base_clone", False)
        self._error_before = sys.exc_info()[1]

    def _step_begins(self, patcher: ModelPatcher, timestep: Any, model_options: dict[str, Any] | None = None) -> None:
        if not self._is_prepared:  # the guider's own MODEL, whose calls already have our wrapper
            return
        if model_options is None:  # ComfyUI 0.19 does not show them
            self._is_unshown = True
            return
        following = get_wrappers_with_key(WrappersMP.APPLY_MODEL, KEY, model_options, is_model_options=True)
        if not any(each.__self__.handle is self.handle for each in following):
            self._begin_aside()
            add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, self._apply_model, model_options, is_model_options=True)
            self._lists.append(model_options["transformer_options"]["wrappers"][WrappersMP.APPLY_MODEL][KEY])

    def _begin_aside(self) -> None:
        if self.run is None:
            self.run, self._is_aside = self._begin_run(), True
            self.prompts = self._given

    def _cleaned_up(self, patcher: ModelPatcher) -> None:
        if self._is_prepared and self.run is None:  # the model was not called
            loaded = [each.model for each in model_management.current_loaded_models]
            self._begin_aside()
            if any(each is not patcher and patcher.is_clone(each) for each in loaded):
                self._remark(DISPLACED)
            elif self._is_unshown:
                self._remark(UNSHOWN)
        error = sys.exc_info()[1]
        self._end_aside(None if error is self._error_before else error)
        self._given = self._error_before = None

    def _end_aside(self, error: BaseException | None) -> None:
        """End the run aside, if there is one; `error` is what ended it before its time."""
        run, was_aside = self.run, self._is_aside
        self._is_prepared = self._is_aside = self._is_unshown = False
        for wrappers in self._lists:  # the options may be those of another pack, which keeps them
            if self._apply_model in wrappers:
                wrappers.remove(self._apply_model)
        self._lists.clear()
        if was_aside:
            run.status = status_after(error)
            self._forget_run()
            with log_exceptions(self.undescribed):
                self._end_run(run)


def forget_aside(patcher: ModelPatcher) -> None:
    """Take away what `follow_aside` added to a patcher."""
    for kind in (CallbacksMP.ON_PRE_RUN, CallbacksMP.ON_PREPARE_STATE, CallbacksMP.ON_CLEANUP):
        patcher.remove_callbacks_with_key(kind, KEY)
    wrappers = patcher.model_options.get("transformer_options", {}).get("wrappers", {})
    wrappers.get(WrappersMP.PREPARE_SAMPLING, {}).pop(KEY, None)


def status_after(error: BaseException | None) -> str:
    """Return the status of what `error` ended: finished, stopped early, interrupted by the user, or failed."""
    if error is None:
        return "finished"
    if isinstance(error, model_management.InterruptProcessingException):
        return "interrupted"
    if isinstance(error, StoppedEarly):
        return "stopped early"
    return f"failed ({type(error).__name__})"
