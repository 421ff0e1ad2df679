"""Where the image tokens are in one attention call of a diffusers layer.

A rule is called with the arguments of the layer and returns a `Layout`, or None where the call is no self-attention.
It reads shapes and never a value, so that a compiled graph may hold it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor


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


@dataclass
class LengthSensor:
    """A forward pre-hook that keeps how many tokens entered a module in the current model call.

    It is a hook of PyTorch and not a function in place of `forward`, because other packages replace `forward`.

    Attributes:
        position, name: the argument that holds the tokens, `(B, L, C)`.
        single: the name of an argument, and its position, that only calls with one kind of image leave at None.
        seen: the number of tokens.
        has_single_kind: whether the argument `single` was None.
    """

    position: int
    name: str
    single: tuple[tuple[int, str], ...] = ()
    seen: int | None = None
    has_single_kind: bool = True

    def __call__(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.seen = argument(args, kwargs, self.position, self.name).shape[1]
        self.has_single_kind = all(argument(args, kwargs, *each) is None for each in self.single)


@dataclass(frozen=True)
class LayerCall:
    """One call of an attention layer.

    Attributes:
        attention: the layer.
        args, kwargs: what it was called with.
        sensor: what the module before it saw, if its rule needs that.
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
        ValueError: the sensor saw none, or a call with images of several sizes or kinds.
    """
    sensor = call.sensor
    if sensor is None or sensor.seen is None:
        raise ValueError("γ cannot act in a block that is called on its own. Call the whole model.")
    if not sensor.has_single_kind:
        raise ValueError(
            "γ cannot act in this call, because its images differ in size or some are references. "
            "Give images of one size and no references, or take γ away with set_skew_attention(model, gamma=1.0)."
        )
    return sensor.seen
