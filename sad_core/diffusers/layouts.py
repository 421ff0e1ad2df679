"""The position of the image tokens in one attention call of a diffusers layer.

A rule is called with the arguments of the layer and returns a `Layout`, or None where the call is no self-attention.
It reads shapes and never a value, so that a compiled graph may hold it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

# From the arguments of a module, by place and by name, to a number of tokens.
ReadLength = Callable[[tuple[Any, ...], dict[str, Any]], int]


class Layout(NamedTuple):
    """The tokens of one attention call.

    Attributes:
        queries: how many queries it has.
        keys: how many keys; the queries are the last of them.
        start, stop: the image tokens among the queries.
    """

    queries: int
    keys: int
    start: int
    stop: int

    @property
    def is_square(self) -> bool:
        """Return True if every query and every key is an image token."""
        return self.queries == self.keys == self.stop - self.start


class LengthSensor:
    """A forward pre-hook that keeps a number of tokens that it reads in the arguments of a module.

    It is a hook of PyTorch and not a function in place of `forward`, because other packages replace `forward`. Every
    thread has a number of its own, because pipelines in several threads may share a model.

    Attributes:
        read: returns the number for the arguments of a call.
        in_graph: the number of the last call if it was a part of a compiled graph, which cannot write for a thread.
        last: the number of the last call in any thread, for threads that make none, as those of PyTorch in which
            checkpointed layers are computed again for their gradient.
        key: of the hook at its module; None before it is put there.
    """

    def __init__(self, read: ReadLength) -> None:
        self.read = read
        self.key: int | None = None
        self.forget()

    def forget(self) -> None:
        """Forget the calls of before."""
        self.in_graph: int | None = None
        self.last: int | None = None
        self._of_thread = threading.local()

    def __call__(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        length = self.read(args, kwargs)
        if torch.compiler.is_compiling():
            self.in_graph = length
        else:
            self._of_thread.seen = self.last = length
            self.in_graph = None

    @property
    def seen(self) -> int | None:
        """The number of the last call in this thread, or in any where it made none; None before the first."""
        return getattr(self._of_thread, "seen", self.last) if self.in_graph is None else self.in_graph

    def __reduce__(self) -> tuple[type[LengthSensor], tuple[ReadLength]]:
        """Copy and save the sensor without what it saw."""
        return LengthSensor, (self.read,)


@dataclass(frozen=True)
class LayerCall:
    """One call of an attention layer.

    Attributes:
        attention: the layer.
        args, kwargs: what it was called with.
        sensor: what a module before it was given, if its rule needs that.
    """

    attention: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    sensor: LengthSensor | None = None

    @property
    def hidden_states(self) -> Tensor:
        """The tokens, `(B, L, C)` or `(B, C, H, W)`."""
        hidden_states: Tensor = argument(self.args, self.kwargs, 0, "hidden_states")
        return hidden_states

    @property
    def others(self) -> Any:
        """The tokens of the second input, `(B, L, C)`; None where there is none."""
        return argument(self.args, self.kwargs, 1, "encoder_hidden_states")


Rule = Callable[[LayerCall], Layout | None]


def argument(args: tuple[Any, ...], kwargs: dict[str, Any], position: int, name: str) -> Any:
    """Return an argument that may be given by its place or by its name; None where it is not given."""
    return args[position] if position < len(args) else kwargs.get(name)


def every_token(call: LayerCall) -> Layout:
    """All tokens are image tokens."""
    tokens = _tokens(call.hidden_states)
    return Layout(tokens, tokens, 0, tokens)


def without_text(call: LayerCall) -> Layout | None:
    """All tokens, where the layer is given no second input. With one it is cross-attention."""
    return every_token(call) if call.others is None else None


def after_added_keys(call: LayerCall) -> Layout | None:
    """All queries; the keys of added tokens (text, in DeepFloyd IF) come first."""
    if call.attention.only_cross_attention:
        return None
    tokens = _tokens(call.hidden_states)
    added = tokens if call.others is None else call.others.shape[1]
    return Layout(tokens, added + tokens, 0, tokens)


def image_first(call: LayerCall) -> Layout:
    """The tokens of the first input, and then those of the second."""
    image = _tokens(call.hidden_states)
    tokens = image + (0 if call.others is None else call.others.shape[1])
    return Layout(tokens, tokens, 0, image)


def image_last(call: LayerCall) -> Layout:
    """The tokens of the second input, and then those of the first."""
    image = _tokens(call.hidden_states)
    tokens = image + (0 if call.others is None else call.others.shape[1])
    return Layout(tokens, tokens, tokens - image, tokens)


def after_sensed(call: LayerCall) -> Layout:
    """One sequence, whose first tokens, as many as the sensor saw, are no image tokens."""
    tokens = _tokens(call.hidden_states)
    return Layout(tokens, tokens, _sensed(call), tokens)


def sensed_first(call: LayerCall) -> Layout:
    """One sequence, whose first tokens, as many as the sensor saw, are the image tokens."""
    tokens = _tokens(call.hidden_states)
    return Layout(tokens, tokens, 0, _sensed(call))


def _tokens(hidden_states: Tensor) -> int:
    """The number of tokens in `(B, L, C)`, or of pixels in `(B, C, H, W)`."""
    shape = hidden_states.shape
    return int(shape[1]) if len(shape) == 3 else int(shape[2] * shape[3])


def _sensed(call: LayerCall) -> int:
    """The number of tokens that the sensor of a layer saw in this model call.

    Raises:
        ValueError: the sensor saw no call.
    """
    sensor = call.sensor
    if sensor is None or sensor.seen is None:
        raise ValueError("γ cannot act in a block that is called on its own. Call the whole model.")
    return sensor.seen


def length_of_input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """The tokens of the first argument of a layer of PyTorch, `(B, L, C)`."""
    return int(argument(args, kwargs, 0, "input").shape[1])


def length_of_x(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """The tokens of the argument `x`, `(B, L, C)`."""
    return int(argument(args, kwargs, 0, "x").shape[1])


def length_of_text(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """The tokens of the text that a block of Flux is given, `(B, L, C)`."""
    return int(argument(args, kwargs, 1, "encoder_hidden_states").shape[1])


def length_of_images(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """The patches of each image that Z-Image is given, a list of `(C, F, H, W)`; its padding is not counted.

    Raises:
        ValueError: images of several sizes, or with references.
    """
    images = argument(args, kwargs, 0, "x")
    if isinstance(images[0], list) or any(image.shape != images[0].shape for image in images):
        raise ValueError(
            "γ cannot act in this call, because its images differ in size or some are references. Pass images of one "
            "size and no references, or remove γ with set_skew_attention(model, gamma=1.0)."
        )
    _, frames, height, width = images[0].shape
    patch, patch_frames = argument(args, kwargs, 7, "patch_size") or 2, argument(args, kwargs, 8, "f_patch_size") or 1
    return int((frames // patch_frames) * (height // patch) * (width // patch))
