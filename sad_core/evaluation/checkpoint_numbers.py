"""By which a checkpoint is told from others of its class: a few numbers out of its weights."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

PLACES, NUMBERS = 4, 4  # weights that are looked at, and numbers of each


def some_vectors(named: Iterable[tuple[str, Tensor]]) -> list[tuple[str, Tensor]]:
    """Return a few of a network's biases and norms with their names, from its named parameters."""
    vectors = {name: weight for name, weight in named if weight.dim() == 1}
    names = sorted(name for name, weight in vectors.items() if weight.numel() >= NUMBERS)
    chosen = [names[index * (len(names) - 1) // (PLACES - 1)] for index in range(PLACES)] if names else []
    return [(name, vectors[name]) for name in chosen]


def first_numbers(weights: Iterable[Tensor]) -> tuple[float, ...]:
    """Return the first numbers of each weight; none where one is not finite."""
    found = [number for weight in weights for number in weight.detach().flatten()[:NUMBERS].to("cpu", torch.float32)]
    numbers = tuple(map(float, found))
    return numbers if all(torch.isfinite(torch.tensor(numbers)).tolist()) else ()
