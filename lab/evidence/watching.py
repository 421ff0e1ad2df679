"""Hooks that record the inputs and retrievals of the demo model's self-attention. They change no bit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

PARTS = {"down_blocks": "down", "mid_block": "middle", "up_blocks": "up"}


@dataclass
class Seen:
    """The last call of one layer, each `(B, H, L, d)`: its queries, its keys, and what it retrieved of its values.

    The last is taken just before the output projection, so it is what really went on: after γ, β and the norm.
    """

    queries: Tensor = field(init=False)
    keys: Tensor = field(init=False)
    retrieved: Tensor = field(init=False)

    def rows(self, first: int, last: int) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and retrieved of some samples of the batch."""
        return self.queries[first:last], self.keys[first:last], self.retrieved[first:last]


def self_attentions(unet: nn.Module) -> dict[str, Any]:
    """The self-attention layers by site, in the order of the model: `down.0.0` (block, place), `middle.0`, `up.2.1`."""
    layers = {name: module for name, module in unet.named_modules() if name.endswith(".attn1")}
    return dict(sorted((site_of(name), layer) for name, layer in layers.items()))


def site_of(name: str) -> str:
    """`up_blocks.2.attentions.1.transformer_blocks.0.attn1` -> `up.2.1`."""
    part, *others = name.partition(".transformer_blocks.")[0].split(".")
    return ".".join([PARTS[part], *(word for word in others if word.isdigit())])


@contextmanager
def watching(layers: Mapping[str, Any]) -> Iterator[dict[str, Seen]]:
    """Inside the `with` block the answer holds the last call of each layer, by the same names."""
    seen = {name: Seen() for name in layers}
    with ExitStack() as hooks:
        for name, layer in layers.items():
            for projection, part in ((layer.to_q, "queries"), (layer.to_k, "keys")):
                hooks.callback(projection.register_forward_hook(_keep_output(seen[name], part, layer.heads)).remove)
            hooks.callback(layer.to_out[0].register_forward_pre_hook(_keep_input(seen[name], layer.heads)).remove)
        yield seen


def _keep_output(seen: Seen, part: str, heads: int) -> Any:
    def hook(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        setattr(seen, part, _to_heads(output, heads))

    return hook


def _keep_input(seen: Seen, heads: int) -> Any:
    def hook(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        seen.retrieved = _to_heads(given[0], heads)

    return hook


def _to_heads(packed: Tensor, heads: int) -> Tensor:
    """(B, L, heads·d) -> (B, heads, L, d)."""
    by_heads: Tensor = packed.unflatten(-1, (heads, -1)).transpose(1, 2)
    return by_heads
