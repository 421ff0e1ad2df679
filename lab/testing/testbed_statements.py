"""Slow plain statements of what arms of the test bed do, for both of its architectures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from lab.testbed import next_dit
from lab.testbed.arms import Arm
from lab.testbed.seeded_noise import SeededNoise

# ComfyUI's percentages and the test bed's steps: 1 row a sample without guidance, 2 with it.
each_part_without_guidance = pytest.mark.parametrize(
    ("name", "passes"),
    [
        ("CFG in an interval 4", [1, 1, 2, 2, 2, 2, 2, 2, 1, 1]),
        ("CFG off at first 0.3", [1, 1, 1, 2, 2, 2, 2, 2, 2, 2]),
    ],
)
PIXELS = slice(-64, None)  # the last tokens of a sequence of the DiT

Change = Callable[[Tensor], Tensor]


@contextmanager
def attending(blocks: Iterable[Any], queries: Change = lambda q: q, scores: Change = lambda s: s) -> Iterator[None]:
    """Attention by its definition in some blocks of the DiT, with its projected queries or its scores changed."""

    def forward(self: Any, x: Tensor, rotation: Tensor) -> Any:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = (next_dit.rotate(norm(each), rotation) for norm, each in ((self.q_norm, queries(q)), (self.k_norm, k)))
        weights = scores(q @ k.mT * q.shape[-1] ** -0.5).softmax(dim=-1)
        return self.out((weights @ v).transpose(1, 2).flatten(-2))

    layers = [block.attention for block in blocks]
    for layer in layers:
        layer.forward = forward.__get__(layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def of_pixels(change: Change) -> Change:
    """A change of only the scores among the pixels."""

    def changed(scores: Tensor) -> Tensor:
        out = scores.clone()
        out[..., PIXELS, PIXELS] = change(scores[..., PIXELS, PIXELS])
        return out

    return changed


def annealed(y: Tensor, left: float, number: int, seed: int) -> Tensor:
    """The condition y (tokens, width) of a seed by CADS from 0.9 to 0.3 of the run, at the time left and step."""
    share = 0.0 if left >= 0.9 else 1.0 if left <= 0.3 else (0.9 - left) / (0.9 - 0.3)
    n = SeededNoise((seed,)).draw("CADS", number, y.shape)[0]
    mixed = share**0.5 * y + 0.1 * (1 - share) ** 0.5 * n
    rescaled: Tensor = (mixed - mixed.mean()) / mixed.std() * y.std() + y.mean()
    return rescaled


def disturbed(y: Tensor, left: float, number: int, seed: int) -> Tensor:
    """The condition y (tokens, width) of a seed with uniform noise of strength 3 on half of it, in two steps."""
    noise = SeededNoise((seed,))
    uniform = 2 * noise.draw_uniform("strength", 0, y.shape)[0] - 1
    chosen = noise.draw_uniform("chosen", 0, y.shape)[0] < 0.5
    return torch.where(chosen, y + 3.0 * uniform, y) if number < 2 else y


def passes_by_step(bed: Any, arms: Iterable[Arm], name: str) -> list[int]:
    """The rows that the network sees of one sample in each step, under an arm by name: 2 with guidance, 1 without."""
    from comfy.patcher_extension import WrappersMP  # ComfyUI has to be started first

    from lab.testbed.in_comfyui import draw_latents

    seen: list[int] = []

    def watch(executor: Any, x: Tensor, *arguments: Any, **named: Any) -> Any:
        seen.append(len(x))
        return executor(x, *arguments, **named)

    model = bed.model.clone()
    model.add_wrapper(WrappersMP.DIFFUSION_MODEL, watch)
    (arm,) = (each for each in arms if each.name == name)
    draw_latents(replace(bed, model=model), arm, [0])
    return seen
