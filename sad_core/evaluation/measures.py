"""The measures of sets of images, each with its interval: diversity, drift, image guards, agreement with a prompt."""

from __future__ import annotations

import csv
import io as text_io
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .diversity import Estimate, cosines, jackknife, mean_distance, rms_distances, vendi_score
from .guards import clipped_share, high_frequency_energy, is_whole, saturation
from .sweep import images_by_gamma

THUMBNAIL = 32  # pixels a side
# Columns of the table, each with low and high beside it.
MEASURES = (
    "vendi",  # effective number of distinct images
    "distance",  # mean over pairs of images
    "distance_change",  # less that of γ = 1
    "drift",  # distance from γ = 1, same seed
    "pixel_drift",  # rms of full-sized pixels from γ = 1, same seed
    "clipped",  # share of the colour values
    "saturation",  # times that of γ = 1
    "high_frequency",  # energy, times that of γ = 1
    "agreement",  # cosine with the prompt
)
NOT_THERE = Estimate()


@dataclass(frozen=True)
class FeatureSpace:
    """A feature space in which images are compared.

    Attributes:
        name: for the table and the summary.
        unit: of a distance.
        embed: images `(h, w, 3)` to features `(n, d)`.
        distances: `(n, d)`, `(m, d)` to `(n, m)`.
    """

    name: str
    unit: str
    embed: Callable[[Sequence[Tensor]], Tensor]
    distances: Callable[[Tensor, Tensor], Tensor]


def thumbnails(images: Iterable[Tensor]) -> Tensor:
    """Return images shrunk to 32×32 by averaging, around middle grey: `(n, 3072)`, float32 on the CPU."""
    shrink = torch.nn.AdaptiveAvgPool2d(THUMBNAIL)
    return torch.stack([shrink(image.float().movedim(-1, 0)).flatten().cpu() for image in images]) - 0.5


def cosine_distances(first: Tensor, second: Tensor) -> Tensor:
    """Return 1 − cosine of every row with every row: `(n, d)`, `(m, d)` → `(n, m)`."""
    return 1.0 - cosines(first, second)


PIXELS = FeatureSpace(
    f"pixels of {THUMBNAIL}×{THUMBNAIL} thumbnails (no CLIP_VISION is wired)",
    "rms of pixels",
    thumbnails,
    rms_distances,
)


@dataclass(frozen=True)
class Row:
    """The measures at one γ.

    Attributes:
        n: images that could be measured.
        broken: images left out, because a number in them or in their features is NaN or infinite.
        repeated: images that equal another one of this γ.
        measures: by the names of `MEASURES`; one that is missing does not exist.
    """

    gamma: float
    n: int
    broken: int
    repeated: int
    measures: dict[str, Estimate]

    def __getitem__(self, name: str) -> Estimate:
        return self.measures.get(name, NOT_THERE)


@dataclass(frozen=True)
class DiversityReport:
    """The measures of a sweep.

    Attributes:
        rows: one for each γ, γ rising.
        space: where the images were compared.
        columns: the measures of the table, of `MEASURES`.
        no_agreement: a sentence on why agreement with a prompt could not be measured; None where it was, or where there
            was no prompt.
    """

    rows: tuple[Row, ...]
    space: FeatureSpace
    columns: tuple[str, ...] = MEASURES
    no_agreement: str | None = None

    @property
    def neutral(self) -> Row | None:
        """The row of γ = 1, or None where the sweep has none."""
        return next((row for row in self.rows if row.gamma == 1.0), None)

    @property
    def counted(self) -> str:
        """The number of images measured at each γ, such as "n = 4" or "n = 3 to 4"."""
        counts = sorted({row.n for row in self.rows})
        return f"n = {counts[0]}" if len(counts) == 1 else f"n = {counts[0]} to {counts[-1]}"

    def to_csv(self) -> str:
        """Return one line for each γ, every measure with the ends of its 95 % interval; missing numbers are empty."""
        text = text_io.StringIO()
        lines = csv.writer(text, lineterminator="\n")
        named = [name + end for name in self.columns for end in ("", "_low", "_high")]
        lines.writerow(["gamma", "n", "broken", *named, "features"])
        features = f"{self.space.name}: {self.space.unit}"
        for row in self.rows:
            numbers = [number for name in self.columns for number in (row[name].value, row[name].low, row[name].high)]
            lines.writerow([f"{row.gamma:g}", row.n, row.broken, *map(_cell, numbers), features])
        return text.getvalue()


