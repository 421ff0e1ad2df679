"""A diversity report in sentences: which γ was most diverse, what it cost, and what could not be measured."""

from __future__ import annotations

from collections.abc import Sequence

from ..sad_core.evaluation.diversity import Estimate
from ..sad_core.evaluation.measures import DiversityReport, Row


def summarise(report: DiversityReport) -> str:
    """Return the findings of a report, its feature space and its number of images, then what is missing."""
    return " ".join([*_findings(report), *_notes(report)])


UNMOVED = (
    "γ moved no picture of this sweep: those of every γ equal those of the same seeds at γ = 1. They were not made "
    "through Skew Attention (SAD), or it is bypassed, or its settings change nothing."
)


def _findings(report: DiversityReport) -> list[str]:
    """Return which γ was most diverse, how sure that is and what it cost, as far as it was measured."""
    measured = f"Measured with {report.counted} for each gamma, in this feature space: {report.space.name}."
    drifts = [row["pixel_drift"] for row in report.rows if row.gamma != 1.0]
    if drifts and all(drift.exists and drift.value == 0.0 for drift in drifts):
        return [UNMOVED, measured]
    diverse = [row for row in report.rows if row["distance"].exists]
    if not diverse:
        return [measured]
    most = max(diverse, key=lambda row: row["distance"].value)
    found = (
        f"Most diverse was γ = {most.gamma:g}: two of its pictures lie {_amount(most['distance'])} apart on average, "
        f"and the Vendi score counts them as {_amount(most['vendi'])} unlike pictures."
    )
    if report.neutral is None or not report.neutral["distance"].exists:
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
    clipped, before = (100 * row["clipped"].value for row in (most, report.neutral))
    return [
        found,
        f"That is {_amount(change)} more than at γ = 1, {sure}",
        f"The cost: images moved {_amount(most['drift'])} from those of the same seeds at γ = 1, high-frequency "
        f"energy is {_amount(most['high_frequency'])} and saturation {_amount(most['saturation'])} times as high, and "
        f"{clipped:.2g} % of the colour values are clipped against {before:.2g} %.",
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
            f"Some pictures of γ = {_list_gammas(repeated)} equal another of the same gamma: "
            "where gammas are run several times, wire seed of Gamma Sweep (SAD) into the sampler."
        )
    broken = [row for row in rows if row.broken]
    if broken:
        count = sum(row.broken for row in broken)
        pictures, were = ("picture", "was") if count == 1 else ("pictures", "were")
        notes.append(f"{count} {pictures} with NaN or infinite numbers {were} left out, at γ = {_list_gammas(broken)}.")
    if report.no_agreement is not None:
        notes.append(report.no_agreement)
    return notes
