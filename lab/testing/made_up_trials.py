"""Trials that nobody sampled: measured on pictures of noise, so that all their numbers follow from each other."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from sad_core.evaluation.measures import PIXELS, LookedAt, measure_set
from sad_core.evaluation.trial.plan import prompts_of
from sad_core.evaluation.trial.result import Cost, Measured, Sampling, Trial, choose_way
from sad_core.evaluation.trial.ways import LADDER, PLAIN, PROBED, RIVALS, Way, with_beta

SIZE = 16


def pictures_of(way: Way, seeds: Sequence[int], gain: float) -> list[Tensor]:
    """Pictures around grey, further from it with γ, and a little nearer or further with a rival."""
    found = []
    for seed in seeds:
        contrast = 0.3 + gain * (way.gamma - 1) * way.end + 0.03 * way.strength * (seed % 3 - 1)
        drawn = torch.rand(SIZE, SIZE, 3, generator=torch.Generator().manual_seed(seed))
        found.append(0.5 + contrast * (drawn - 0.5))
    return found


def measured(ways: Sequence[Way], seeds: Sequence[int], prompts: int, gain: float = 0.1) -> tuple[Measured, ...]:
    """The ways as a part of a trial measures them; the first is γ = 1."""
    labels = prompts_of(len(seeds), prompts)
    found = [LookedAt.of(pictures_of(way, seeds, gain), labels, PIXELS) for way in ways]
    return tuple(
        Measured(way, measure_set(way.gamma, each, found[0], PIXELS), 2.0 + 0.1 * (way != PLAIN))
        for way, each in zip(ways, found, strict=True)
    )


@cache
def made_up_trial(number: int = 0) -> Trial:
    """One of many trials: other seeds, models, sizes, and a γ that gains or loses."""
    chosen_from, reported = 4 * (1 + number % 2), 4 * (1 + number % 3)
    choice = measured((PLAIN, *LADDER), range(number, number + chosen_from), 3, gain=0.1 - 0.04 * (number % 4))
    way = choose_way(choice)
    report = measured((PLAIN, way, *RIVALS), range(1000 + number, 1000 + number + reported), 3)
    pictures = sum(each.seeds * each.seconds for each in (*choice, *report))
    return Trial(
        model=("SDXL", "SD15", "Flux", "Lumina2")[number % 4],
        weights=tuple(0.1 * (index + number) for index in range(16)),
        name="" if number % 2 else f"checkpoint {number}",
        machine="NVIDIA GeForce RTX 4090",
        sampling=Sampling(1024, 1024, 20 + number, 7.0, "euler", "normal", 3, number % 3 == 0),
        minutes=15.0,
        took=pictures / 60,
        space=PIXELS.name,
        unit=PIXELS.unit,
        choice=choice,
        chosen=way.name,
        report=report,
        costs=(Cost(with_beta(way).name, 2.5), Cost(PROBED.name, 2.2)),
        notes=("There was no time for a rival.",) if number % 2 else (),
    )
