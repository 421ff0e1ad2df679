"""The measures of a sweep over γ, each with its interval: diversity, drift, image guards, agreement with a prompt."""

from __future__ import annotations

import csv
import io as text_io
import math
from collections.abc import Callable, Sequence
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


def thumbnails(images: Sequence[Tensor]) -> Tensor:
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
    """Measure the images of a sweep.

    Args:
        batches: ComfyUI IMAGEs, `(B, height, width, 3)` each.
        gammas: the γ of each batch; batches of one γ are joined. Images with the same index have the same seed.
        space: where images are compared.
        prompt: given the width d of the features, the text in their space `(d,)` or a sentence on why there is none.

    Raises:
        ValueError: there is not one γ for each batch, or the images have several sizes.
    """
    by_gamma = dict(sorted(images_by_gamma(batches, gammas).items()))
    groups = {gamma: _group(images, space) for gamma, images in by_gamma.items()}
    text = None if prompt is None else prompt(next(iter(groups.values())).features.shape[1])
    embedded_text = text if isinstance(text, Tensor) else None
    neutral = groups.get(1.0)
    rows = tuple(_row(gamma, group, neutral, space, embedded_text) for gamma, group in groups.items())
    columns = tuple(name for name in MEASURES if name != "agreement" or embedded_text is not None)
    return DiversityReport(rows, space, columns, text if isinstance(text, str) else None)


@dataclass(frozen=True)
class _Group:
    """The images of one γ, with the numbers of each image that later measures are made of."""

    images: list[Tensor]
    features: Tensor  # (n, d)
    facts: dict[str, Tensor]  # (n,) each
    whole: list[int]  # indices of the images that are finite, as their features are
    repeated: int


def _group(images: list[Tensor], space: FeatureSpace) -> _Group:
    guards = {"clipped": clipped_share, "saturation": saturation, "high_frequency": high_frequency_energy}
    facts = {name: torch.tensor([guard(image) for image in images]).double() for name, guard in guards.items()}
    features = space.embed(images)
    whole = [index for index, image in enumerate(images) if is_whole(image) and is_whole(features[index])]
    different = len(torch.unique(thumbnails([images[index] for index in whole]), dim=0)) if whole else 0
    return _Group(images, features, facts, whole, len(whole) - different)


def _row(gamma: float, group: _Group, neutral: _Group | None, space: FeatureSpace, prompt: Tensor | None) -> Row:
    n, features = len(group.whole), group.features[group.whole]
    kernel, distances = cosines(features, features), space.distances(features, features)
    measures = {
        "vendi": jackknife(lambda kept: vendi_score(among(kernel, kept)), n, 1.0, n),
        "distance": jackknife(lambda kept: mean_distance(among(distances, kept)), n, 0.0),
        "clipped": _mean(group.facts["clipped"][group.whole], 0.0, 1.0),
    }
    if prompt is not None:
        measures["agreement"] = _mean(cosines(features, prompt[None])[:, 0], -1.0, 1.0)
    if neutral is not None:
        measures |= _changes(group, neutral, space)
    return Row(gamma, n, len(group.images) - n, group.repeated, measures)


def _changes(group: _Group, neutral: _Group, space: FeatureSpace) -> dict[str, Estimate]:
    """Return the measures that compare with γ = 1, over the seeds of which both images are finite."""
    seeds = [index for index in group.whole if index in neutral.whole]
    n = len(seeds)
    here, there = group.features[seeds], neutral.features[seeds]
    distances, before = space.distances(here, here), space.distances(there, there)
    moved = [float((group.images[seed] - neutral.images[seed]).float().square().mean().sqrt()) for seed in seeds]

    def change(kept: Tensor) -> float:
        return mean_distance(among(distances, kept)) - mean_distance(among(before, kept))

    def ratio(name: str) -> Estimate:
        now, then = group.facts[name][seeds], neutral.facts[name][seeds]
        return jackknife(lambda kept: float(now[kept].sum() / then[kept].sum()), n, 0.0)

    return {
        "distance_change": jackknife(change, n),
        "drift": _mean(space.distances(here, there).diagonal(), 0.0),
        "pixel_drift": _mean(torch.tensor(moved), 0.0),
        "saturation": ratio("saturation"),
        "high_frequency": ratio("high_frequency"),
    }


def among(pairs: Tensor, kept: Tensor) -> Tensor:
    """Return the entries of `(n, n)` among the images `kept` `(m,)`: `(m, m)`."""
    return pairs[kept][:, kept]


def _mean(values: Tensor, lowest: float, highest: float = math.inf) -> Estimate:
    return jackknife(lambda kept: float(values[kept].mean()), len(values), lowest, highest)
