"""The measures of the samples of one setting, and their references.

    real = load_real(folder)                        # once
    plain = embed(plain_pictures, labels)           # once; labels are seed % 3
    measures = measure(embed(pictures, labels), plain, real, given={"outside range": outside})
    mean(measures.samples["mixture/pixels"], labels), of_set(measures.sets["vendi/imagenet"], labels)   # bootstrap.py

Names are `measure/space/real set`, as far as a measure has a space (features.py) and a real set (real.py). Formula and
source of each stand in the file named here:

    samples   memory.py            nearest memory, nearest own memory, nearest held out, nearest unseen,
                                   mixture, patchwork
              manifold.py          precision, density
              agreement.py         agreement, probability
              guards.py            saturation, high frequency
              pairwise.py          drift
    others    pairwise.py          distance to others
    sets      pairwise.py          apart
              vendi.py             vendi
              manifold.py          recall, coverage
              kernel_distance.py   kernel distance

Real pictures can be measured as samples are, without a plain model to compare with: what the unseen ones have is the
null of the mixture indices and the normal value of the guards. (Held against the set they belong to they are trivially
near, precise and covered.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from lab.evidence.measures import agreement, guards, kernel_distance, manifold, memory, pairwise, vendi
from lab.evidence.measures.features import SPACES, Embedded, embed
from lab.evidence.measures.real import Real, load_real
from lab.evidence.measures.sets import BLOCK, SetMeasure

__all__ = ["BLOCK", "SPACES", "Embedded", "Measures", "Real", "SetMeasure", "embed", "load_real", "measure"]

LEARNED_SPACES = ("classifier", "imagenet")  # cosines mean something in these; pixels have Euclid's distance


@dataclass(frozen=True)
class Measures:
    """Of N samples. `samples`: a number of each, (N,) float64. `sets`: functions of places in 0 ... N - 1.

    `others`: numbers of each sample that depend on its set mates; to correlate with, never to take the mean's interval.
    """

    samples: dict[str, Tensor]
    others: dict[str, Tensor]
    sets: dict[str, SetMeasure]


def measure(
    samples: Embedded,
    plain: Embedded | None,
    real: Real,
    *,
    block: int = BLOCK,
    given: Mapping[str, Tensor] | None = None,
) -> Measures:
    """Everything of the N samples of one setting; `plain` holds the plain model's samples of the same N seeds.

    `block`: how many samples of a category Vendi, recall and coverage are taken of at a time.
    `given`: (N,) numbers known from sampling, such as the share of raw values outside [0, 1], put in beside the others.
    """
    if plain is not None and not plain.labels.equal(samples.labels):
        raise ValueError(
            f"plain: {len(plain)} samples for {len(samples)}, or other categories; give those of the same seeds."
        )
    one_each = {
        **nearness(samples, real),
        **on_the_manifold(samples, real),
        **as_asked(samples),
        **damage(samples),
        **({} if plain is None else moved(samples, plain)),
        **{name: numbers.double() for name, numbers in (given or {}).items()},
    }
    between = {
        space: pairwise.distances_among(features, cosine=space in LEARNED_SPACES)
        for space, features in samples.features.items()
    }
    others = {
        f"distance to others/{space}": pairwise.distance_to_others(distances, samples.labels)
        for space, distances in between.items()
    }
    sets = {f"apart/{space}": pairwise.apart(distances, samples.labels) for space, distances in between.items()}
    return Measures(one_each, others, {**sets, **of_the_set(samples, real, block)})


def nearness(samples: Embedded, real: Real) -> dict[str, Tensor]:
    """Distances to real pictures, and the indices of mixture."""
    found = {"patchwork/pixels": memory.patchwork_index(samples.images, real.memories.images)}
    for space, features in samples.features.items():
        known = real.memories.features[space]
        own = memory.nearest_own(features, samples.labels, known, real.memories.labels)
        found |= {
            f"nearest memory/{space}": memory.nearest(features, known),
            f"nearest own memory/{space}": own,
            f"nearest held out/{space}": memory.nearest(features, real.held_out.features[space]),
            f"nearest unseen/{space}": memory.nearest(features, real.unseen.features[space]),
            f"mixture/{space}": memory.mixture_index(features, known),
        }
    return found


def on_the_manifold(samples: Embedded, real: Real) -> dict[str, Tensor]:
    """Precision and density against the memories and against what was never seen."""
    found = {}
    for space, features in samples.features.items():
        for name, pictures in (("memories", real.memories), ("unseen", real.unseen)):
            found[f"precision/{space}/{name}"] = manifold.precision(features, pictures.features[space])
            found[f"density/{space}/{name}"] = manifold.density(features, pictures.features[space])
    return found


def as_asked(samples: Embedded) -> dict[str, Tensor]:
    """Return whether the judge sees the requested category, and its probability."""
    features = samples.features["classifier"]
    return {
        "agreement": agreement.agreement(features, samples.labels),
        "probability": agreement.probability(features, samples.labels),
    }


def damage(samples: Embedded) -> dict[str, Tensor]:
    """The guards."""
    return {
        "saturation": guards.saturation(samples.images),
        "high frequency": guards.high_frequency(samples.images),
    }


def moved(samples: Embedded, plain: Embedded) -> dict[str, Tensor]:
    """Distance from the plain model's picture of the same seed."""
    return {
        f"drift/{space}": pairwise.drift(features, plain.features[space], cosine=space in LEARNED_SPACES)
        for space, features in samples.features.items()
    }


def of_the_set(samples: Embedded, real: Real, block: int) -> dict[str, SetMeasure]:
    """Vendi and kernel distance in learned spaces, recall and coverage in all."""
    labels, found = samples.labels, {}
    for space in LEARNED_SPACES:
        found[f"vendi/{space}"] = vendi.vendi(samples.features[space], labels, block)
    for name, pictures in (("memories", real.memories), ("unseen", real.unseen)):
        for space, features in samples.features.items():
            known = pictures.features[space]
            found[f"recall/{space}/{name}"] = manifold.recall(features, labels, known, block)
            found[f"coverage/{space}/{name}"] = manifold.coverage(features, labels, known, block)
            if space in LEARNED_SPACES:
                found[f"kernel distance/{space}/{name}"] = kernel_distance.kernel_distance(features, known)
    return found