def _cell(number: float) -> str:
    return f"{number:.5g}" if math.isfinite(number) else ""


def measure_sweep(
    batches: Sequence[Tensor],
    gammas: Sequence[float],
    space: FeatureSpace = PIXELS,
    prompt: Callable[[int], Tensor | str] | None = None,
) -> DiversityReport:
    """Measure the images of a sweep, which all have one prompt.

    Args:
        batches: ComfyUI IMAGEs, `(B, height, width, 3)` each.
        gammas: the γ of each batch; batches of one γ are joined. Images with the same index have the same seed.
        space: where images are compared.
        prompt: given the width d of the features, the text in their space `(d,)` or a sentence on why there is none.

    Raises:
        ValueError: there is not one γ for each batch, or the images have several sizes.
    """
    by_gamma = dict(sorted(images_by_gamma(batches, gammas).items()))
    sets = {gamma: LookedAt.of(images, [0] * len(images), space) for gamma, images in by_gamma.items()}
    text = None if prompt is None else prompt(next(iter(sets.values())).features.shape[1])
    texts = text[None] if isinstance(text, Tensor) else None
    rows = tuple(measure_set(gamma, images, sets.get(1.0), space, texts) for gamma, images in sets.items())
    columns = tuple(name for name in MEASURES if name != "agreement" or texts is not None)
    return DiversityReport(rows, space, columns, text if isinstance(text, str) else None)


@dataclass(frozen=True)
class LookedAt:
    """Images of one setting, with the numbers of each image that later measures are made of.

    Attributes:
        images: `(height, width, 3)` each; those with the same index in two sets have the same prompt and seed.
        prompts: the number of the prompt of each, `(n,)`.
        features: `(n, d)`.
        facts: guards, `(n,)` each.
        whole: indices of the images that are finite, as their features are.
        repeated: images that equal another one.
    """

    images: Sequence[Tensor]
    prompts: Tensor
    features: Tensor
    facts: dict[str, Tensor]
    whole: list[int]
    repeated: int

    @classmethod
    def of(cls, images: Sequence[Tensor], prompts: Sequence[int], space: FeatureSpace) -> LookedAt:
        """Look at images in a feature space; a sequence that makes each when it is asked for never has all at once."""
        guards = {"clipped": clipped_share, "saturation": saturation, "high_frequency": high_frequency_energy}
        found = [(is_whole(image), [guard(image) for guard in guards.values()]) for image in images]
        numbers = torch.tensor([own for _, own in found]).double().reshape(len(found), len(guards)).unbind(dim=1)
        features = space.embed(images)
        whole = [index for index, (finite, _) in enumerate(found) if finite and is_whole(features[index])]
        different = len(torch.unique(thumbnails(images[index] for index in whole), dim=0)) if whole else 0
        facts = dict(zip(guards, numbers, strict=True))
        return cls(images, torch.tensor(prompts), features, facts, whole, len(whole) - different)


