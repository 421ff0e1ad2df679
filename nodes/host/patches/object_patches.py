"""Functions of ours in the place of a module's `forward` or another of its methods, as ComfyUI's object patches: what
they are made of, and how the host takes them back.

A function of ours is a method of the module it is put on, and so is what it calls in turn. A copy of the network
therefore runs its own weights, and one that was saved whole and loaded has the `forward` of its class.

ComfyUI applies object patches in the order they were made and undoes them in the same order (comfy/model_patcher.py,
`patch_model` and `unpatch_model`). Where a module is replaced after something in it was patched, the host would look
for the patched part in the replacement. `undo_in_order` reverses the order of undoing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from traceback import walk_tb
from types import MethodType
from typing import Any

from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import PatcherInjection

from ..models.site_rules import FORWARD, LengthSensor
from ..models.sites import Site

Forward = Callable[..., Any]  # called with the module first, as the `forward` of a class is


@dataclass(frozen=True)
class PatchedForward:
    """The parts of our function at a site or a sensor. The function carries them as `patched_forward`.

    Attributes:
        patch: the `SitePatch` it belongs to.
        place: where it is.
        inner: what it calls in turn.
        function: itself, as another pack's wrapper may have all its attributes.
    """

    patch: Any
    place: Site | LengthSensor
    inner: Forward
    function: Forward


def patched_forward_of(function: Any) -> PatchedForward | None:
    """Return what a function at a site is made of, if it is one of ours."""
    if isinstance(function, MethodType):
        function = function.__func__
    ours = getattr(function, "patched_forward", None)
    return ours if isinstance(ours, PatchedForward) and ours.function is function else None


def method_of(place: Site | LengthSensor) -> str:
    """Return the name of the method that we patch: `forward`, or what the rule of a site says."""
    return FORWARD if isinstance(place, LengthSensor) else place.rule.method


def object_path(place: Site | LengthSensor) -> str:
    """Return the name under which ComfyUI patches the method of a site or a sensor."""
    return f"diffusion_model.{place.path}.{method_of(place)}"


def own_object(patcher: ModelPatcher, path: str) -> Any:
    """Return what is at `path` in the network of `patcher` when no object patch of any clone is applied."""
    found, walked = patcher.model, ""
    for name in path.split("."):
        walked = f"{walked}.{name}" if walked else name
        backup = patcher.object_patches_backup
        found = backup[walked] if walked in backup else getattr(found, name)
    return found


def own_module(patcher: ModelPatcher, path: str) -> Any:
    """Return the module whose `forward` is at `path`, whatever a clone has put in its place or around it."""
    return own_object(patcher, path.rpartition(".")[0])


def own_forward(patcher: ModelPatcher, path: str) -> Forward:
    """Return the `forward` at `path` as this patcher will have it, whatever another clone left in the network."""
    if path in patcher.object_patches:
        return with_module(patcher.object_patches[path], own_module(patcher, path))
    return with_module(without_ours(own_object(patcher, path)), own_module(patcher, path))


def with_module(function: Callable[..., Any], module: Any) -> Forward:
    """Return what `function`, the `forward` of `module`, does, to be called with the module first.

    PyTorch 2.8 compiles a function of ours anew for every bound method that it holds, so a site of every block; the
    function of a method is the same for all modules of a class.
    """
    if isinstance(function, MethodType) and function.__self__ is module:
        return function.__func__

    def forward(module: Any, /, *args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return forward


def without_ours(function: Any) -> Any:
    """Return what a `forward` that was found on a network was before ours, which a copy of a patched network holds."""
    ours = patched_forward_of(function)
    if ours is None:
        return function
    inner = ours.inner
    while (below := patched_forward_of(inner)) is not None:
        inner = below.inner
    return MethodType(inner, function.__self__)


def undo_in_order(patcher: ModelPatcher) -> None:
    """Make the host undo the object patches of `patcher`, which are applied now, in the reverse of their order.

    The backup is shared by all clones, so this holds for whichever of them takes the patches back.
    """
    backup = patcher.object_patches_backup
    paths = [path for path in reversed(patcher.object_patches) if path in backup]
    paths += [path for path in backup if path not in patcher.object_patches]
    originals = {path: without_ours(backup[path]) for path in paths}
    backup.clear()
    backup.update(originals)


def take_off(patcher: ModelPatcher) -> None:
    """Take our functions off modules that the host holds to be unpatched, as after a load that failed."""
    for path, function in patcher.object_patches.items():
        if patched_forward_of(function) is not None and path not in patcher.object_patches_backup:
            module, name = function.__self__, path.rpartition(".")[2]
            if getattr(module, name) == function:
                setattr(module, name, without_ours(function))


@contextmanager
def loading_errors_kept(patcher: ModelPatcher | None) -> Iterator[None]:
    """Let a load that fails, out of memory for example, end in its own error and leave nothing of ours behind.

    The host then undoes the object patches before `undo_in_order` could be called.

    Args:
        patcher: whose run it is; None where a guider of another pack does not say.
    """
    try:
        yield
    except Exception as error:
        if patcher is not None:
            take_off(patcher)
        first = error.__context__
        in_undoing = any(frame.f_code.co_name == "unpatch_model" for frame, _ in walk_tb(error.__traceback__))
        if isinstance(error, AttributeError) and isinstance(first, Exception) and in_undoing:
            raise first from None
        raise


def _nothing(patcher: ModelPatcher) -> None:
    """Leave the functions to the host, which undoes object patches."""


# ComfyUI injects at the end of every load. Its ON_LOAD comes earlier, and not where the weights are loaded already.
UNDOING = PatcherInjection(inject=undo_in_order, eject=_nothing)
