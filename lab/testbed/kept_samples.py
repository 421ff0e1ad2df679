"""Samples in a file that grows while they are drawn, so that an interrupted run continues where it stopped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sad_core.whole_file import whole_file

DRAWN_AT_A_TIME = 100


def kept_samples(
    path: Path,
    seeds: Sequence[int],
    draw_some: Callable[[Sequence[int]], Tensor],
    name: str = "",
    at_a_time: int = DRAWN_AT_A_TIME,
) -> Tensor:
    """Return samples (N, 1, 28, 28) in [0, 1] of the seeds, in steps of 1/255. Draws those that `path` lacks.

    Args:
        path: of the file, which grows by `at_a_time` samples.
        seeds: of the samples, in their order. The file holds the samples of the first of them.
        draw_some: returns the samples of some seeds.
        name: printed with the progress; the name of the file by default.
        at_a_time: as many are drawn together.
    """
    pixels = load_file(path)["pixels"] if path.exists() else torch.empty(0, 1, 28, 28, dtype=torch.uint8)
    while len(pixels) < len(seeds):
        some = draw_some(seeds[len(pixels) : len(pixels) + at_a_time])
        pixels = torch.cat([pixels, (some * 255).round().to(torch.uint8)])
        with whole_file(path) as unfinished:
            save_file({"pixels": pixels}, unfinished)
        print(f"{name or path.stem}: {len(pixels)} of {len(seeds)} samples", flush=True)
    return pixels[: len(seeds)].float() / 255