def measure_set(
    gamma: float, found: LookedAt, neutral: LookedAt | None, space: FeatureSpace, texts: Tensor | None = None
) -> Row:
    """Return the measures of the images of one setting.

    Two images are compared where they have one prompt, and what that gives is averaged over the prompts.

    Args:
        gamma: γ of the setting.
        found: its images.
        neutral: those of γ = 1; None where there are none.
        space: where they are compared.
        texts: the prompts in that space, `(prompts, d)`.
    """
    n, features, prompts = len(found.whole), found.features[found.whole], found.prompts[found.whole]
    kernel, distances = cosines(features, features), space.distances(features, features)
    measures = {
        "vendi": jackknife(_within(lambda kept: vendi_score(among(kernel, kept)), prompts), n, 1.0, n, prompts),
        "distance": jackknife(
            _within(lambda kept: mean_distance(among(distances, kept)), prompts), n, 0.0, groups=prompts
        ),
        "clipped": _mean(found.facts["clipped"][found.whole], prompts, 0.0, 1.0),
    }
    if texts is not None:
        measures["agreement"] = _mean(cosines(features, texts)[torch.arange(n), prompts], prompts, -1.0, 1.0)
    if neutral is not None:
        measures |= _changes(found, neutral, space)
    return Row(gamma, n, len(found.images) - n, found.repeated, measures)


def _changes(found: LookedAt, neutral: LookedAt, space: FeatureSpace) -> dict[str, Estimate]:
    """Return the measures that compare with γ = 1, over the seeds of which both images are finite."""
    seeds = [index for index in found.whole if index in neutral.whole]
    n, prompts = len(seeds), found.prompts[seeds]
    here, there = found.features[seeds], neutral.features[seeds]
    distances, before = space.distances(here, here), space.distances(there, there)
    moved = [float((found.images[seed] - neutral.images[seed]).float().square().mean().sqrt()) for seed in seeds]

    def change(kept: Tensor) -> float:
        return mean_distance(among(distances, kept)) - mean_distance(among(before, kept))

    def ratio(name: str) -> Estimate:
        now, then = (_within(_mean_of(each.facts[name][seeds]), prompts, by_images=True) for each in (found, neutral))
        return jackknife(lambda kept: _divided(now(kept), then(kept)), n, 0.0, groups=prompts)

    return {
        "distance_change": jackknife(_within(change, prompts), n, groups=prompts),
        "drift": _mean(space.distances(here, there).diagonal(), prompts, 0.0),
        "pixel_drift": _mean(torch.tensor(moved), prompts, 0.0),
        "saturation": ratio("saturation"),
        "high_frequency": ratio("high_frequency"),
    }


def among(pairs: Tensor, kept: Tensor) -> Tensor:
    """Return the entries of `(n, n)` among the images `kept` `(m,)`: `(m, m)`."""
    return pairs[kept][:, kept]


def _within(
    statistic: Callable[[Tensor], float], prompts: Tensor, *, by_images: bool = False
) -> Callable[[Tensor], float]:
    """Return the mean over the prompts of a statistic of the images of each.

    All prompts have one weight, or with `by_images` the number of their images. The weights stay when an image is left
    out. So the jackknife over seeds within prompts gives the variance of a stratified mean. Prompts with too few images
    for the statistic, or for an interval of it, are left out if others remain.
    """
    members = [torch.nonzero(prompts == prompt).flatten() for prompt in prompts.unique()]
    finite = [own for own in members if math.isfinite(statistic(own))]
    with_interval = [own for own in finite if all(math.isfinite(statistic(own[own != out])) for out in own)]
    used = with_interval or finite

    def measure(kept: Tensor) -> float:
        weights = [len(own) if by_images else 1 for own in used]
        found = [weight * statistic(own[torch.isin(own, kept)]) for weight, own in zip(weights, used, strict=True)]
        return sum(found) / sum(weights) if found else math.nan

    return measure


def _mean_of(values: Tensor) -> Callable[[Tensor], float]:
    return lambda kept: float(values[kept].mean())


def _mean(values: Tensor, prompts: Tensor, lowest: float, highest: float = math.inf) -> Estimate:
    return jackknife(_within(_mean_of(values), prompts, by_images=True), len(values), lowest, highest, prompts)


def _divided(now: float, then: float) -> float:
    return now / then if then else math.nan
