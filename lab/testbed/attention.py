"""Self-attention with the choice taken out, to see how much a model owes to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from torch import Tensor, nn

from lab.evidence.watching import self_attentions


@contextmanager
def averaged_attention(unet: nn.Module) -> Iterator[None]:
    """Inside the `with` block every self-attention retrieves the mean of its values, whatever its queries and keys.

    The values of all tokens are replaced by their mean. The weights of attention sum to 1, so the mean comes out.
    """
    with ExitStack() as hooks:
        for layer in self_attentions(unet).values():
            hooks.callback(layer.to_v.register_forward_hook(_mean_of_tokens).remove)
        yield


def _mean_of_tokens(module: nn.Module, given: tuple[Tensor, ...], values: Tensor) -> Tensor:
    """(B, L, C) -> (B, L, C), the same for every token."""
    return values.mean(dim=1, keepdim=True).expand_as(values)
