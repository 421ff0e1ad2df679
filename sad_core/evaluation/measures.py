"""What a sweep of γ did to diversity and to the pictures: a table, and the same in a few sentences."""

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
from .sweep import pictures_by_gamma

THUMBNAIL = 32  # pixels a side
# Columns of the table, each with low and high beside it.
MEASURES = (
    "vendi",  # as many unlike pictures
    "distance",  # mean over pairs of pictures
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
    """Where pictures are compared.

    Attributes:
        name: for the table and the summary.
        unit: of a distance.
        embed: pictures `(h, w, 3)` to features `(n, d)`.
        distances: `(n, d)`, `(m, d)` to `(n, m)`.
    """

    name: str
    unit: str
    embed: Callable[[Sequence[Tensor]], Tensor]
    distances: Callable[[Tensor, Tensor], Tensor]


def thumbnails(pictures: Sequence[Tensor]) -> Tensor:
    """Pictures shrunk to 32×32 by averaging, around middle grey: `(n, 3072)`, float32 on the CPU."""
    shrink = torch.nn.AdaptiveAvgPool2d(THUMBNAIL)
    return torch.stack([shrink(picture.float().movedim(-1, 0)).flatten().cpu() for picture in pictures]) - 0.5


def cosine_distances(first: Tensor, second: Tensor) -> Tensor:
    """1 − cosine of every row with every row: `(n, d)`, `(m, d)` → `(n, m)`."""
    return 1.0 - cosines(first, second)


PIXELS = FeatureSpace(
    f"pixels of {THUMBNAIL}×{THUMBNAIL} thumbnails (no CLIP_VISION is wired)",
    "rms of pixels",
    thumbnails,
    rms_distances,
)


@dataclass(frozen=True)
class Row:
    """What was measured at one γ.

    Attributes:
        n: pictures that could be measured.
        broken: pictures left out, because a number in them or in their features is NaN or infinite.
        repeated: pictures that equal another one of this γ.
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
    """The rows of a sweep, γ rising, and what is missing in them.

    Attributes:
        space: where the pictures were compared.
        notes: one sentence for everything that could not be measured, or that makes rows hard to compare.
    """

    rows: tuple[Row, ...]
    space: FeatureSpace
    notes: tuple[str, ...] = ()
    columns: tuple[str, ...] = MEASURES

    @property
    def plain(self) -> Row | None:
        """The row of γ = 1."""
        return next((row for row in self.rows if row.gamma == 1.0), None)

    @property
    def counted(self) -> str:
        """How many pictures were measured at each γ."""
        counts = sorted({row.n for row in self.rows})
        return f"n = {counts[0]}" if len(counts) == 1 else f"n = {counts[0]} to {counts[-1]}"

    def to_csv(self) -> str:
        """One line for each γ, every measure with the ends of its 95 % interval; what does not exist is left empty."""
        text = text_io.StringIO()
        lines = csv.writer(text, lineterminator="\n")
        named = [name + end for name in self.columns for end in ("", "_low", "_high")]
        lines.writerow(["gamma", "n", "broken", *named, "features"])
        features = f"{self.space.name}: {self.space.unit}"
        for row in self.rows:
            numbers = [number for name in self.columns for number in (row[name].value, row[name].low, row[name].high)]
            lines.writerow([f"{row.gamma:g}", row.n, row.broken, *map(_cell, numbers), features])
        return text.getvalue()

    def summary(self) -> str:
        """Which γ was most diverse, at what cost, in which feature space and of how many pictures; then the notes."""
        return " ".join([*_findings(self), *self.notes])


def _cell(number: float) -> str:
    return f"{number:.5g}" if math.isfinite(number) else ""


def measure_sweep(
    batches: Sequence[Tensor],
    gammas: Sequence[float],
    space: FeatureSpace = PIXELS,
    prompt: Callable[[int], Tensor | str] | None = None,
) -> DiversityReport:
    """Measure the pictures of a sweep.

    Args:
        batches: ComfyUI IMAGEs, `(B, height, width, 3)` each.
        gammas: the γ of each; batches of one γ are taken together. Pictures at the same place have the same seed.
        space: where pictures are compared.
        prompt: given the width of the features, the text in their space `(d,)` or a sentence on why there is none.

    Raises:
        ValueError: not one γ for each batch, or pictures of several sizes.
    """
    by_gamma = dict(sorted(pictures_by_gamma(batches, gammas).items()))
    seen = {gamma: _look(pictures, space) for gamma, pictures in by_gamma.items()}
    text = None if prompt is None else prompt(next(iter(seen.values())).features.shape[1])
    towards = text if isinstance(text, Tensor) else None
    plain = seen.get(1.0)
    rows = tuple(_row(gamma, each, plain, space, towards) for gamma, each in seen.items())
    columns = tuple(name for name in MEASURES if name != "agreement" or towards is not None)
    return DiversityReport(rows, space, tuple(_notes(rows, text)), columns)


@dataclass(frozen=True)
class _Seen:
    """The pictures of one γ, and one entry a picture of everything that needs the whole picture."""

    pictures: list[Tensor]
    features: Tensor  # (n, d)
    facts: dict[str, Tensor]  # (n,) each
    whole: list[int]  # places of pictures and features without NaN
    repeated: int


def _look(pictures: list[Tensor], space: FeatureSpace) -> _Seen:
    looks = {"clipped": clipped_share, "saturation": saturation, "high_frequency": high_frequency_energy}
    facts = {name: torch.tensor([look(picture) for picture in pictures]).double() for name, look in looks.items()}
    features = space.embed(pictures)
    whole = [place for place, picture in enumerate(pictures) if is_whole(picture) and is_whole(features[place])]
    different = len(torch.unique(thumbnails([pictures[place] for place in whole]), dim=0)) if whole else 0
    return _Seen(pictures, features, facts, whole, len(whole) - different)


def _row(gamma: float, seen: _Seen, plain: _Seen | None, space: FeatureSpace, prompt: Tensor | None) -> Row:
    n, features = len(seen.whole), seen.features[seen.whole]
    kernel, distances = cosines(features, features), space.distances(features, features)
    measures = {
        "vendi": jackknife(lambda kept: vendi_score(among(kernel, kept)), n, 1.0, n),
        "distance": jackknife(lambda kept: mean_distance(among(distances, kept)), n, 0.0),
        "clipped": _mean(seen.facts["clipped"][seen.whole], 0.0, 1.0),
    }
    if prompt is not None:
        measures["agreement"] = _mean(cosines(features, prompt[None])[:, 0], -1.0, 1.0)
    if plain is not None:
        measures |= _against(seen, plain, space)
    return Row(gamma, n, len(seen.pictures) - n, seen.repeated, measures)


def _against(seen: _Seen, plain: _Seen, space: FeatureSpace) -> dict[str, Estimate]:
    """The measures that compare with γ = 1, over the seeds that both have whole pictures of."""
    seeds = [place for place in seen.whole if place in plain.whole]
    n = len(seeds)
    here, there = seen.features[seeds], plain.features[seeds]
    distances, before = space.distances(here, here), space.distances(there, there)
    moved = [float((seen.pictures[seed] - plain.pictures[seed]).float().square().mean().sqrt()) for seed in seeds]

    def change(kept: Tensor) -> float:
        return mean_distance(among(distances, kept)) - mean_distance(among(before, kept))

    def times(name: str) -> Estimate:
        now, then = seen.facts[name][seeds], plain.facts[name][seeds]
        return jackknife(lambda kept: float(now[kept].sum() / then[kept].sum()), n, 0.0)

    return {
        "distance_change": jackknife(change, n),
        "drift": _mean(space.distances(here, there).diagonal(), 0.0),
        "pixel_drift": _mean(torch.tensor(moved), 0.0),
        "saturation": times("saturation"),
        "high_frequency": times("high_frequency"),
    }


def among(pairs: Tensor, kept: Tensor) -> Tensor:
    """What `(n, n)` says of the pictures `kept` `(m,)`: `(m, m)`."""
    return pairs[kept][:, kept]


def _mean(values: Tensor, lowest: float, highest: float = math.inf) -> Estimate:
    return jackknife(lambda kept: float(values[kept].mean()), len(values), lowest, highest)


# --- in words


def _findings(report: DiversityReport) -> list[str]:
    measured = f"Measured with {report.counted} for each gamma, in this feature space: {report.space.name}."
    diverse = [row for row in report.rows if row["distance"].exists]
    if not diverse:
        return [measured]
    most = max(diverse, key=lambda row: row["distance"].value)
    found = (
        f"Most diverse was γ = {most.gamma:g}: two of its pictures lie {_said(most['distance'])} apart on average, "
        f"and the Vendi score counts them as {_said(most['vendi'])} unlike pictures."
    )
    if report.plain is None or not report.plain["distance"].exists:
        return [found, measured]
    if most.gamma == 1.0:
        return [f"{found} No other γ of this sweep made the plain model, γ = 1, more diverse.", measured]
    change = most["distance_change"]
    sure = (
        f"and the interval leaves out 0. But γ = {most.gamma:g} was chosen as the most diverse of {len(diverse)} "
        f"gammas, and one in twenty such intervals misses by chance: to be sure, run γ = 1 and {most.gamma:g} with "
        "new seeds."
        if change.low > 0
        else "which may be the luck of these seeds."
    )
    clipped, before = (100 * row["clipped"].value for row in (most, report.plain))
    return [
        found,
        f"That is {_said(change)} more than at γ = 1, {sure}",
        f"The cost: pictures moved {_said(most['drift'])} from those of the same seeds at γ = 1, high-frequency energy "
        f"is {_said(most['high_frequency'])} and saturation {_said(most['saturation'])} times as high, and "
        f"{clipped:.2g} % of the colour values are clipped against {before:.2g} %.",
        measured,
    ]


def _said(number: Estimate) -> str:
    if not number.exists:
        return "an unknown amount"
    interval = f" (95 % interval {number.low:.3g} to {number.high:.3g})" if number.has_interval else ""
    return f"{number.value:.3g}{interval}"


def _gammas(rows: Sequence[Row]) -> str:
    return ", ".join(f"{row.gamma:g}" for row in rows)


def _notes(rows: Sequence[Row], prompt: Tensor | str | None) -> list[str]:
    notes = []
    if not any(row.gamma == 1.0 for row in rows):
        notes.append("Nothing is compared with the plain model: add 1 to the gammas of the sweep.")
    if any(row.n < 2 for row in rows):
        notes.append("Diversity needs two pictures or more of each gamma: raise batch_size of the latent.")
    elif any(not row["distance"].has_interval for row in rows):
        notes.append("Intervals of diversity need three pictures or more of each gamma.")
    if len({row.n for row in rows}) > 1:
        notes.append(
            "The gammas have different numbers of pictures: compare the distance, because the Vendi score grows with n."
        )
    repeated = [row for row in rows if row.repeated]
    if repeated:
        notes.append(
            f"Some pictures of γ = {_gammas(repeated)} equal another of the same gamma: "
            "where gammas are run several times, wire seed of Gamma Sweep (SAD) into the sampler."
        )
    broken = [row for row in rows if row.broken]
    if broken:
        count = sum(row.broken for row in broken)
        pictures, were = ("picture", "was") if count == 1 else ("pictures", "were")
        notes.append(f"{count} {pictures} with NaN or infinite numbers {were} left out, at γ = {_gammas(broken)}.")
    if isinstance(prompt, str):
        notes.append(prompt)
    return notes
