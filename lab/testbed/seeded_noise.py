"""Noise of a sample's own: it follows from the seed, the purpose and the step, whatever else is in the batch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class SeededNoise:
    """For N samples."""

    seeds: Sequence[int]

    def draw(self, purpose: str, number: int, shape: Sequence[int]) -> Tensor:
        """Standard normal numbers (N, *shape)."""
        return torch.stack([torch.randn(*shape, generator=each) for each in self._generators(purpose, number)])

    def draw_uniform(self, purpose: str, number: int, shape: Sequence[int]) -> Tensor:
        """Uniform numbers (N, *shape) in [0, 1)."""
        return torch.stack([torch.rand(*shape, generator=each) for each in self._generators(purpose, number)])

    def _generators(self, purpose: str, number: int) -> Iterator[torch.Generator]:
        for seed in self.seeds:
            digest = hashlib.sha256(f"{seed} {purpose} {number}".encode()).digest()
            yield torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
