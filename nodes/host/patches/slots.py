"""The slots of overrides for attention calls that do not read the options given to their block.

A site gets its override into the options of the call, as ComfyUI's blocks hand them on to the attention. Two kinds of
blocks do not. In some networks the attention is called by a function that holds the options of the whole forward (reach
`NETWORK`). In others no options get there, but each attention module has a child that names the attention of its layer
(reach `LAYER`, ComfyUI 0.40 and later: `comfy_attention`, whose `function` is called in place of the host's own).

At such a site our functions get and set the override in made-up options, as at any other. `entering` makes them up, and
`handing` puts what was set where the attention call finds it, for that one call of the block.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Protocol

from comfy.ldm.modules.attention import optimized_attention
from torch import Tensor

from ..models.reach import CHILD, GIVEN_AS
from ..models.site_rules import NETWORK
from ..shared import Shared
from .attention_backend import Backend

OVERRIDE = "optimized_attention_override"
SLOT, GIVEN = "symmetric_attention_slot", "symmetric_attention_given"  # keys of the made-up options
Forward = Callable[..., Any]


class Slot(Protocol):
    """A place for one override.

    Attributes:
        content: what was there, to be put back.
    """

    content: Any

    @property
    def override(self) -> Backend | None:
        """The override there."""

    def put(self, override: Backend) -> None:
        """Put `override` there."""


class NetworkSlot(Shared):
    """The override in the options of a whole model call, which acts as that of the block that runs.

    Attributes:
        previous: the override of another pack that was there.
        content: the override of the block that runs; `previous` where none of ours is in it.
    """

    def __init__(self, previous: Backend | None):
        self.previous = self.content = previous

    def __call__(self, function: Backend, *args: Any, **keyword: Any) -> Tensor:
        """The host's attention call, passed on."""
        return function(*args, **keyword) if self.content is None else self.content(function, *args, **keyword)

    @property
    def override(self) -> Backend | None:
        """The override there."""
        return self.content

    def put(self, override: Backend) -> None:
        """Put `override` there."""
        self.content = override


class LayerFunction:
    """An override in the place of the attention that a layer asks for; it gets tensors, and the host's attention."""

    def __init__(self, override: Backend):
        self.override = override

    def __call__(self, q: Any, k: Any, v: Any, *args: Any, **keyword: Any) -> Tensor:
        """The host's attention call; q, k and v are tensors, or containers that give theirs away once."""
        tensors = [each if isinstance(each, Tensor) else each.take() for each in (q, k, v)]
        return self.override(inspect.unwrap(optimized_attention), *tensors, *args, **keyword)


class LayerSlot:
    """The place for an override in the child of one attention module."""

    def __init__(self, child: Any):
        self.child = child

    @property
    def content(self) -> Any:
        """The function there: ours, the attention that a checkpoint asks for, or None."""
        return self.child.function

    @content.setter
    def content(self, function: Any) -> None:
        self.child.function = function

    @property
    def override(self) -> Backend | None:
        """The override there. The attention that a checkpoint asks for does not count, and ours replaces it."""
        function = self.child.function
        return function.override if isinstance(function, LayerFunction) else None

    def put(self, override: Backend) -> None:
        """Put `override` there."""
        self.child.function = LayerFunction(override)


def open_slot(options: dict[str, Any]) -> tuple[NetworkSlot, bool]:
    """Return the slot in the options of a model call, and whether it was put there now."""
    found = options.get(OVERRIDE)
    if isinstance(found, NetworkSlot):
        return found, False
    slot = options[OVERRIDE] = NetworkSlot(found)
    return slot, True


def close_slot(options: dict[str, Any]) -> None:
    """Put back what was in the options before `open_slot`."""
    slot = options.get(OVERRIDE)
    if isinstance(slot, NetworkSlot):
        del options[OVERRIDE]
        if slot.previous is not None:
            options[OVERRIDE] = slot.previous


def entering(function: Forward, reach: str, slot_of_call: Callable[[], NetworkSlot | None]) -> Forward:
    """Return `function`, ours at a site, to be called as the block is.

    Args:
        reach: `NETWORK` or `LAYER`.
        slot_of_call: gives the slot of the model call that is going on, where there is one.
    """

    def entered(module: Any, /, *args: Any, **kwargs: Any) -> Any:
        slot: Slot | None = slot_of_call() if reach == NETWORK else LayerSlot(getattr(module, CHILD))
        if slot is None:
            return function(module, *args, **kwargs)
        given = kwargs.get(GIVEN_AS)
        options = {**(given or {}), OVERRIDE: slot.override, SLOT: slot, GIVEN: given}
        return function(module, *args, **{**kwargs, GIVEN_AS: options})

    return entered


def handing(forward: Forward) -> Forward:
    """Return `forward`, the block's own, to be called with made-up options."""

    def handed(module: Any, /, *args: Any, **kwargs: Any) -> Any:
        options = kwargs.get(GIVEN_AS)
        if not isinstance(options, dict) or SLOT not in options:
            return forward(module, *args, **kwargs)
        slot, override, given = options[SLOT], options[OVERRIDE], options[GIVEN]
        del kwargs[GIVEN_AS]
        if given is not None:
            kwargs[GIVEN_AS] = given
        if override is slot.override:
            return forward(module, *args, **kwargs)
        before = slot.content
        slot.put(override)
        try:
            return forward(module, *args, **kwargs)
        finally:
            slot.content = before

    return handed
