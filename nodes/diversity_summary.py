"""A diversity report in sentences: which γ was most diverse, what it cost, and what could not be measured."""

from __future__ import annotations

from collections.abc import Sequence

from ..sad_core.evaluation.diversity import Estimate
from ..sad_core.evaluation.measures import DiversityReport, Row


def summarise(report: DiversityReport) -> str:
    """Return the findings of a report, its feature space and its number of images, then what is missing."""
    return " ".join([*_findings(report), *_notes(report)])


UNMOVED = (
    "γ changed no image of this sweep: the images of every γ equal those of the same seeds at γ = 1. They did not "
    "come through Skew Attention (SAD), or it is bypassed, or its settings change nothing. Wire gamma of the sweep "
    "into Skew Attention (SAD), and its MODEL into the sampler."
)


def _findings(report: DiversityReport) -> list[str]:
    """Return which γ was most diverse, how sure that is and what it cost, as far as it was measured."""
    measured = f"Measured with {report.counted} images of each γ, in this feature space: {report.space.name}."
    drifts = [row["pixel_drift"] for row in report.rows if row.gamma != 1.0]
    if drifts and all(drift.exists and drift.value == 0.0 for drift in drifts):
        return [UNMOVED, measured]
    diverse = [row for row in report.rows if row["distance"].exists]
    if not diverse:
        return [measured]
    most = max(diverse, key=lambda row: row["distance"].value)
    found = (
        f"γ = {most.gamma:g} was the most diverse: two of its images lie {_amount(most['distance'])} apart on "
        f"average, and their Vendi score, the effective number of distinct images, is {_amount(most['vendi'])}."
    )
    if report.neutral is None or not report.neutral["distance"].exists:
        return [found, measured]
    if most.gamma == 1.0:
        return [f"{found} No other γ of this sweep was more diverse than the unpatched model, γ = 1.", measured]
    change = most["distance_change"]
    sure = (
        f"and the interval excludes 0. But γ = {most.gamma:g} was chosen as the most diverse of {len(diverse)} "
        "values of γ, and one in twenty such intervals excludes 0 by chance. To confirm it, run γ = 1 and "
        f"{most.gamma:g} with new seeds."
        if change.low > 0
        else "which may be chance."
    )
    clipped, before = (100 * row["clipped"].value for row in (most, report.neutral))
    return [
        found,
        f"That is {_amount(change)} more than at γ = 1, {sure}",
        f"The cost: the drift from the images of the same seeds at γ = 1 is {_amount(most['drift'])}, high-frequency "
        f"energy is {_amount(most['high_frequency'])} times that of γ = 1, saturation is "
        f"{_amount(most['saturation'])} times that of γ = 1, and {clipped:.2g} % of the colour values are clipped, "
        f"compared with {before:.2g} % at γ = 1.",
        measured,
    ]


def _amount(number: Estimate) -> str:
    if not number.exists:
        return "an unknown amount"
    interval = f" (95 % interval {number.low:.3g} to {number.high:.3g})" if number.has_interval else ""
    return f"{number.value:.3g}{interval}"


def _list_gammas(rows: Sequence[Row]) -> str:
    return ", ".join(f"{row.gamma:g}" for row in rows)


def _notes(report: DiversityReport) -> list[str]:
    """Return a sentence for everything that could not be measured or that makes rows hard to compare."""
    rows, notes = report.rows, []
    if not any(row.gamma == 1.0 for row in rows):
        notes.append("Nothing is compared with the unpatched model. Add 1 to the gammas of the sweep.")
    if any(row.n < 2 for row in rows):
        notes.append("Diversity needs two or more images of each γ. Raise batch_size of the latent.")
    elif any(not row["distance"].has_interval for row in rows):
        notes.append("Intervals of diversity need three or more images of each γ. Raise batch_size of the latent.")
    if len({row.n for row in rows}) > 1:
        notes.append(
            "The gammas have different numbers of images. Compare their distances, not their Vendi scores, "
            "which grow with the number of images."
        )
    repeated = [row for row in rows if row.repeated]
    if repeated:
        notes.append(
            f"At γ = {_list_gammas(repeated)} some images are identical. To sample a γ several times with different "
            "seeds, wire seed of Gamma Sweep (SAD) into the sampler."
        )
    broken = [row for row in rows if row.broken]
    if broken:
        count = sum(row.broken for row in broken)
        images, were = ("image", "was") if count == 1 else ("images", "were")
        notes.append(f"{count} {images} with NaN or infinite numbers {were} left out, at γ = {_list_gammas(broken)}.")
    if report.no_agreement is not None:
        notes.append(report.no_agreement)
    return notes
