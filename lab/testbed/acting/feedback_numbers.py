"""Feedback beside the static γ of the same drift, falling back, and the slider on fresh seeds."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from lab.evidence.bootstrap import Estimate, bootstrap, mean, of_set
from lab.evidence.measures.pairwise import apart, distances_among
from lab.evidence.results import rounded
from lab.testbed.acting.best_of import Kept
from lab.testbed.acting.reference import Reference
from lab.testbed.model import classes_of
from lab.testbed.scores import as_numbers, scores

WORST = 0.1


def worst_tenth(numbers: Tensor, labels: Tensor) -> Estimate:
    """The mean of the lowest tenth of some numbers (n,)."""
    lowest = max(1, round(len(numbers) * WORST))
    return bootstrap(lambda rows: numbers[rows].sort(dim=1).values[:, :lowest].mean(dim=1), labels)


def feedback_numbers(kept: Kept, reference: Reference) -> dict[str, Any]:
    """Every number of the part, as JSON. Changes are paired by seed."""
    tensors, about = kept
    labels = classes_of(range(len(tensors["plain"])))
    test = reference.test_looked_at(len(labels))
    plain = tensors["plain"].float() / 255

    def of(pixels: Tensor) -> dict[str, Estimate]:
        looked = reference.looked_at(pixels, labels)
        density = {"worst tenth of the judge": worst_tenth(looked.probability, labels)}
        print(f"feedback: {len(pixels)} samples measured", flush=True)
        return scores(looked, test, reference.everything, plain) | density

    result: dict[str, Any] = {
        "seeds": len(labels),
        "about": about,
        "plain": as_numbers(of(tensors["plain"])),
        "arms": {},
    }
    for place, name in enumerate(about["arms"]):
        arm, static = of(tensors[f"arm {place}"]), of(tensors[f"static {place}"])
        gammas = tensors[f"gammas {place}"]
        result["arms"][name] = {
            "static": about["arms"][name]["static"],
            "moved": float((gammas - about["arms"][name]["own"]).abs().gt(1e-6).double().mean()),
            "last γ": [float(f"{each:.4g}") for each in (gammas.min(), gammas.mean(), gammas.max())],
            "measures": as_numbers(arm),
            "less static": as_numbers({measure: arm[measure] - static[measure] for measure in arm}),
        }
    strong = of(tensors["strong"])
    last = len(about["arms"]) - 1  # the arm that falls back
    fallen = tensors[f"gammas {last}"] == 1
    result["strong"] = as_numbers(strong)
    result["falling back"] = {"images": int(fallen.sum()), "share": float(fallen.double().mean())}
    result["falling back"]["less strong"] = as_numbers(
        {measure: each - strong[measure] for measure, each in of(tensors[f"arm {last}"]).items()}
    )
    for name, against in (("fallen, less strong", "strong"), ("fallen, less plain", "plain")):
        if int(fallen.sum()) > 1:
            pair = (tensors[f"arm {last}"][fallen], tensors[against][fallen])
            result["falling back"][name] = _of_samples(pair, labels[fallen], reference)
    return result


def _of_samples(pair: tuple[Tensor, Tensor], labels: Tensor, reference: Reference) -> dict[str, list[float]]:
    """Judge and density of the first pictures less those of the second, paired.

    Few samples of a class are there, so they are resampled as one class.
    """
    judge = [reference.probability(pixels, labels) for pixels in pair]
    density = [reference.density(reference.features(pixels)) for pixels in pair]
    return {
        name: rounded(mean(one - other, torch.zeros_like(labels)))
        for name, (one, other) in {"judge": judge, "density": density}.items()
    }


def slider_numbers(kept: Kept, reference: Reference) -> dict[str, Any]:
    """Measures by position, and the change in diversity from each position to the next, paired by seed."""
    tensors, about = kept
    positions = about["positions"]
    labels = classes_of(range(tensors["pixels"].shape[1]))
    test = reference.test_looked_at(len(labels))
    plain = tensors["pixels"][positions.index(0.0)].float() / 255
    by_position, distances = [], []
    for position, pixels in zip(positions, tensors["pixels"], strict=True):
        flat = pixels.flatten(1).double() / 255
        own = of_set(apart(distances_among(flat / flat.shape[1] ** 0.5, cosine=False), labels), labels)
        measures = scores(reference.looked_at(pixels, labels), test, reference.everything, plain)
        distances.append(own)
        by_position.append({"position": position, "distance": rounded(own), "measures": as_numbers(measures)})
        print(f"slider: position {position:g} measured", flush=True)
    changes = [after - before for before, after in pairwise(distances)]
    return {
        "seeds": len(labels),
        "about": about,
        "positions": by_position,
        "changes": [rounded(change) for change in changes],
        "falls": sum(change.interval[1] < 0 for change in changes),
        "rises": sum(change.interval[0] > 0 for change in changes),
        "whole way": rounded(distances[-1] - distances[0]),
        "resamples in order": float(
            torch.stack([change.resampled >= 0 for change in changes]).all(dim=0).double().mean()
        ),
    }
