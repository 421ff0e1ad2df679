"""Sampling runs with random measures, for tests of what is made of traces."""

from __future__ import annotations

from typing import Any

import torch

from sad_core.stability.run import StabilityRun
from sad_core.stability.step import Sample

SITES = (("input.1.0", 2), ("middle.0.0", 3))
MEASURES = ("energy", "alignment")
PASSES = ("positive", "negative")


def a_run(
    seed: int,
    steps: int = 20,
    samples: int = 2,
    sites: tuple[tuple[str, int], ...] = SITES,
    passes: tuple[str, ...] = PASSES,
    shift: float = 0.0,
    **options: Any,
) -> StabilityRun:
    """Return a finished run; its numbers are normally distributed around `shift`. `options` are those of the run."""
    run = StabilityRun(options.pop("model", "SD15"), tuple(address for address, _ in sites), MEASURES, **options)
    generator = torch.Generator().manual_seed(seed)
    names = [Sample(name, number) for name in passes for number in range(samples)]
    for step in range(steps):
        values = {
            address: torch.randn(len(names), len(MEASURES), heads, generator=generator) + shift
            for address, heads in sites
        }
        run.record(20.0 - step, step / steps, names, values)
    run.status = "finished"
    return run
