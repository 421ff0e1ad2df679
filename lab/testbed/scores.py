"""The measures of an arm's samples, each with its values on 1,000 resamples of the seeds.

Fidelity and diversity have one leading measure each, the others stand beside them:

    fidelity    frechet        distance of the guide's features from those of all test pictures; lower is better
                kernel         KID x 1000 in the guide's features; lower is better
                imagenet       KID x 1000 in the features of a network trained on photographs; lower is better
                precision, density
                judge          probability that the judge gives to the class that was asked for
    diversity   coverage       share of test pictures that samples come near, in blocks of 25 a class
                recall, vendi, apart (mean distance of two seeds of a class, 1 − cosine of the guide's features)
    guards      saturation, high frequency: as real pictures have them
    drift       root mean square of pixels, from the plain model's picture of the same seed

The guide and the judge are two classifiers (judges.py). The guide gives features and makes choices, the judge only
judges. Sets are resampled by random halves, numbers of a sample with replacement (lab/evidence/bootstrap.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lab.demo.classifier import Classifier
from lab.evidence.bootstrap import Estimate, mean, of_set
from lab.evidence.measures import guards, manifold
from lab.evidence.measures.features import imagenet
from lab.evidence.measures.kernel_distance import kernel_distance
from lab.evidence.measures.pairwise import apart, distances_among
from lab.evidence.measures.sets import SetMeasure
from lab.evidence.measures.vendi import vendi
from lab.testbed.frechet import frechet_distance
from lab.testbed.judges import features_of

LOWER_IS_BETTER = ("frechet", "kernel", "imagenet")
FIDELITY, DIVERSITY = "frechet", "coverage"


@dataclass(frozen=True)
class Measured:
    """Pictures that have been looked at: features (N, d) float64 of the guide and of the ImageNet network.

    `images` (N, 1, 28, 28) in [0, 1], `labels` (N,), `probability` (N,) of the class asked for, by the judge.
    """

    images: Tensor
    labels: Tensor
    guide: Tensor
    imagenet: Tensor
    probability: Tensor


@torch.no_grad()
def look_at(images: Tensor, labels: Tensor, guide: Classifier, judge: Classifier) -> Measured:
    """N pictures (N, 1, 28, 28) of classes (N,) as both classifiers and the ImageNet network see them."""
    scores = torch.cat([judge(chunk) for chunk in images.split(500)]).double().softmax(dim=-1)
    probability = scores.gather(1, labels[:, None]).squeeze(1)
    return Measured(images, labels, features_of(guide, images), imagenet(images.expand(-1, 3, -1, -1)), probability)


def scores(samples: Measured, test: Measured, all_test: Tensor, plain: Measured | None = None) -> dict[str, Estimate]:
    """Every measure of the N samples, against N test pictures and the guide's features (M, d) of all of them.

    `plain` holds the plain model's samples of the same seeds, for the drift.
    """
    labels = samples.labels
    sets = {
        "frechet": frechet_distance(samples.guide, all_test),
        "kernel": _thousandfold(kernel_distance(samples.guide, test.guide)),
        "imagenet": _thousandfold(kernel_distance(samples.imagenet, test.imagenet)),
        "coverage": manifold.coverage(samples.guide, labels, test.guide),
        "recall": manifold.recall(samples.guide, labels, test.guide),
        "vendi": vendi(samples.guide, labels),
        "apart": apart(distances_among(samples.guide, cosine=True), labels),
    }
    negatives = 1 - samples.images  # the guards take white for the background
    of_each: dict[str, Tensor] = {
        "precision": manifold.precision(samples.guide, test.guide),
        "density": manifold.density(samples.guide, test.guide),
        "judge": samples.probability,
        "saturation": guards.saturation(negatives),
        "high frequency": guards.high_frequency(negatives),
    }
    if plain is not None:
        of_each["drift"] = (samples.images - plain.images).square().mean(dim=(1, 2, 3)).sqrt()
    return {name: of_set(measure, labels) for name, measure in sets.items()} | {
        name: mean(numbers, labels) for name, numbers in of_each.items()
    }


def _thousandfold(measure: SetMeasure) -> SetMeasure:
    return lambda rows: 1000 * measure(rows)


def better(name: str, change: Tensor | float) -> Tensor | float:
    """A change of a measure, with the sign that makes more of it better."""
    return -change if name in LOWER_IS_BETTER else change


def as_numbers(found: Mapping[str, Estimate]) -> dict[str, list[float]]:
    """[value, low, high] of each measure, to five digits."""
    return {name: [float(f"{each:.5g}") for each in (one.value, *one.interval)] for name, one in found.items()}
