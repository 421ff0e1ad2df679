"""Self-attention with the choice taken out, to see how much a model owes to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from lab.evidence.watching import self_attentions
from lab.testbed.next_dit import Attention, NextDiT


@contextmanager
def averaged_attention(network: nn.Module) -> Iterator[None]:
    """Inside the `with` block every self-attention retrieves the mean of its values, whatever its queries and keys.

    The values of all tokens are replaced by their mean. The weights of attention sum to 1, so the mean comes out. In a
    NextDiT these are the layers that the pixels go through, by themselves or with the tokens of the condition.
    """
    with ExitStack() as hooks:
        if isinstance(network, NextDiT):
            for each in attentions_of_pixels(network):
                hooks.callback(each.qkv.register_forward_hook(_mean_of_values).remove)
        else:
            for layer in self_attentions(network).values():
                hooks.callback(layer.to_v.register_forward_hook(_mean_of_tokens).remove)
        yield


def attentions_of_pixels(network: NextDiT) -> list[Attention]:
    """The attentions that pixels take part in, first to last."""
    return [block.attention for block in (*network.noise_refiner, *network.layers)]


def _mean_of_tokens(module: nn.Module, given: tuple[Tensor, ...], values: Tensor) -> Tensor:
    """(B, L, C) -> (B, L, C), the same for every token."""
    return values.mean(dim=1, keepdim=True).expand_as(values)


def _mean_of_values(module: nn.Module, given: tuple[Tensor, ...], projected: Tensor) -> Tensor:
    """(B, L, 3·C), of which the last third are the values -> the same with their mean over the tokens."""
    queries, keys, values = projected.chunk(3, dim=-1)
    return torch.cat([queries, keys, _mean_of_tokens(module, given, values)], dim=-1)
