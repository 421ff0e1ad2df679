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
judges. Sets are resampled by random halves, numbers of a sample with replacement (lab/evidence/bootstrap.py). The set
measures are those of lab/evidence/measures, computed for all halves at once (resampled.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

from lab.evidence.bootstrap import CONFIDENCE, Estimate, halves, mean, of_halves
from lab.evidence.measures import guards
from lab.evidence.measures.manifold import NEIGHBOUR, radii
from lab.evidence.measures.pairwise import distances_among
from lab.testbed import resampled

LOWER_IS_BETTER = ("frechet", "kernel", "imagenet")
FIDELITY, DIVERSITY = "frechet", "coverage"


@dataclass(frozen=True)
class Measured:
    """Pictures that have been looked at.

    Attributes:
        images: (N, 1, 28, 28) in [0, 1].
        labels: (N,) their classes.
        guide: (N, d) float64, features of the guide.
        probability: (N,) of the class asked for, by the judge.
        imagenet: (N, 1280) float64, features of the ImageNet network; None where they were not computed.
    """

    images: Tensor
    labels: Tensor
    guide: Tensor
    probability: Tensor
    imagenet: Tensor | None = None


def scores(samples: Measured, test: Measured, all_test: Tensor, plain: Tensor | None = None) -> dict[str, Estimate]:
    """Every measure of the N samples, against N test pictures and the guide's features (M, d) of all of them.

    `plain` (N, 1, 28, 28) holds the plain model's pictures of the same seeds, for the drift.
    """
    labels, rows = samples.labels, halves(samples.labels)
    among, to_test = torch.cdist(samples.guide, samples.guide), torch.cdist(samples.guide, test.guide)
    inside = to_test <= radii(torch.cdist(test.guide, test.guide))
    sets = {
        "frechet": resampled.frechet_distances(samples.guide, all_test, rows),
        "kernel": 1000 * resampled.kernel_distances(samples.guide, test.guide, rows),
        "coverage": resampled.coverage(inside, labels, rows),
        "recall": resampled.recall(among, to_test, labels, rows),
        "vendi": resampled.vendi(samples.guide, labels, rows),
        "apart": resampled.apart(distances_among(samples.guide, cosine=True), labels, rows),
    }
    negatives = 1 - samples.images  # the guards take white for the background
    of_each: dict[str, Tensor] = {
        "precision": inside.any(dim=1),
        "density": inside.double().sum(dim=1) / NEIGHBOUR,
        "judge": samples.probability,
        "saturation": guards.saturation(negatives),
        "high frequency": guards.high_frequency(negatives),
    }
    if plain is not None:
        of_each["drift"] = (samples.images - plain).square().mean(dim=(1, 2, 3)).sqrt()
    return {name: of_halves(numbers, labels) for name, numbers in sets.items()} | {
        name: mean(numbers, labels) for name, numbers in of_each.items()
    }


def imagenet_score(samples: Measured, test: Measured) -> Estimate:
    """The kernel distance x 1000 in the ImageNet network's features, which both must have."""
    if samples.imagenet is None or test.imagenet is None:
        raise ValueError("Both sets need features of the ImageNet network.")
    numbers = resampled.kernel_distances(samples.imagenet, test.imagenet, halves(samples.labels))
    return of_halves(1000 * numbers, samples.labels)


def better(name: str, change: Tensor | float) -> Tensor | float:
    """A change of a measure, with the sign that makes more of it better."""
    return -change if name in LOWER_IS_BETTER else change


def as_numbers(found: Mapping[str, Estimate]) -> dict[str, list[float]]:
    """[value, low, high] of each measure, to five digits."""
    return {name: [float(f"{each:.5g}") for each in (one.value, *one.interval)] for name, one in found.items()}


def as_changes(found: Mapping[str, Estimate], many: int) -> dict[str, list[float]]:
    """[value, low, high, low of many, high of many] of each change, to five digits.

    The last two are Bonferroni's 95 % interval for `many` changes. It comes from the standard deviation over the
    resamples, whose own quantiles do not reach that far.
    """
    width = NormalDist().inv_cdf(1 - (1 - CONFIDENCE) / 2 / many)
    wide = {name: width * float(one.resampled.std()) for name, one in found.items()}
    return {
        name: [*numbers, *(float(f"{found[name].value + side * wide[name]:.5g}") for side in (-1, 1))]
        for name, numbers in as_numbers(found).items()
    }
