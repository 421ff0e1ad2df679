"""A trial as a table and in sentences: what is significant and what is not, and what it cost."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence

from ..diversity import Estimate
from ..measures import MEASURES
from .plan import used_prompts
from .result import Cost, Measured, Trial, is_significant
from .ways import PLAIN

# Of a change from γ = 1: its measure, its name, the number that means no change.
CHANGES = (
    ("distance_change", "the distance between two images of a prompt", 0.0),
    ("saturation", "saturation", 1.0),
    ("high_frequency", "high-frequency energy", 1.0),
)


def table_of(trial: Trial) -> str:
    """Return a CSV: a line for each way of each part, every measure with the ends of its 95 % interval."""
    columns = [name for name in MEASURES if any(each.row[name].exists for each in trial.report)]
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    named = [name + end for name in columns for end in ("", "_low", "_high")]
    lines.writerow(["part", "setting", "n", "broken", "seconds", *named])
    for part, found in (("choice", trial.choice), ("report", trial.report)):
        for each in found:
            numbers = [number for name in columns for number in _numbers(each.row[name])]
            cells = [f"{number:.5g}" if math.isfinite(number) else "" for number in numbers]
            lines.writerow([part, each.way.name, each.row.n, each.row.broken, f"{each.seconds:.4g}", *cells])
    return text.getvalue()


def summary_of(trial: Trial) -> str:
    """Return what the trial says, a paragraph for each question."""
    chosen, reported = trial.counted_seeds
    best = trial.best
    before, prompts = (_prompts(seeds, trial) for seeds in (chosen, reported))
    lines = [
        _in_short(trial),
        f"{trial.name or trial.model}: {best.way.name} was chosen among {len(trial.choice) - 1} settings of γ, tried "
        f"on {chosen} seeds and {before}. The numbers below are from {reported} other seeds and {prompts}, compared "
        f"in {trial.space}.",
        f"{best.way.name}: {verdict(best)}",
        *(f"{each.way.name}: {verdict(each)}" for each in trial.report if each.way not in (PLAIN, best.way)),
        cost_of(trial),
        *trial.notes,
    ]
    lines += [_broken(each) for each in trial.report if each.row.broken]
    return "\n".join(lines)


def _in_short(trial: Trial) -> str:
    """Return in one sentence what the chosen way changed significantly."""
    best, (_, seeds) = trial.best, trial.counted_seeds
    sure = [title for name, title, neutral in CHANGES if is_significant(best.row[name], neutral)]
    if not sure:
        return f"No significant change was found with {seeds} seeds."
    return f"{best.way.name} changed {' and '.join(sure)} significantly, with {seeds} seeds."


def verdict(found: Measured) -> str:
    """Return what the seeds of the report say of a way, to follow its name and a colon."""
    row = found.row
    if row["pixel_drift"].exists and row["pixel_drift"].value == 0.0:
        return "no image changed. All equal those of γ 1."
    sure: list[str] = []
    unsure: list[str] = []
    for name, title, neutral in CHANGES:
        number = row[name]
        if number.exists:
            (sure if is_significant(number, neutral) else unsure).append(_change(number, title, neutral))
    sentences = [f"images moved by {_amount(row['pixel_drift'])} of the colour range."]
    if sure:
        sentences.append(f"Significant (“no change” lies outside the 95 % interval): {_listed(sure)}.")
    if unsure:
        sentences.append(f"Not significant, so it may be chance: {_listed(unsure)}.")
    if row["agreement"].exists:
        sentences.append(f"Agreement with the prompt is {_amount(row['agreement'])}.")
    return " ".join(sentences)


def _prompts(seeds: int, trial: Trial) -> str:
    used = used_prompts(seeds, trial.sampling.prompts)
    return "1 prompt" if used == 1 else f"{used} prompts"


def _broken(found: Measured) -> str:
    if found.row.broken == 1:
        return f"1 image of {found.way.name} contained NaN and was left out."
    return f"{found.row.broken} images of {found.way.name} contained NaN and were left out."


def cost_of(trial: Trial) -> str:
    """Return what each way cost, as a factor on γ = 1."""
    timed: list[Measured | Cost] = [*trial.report, *trial.costs]
    factors = [
        f"{each.seconds / trial.plain.seconds:.2f} times as long ({each.name})"
        for each in timed
        if each.name != PLAIN.name
    ]
    return (
        f"An image at γ 1 took {trial.plain.seconds:.3g} s on {trial.machine}. Compared with it, other settings "
        f"took: {_listed(factors)}. The trial took {trial.took:.3g} of {trial.minutes:g} minutes."
    )


def _change(number: Estimate, title: str, neutral: float) -> str:
    if neutral == 1.0:
        return f"{title} {_amount(number)} times that of γ 1"
    direction = "larger" if number.value >= 0 else "smaller"
    value, low, high = _numbers(number)
    amount = number if value >= 0 else Estimate(-value, -high, -low)
    return f"{title} {direction} by {_amount(amount)}"


def _amount(number: Estimate) -> str:
    if not number.exists:
        return "an unknown amount"
    interval = f" (95 % interval {number.low:.3g} to {number.high:.3g})" if number.has_interval else ""
    return f"{number.value:.3g}{interval}"


def _numbers(number: Estimate) -> tuple[float, float, float]:
    return number.value, number.low, number.high


def _listed(words: Sequence[str]) -> str:
    return "; ".join(words)
