"""A few numbers of the first seeds of some arms: what a run on another machine is compared with.

Samples that were drawn on a graphics card and on a CPU differ in their last bits, so means are compared and not bits.
A γ that is wrong by 0.02 moves images by 4 % more or less, which is above the largest difference that is let pass.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from lab.evidence.measures import guards
from lab.testbed.features import Eyes, look_at
from lab.testbed.model import classes_of

SLICED = ("plain model", "γ 0.5", "γ 1.5", "γ, β 3 1.05")
SLICE_SEEDS = 40
LARGEST_DIFFERENCE = 0.03  # relative, in any of the numbers


def slice_of(pixels: Mapping[str, Tensor], eyes: Eyes) -> dict[str, dict[str, float]]:
    """The numbers of the first seeds of each arm, from its samples (N, 1, 28, 28) of uint8 and the plain model's."""
    found = {}
    for name, drawn in pixels.items():
        seen = look_at(drawn[:SLICE_SEEDS], classes_of(range(SLICE_SEEDS)), eyes)
        plain = pixels["plain model"][:SLICE_SEEDS].float() / 255
        numbers = {
            "drift": (seen.images - plain).square().mean(dim=(1, 2, 3)).sqrt(),
            "judge": seen.probability,
            "high frequency": guards.high_frequency(1 - seen.images),
            "brightness": seen.images.mean(dim=(1, 2, 3)),
        }
        found[name] = {measure: float(f"{float(values.mean()):.5g}") for measure, values in numbers.items()}
    return found


def difference(found: Mapping[str, Mapping[str, float]], committed: Mapping[str, Mapping[str, float]]) -> float:
    """The largest relative difference of any number; infinite where arms or measures are not the same."""
    if {name: set(row) for name, row in found.items()} != {name: set(row) for name, row in committed.items()}:
        return float("inf")
    return max(
        abs(found[name][measure] - number) / max(abs(number), 1e-9)
        for name, row in committed.items()
        for measure, number in row.items()
        if number or found[name][measure]
    )
