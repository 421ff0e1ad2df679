"""The plot of a diversity report: diversity against drift, and every measure over γ."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from ...sad_core.evaluation.diversity import Estimate
from ...sad_core.evaluation.measures import DiversityReport
from .style import BLUE, GREY, INCHES, ORANGE, figure_to_image, needs_matplotlib, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PANEL = 3.3  # inches of its height
ONE_IMAGE = "needs two or more images of each γ"
NO_NEUTRAL = "needs γ = 1 in the sweep"
NO_WHOLE = "every image contains NaN"
DISTANCE = "mean distance between two images"
ROOM_OF_A_TICK = 0.09  # of an axis
STYLES = ((BLUE, "o", "-"), (ORANGE, "s", "--"))


@needs_matplotlib("The table and the summary work, but the plot needs matplotlib:")
def draw_report(report: DiversityReport) -> Tensor:
    """Draw diversity against drift, and every measure over γ; bars are 95 % intervals.

    Returns:
        A ComfyUI IMAGE, `(1, height, 1024, 3)` in [0, 1].
    """
    figure = new_figure(INCHES, 3 * PANEL)
    broken = sum(row.broken for row in report.rows)
    left_out = f" · {broken} with NaN left out" if broken else ""
    figure.suptitle(f"{report.counted} for each γ{left_out} · bars: 95 % intervals\n{report.space.name}", fontsize=10)
    panels = iter(figure.subplots(3, 2).flat)
    unit = report.space.unit

    _against_drift(next(panels), report)
    if report.neutral is None:
        _over_gamma(next(panels), report, DISTANCE, unit, {"distance": ""}, ONE_IMAGE)
    else:
        title = f"{DISTANCE}, minus that of γ = 1"
        _over_gamma(next(panels), report, title, unit, {"distance_change": ""}, ONE_IMAGE)
    _over_gamma(next(panels), report, "Vendi score", "effective number of images", {"vendi": ""}, ONE_IMAGE)
    relative = {"high_frequency": "high-frequency energy", "saturation": "saturation"}
    _over_gamma(next(panels), report, "high frequencies and saturation", "times those of γ = 1", relative, NO_NEUTRAL)
    _over_gamma(next(panels), report, "clipped colour values", "%", {"clipped": ""}, NO_WHOLE, scale=100)
    if "agreement" in report.columns:
        _over_gamma(next(panels), report, "agreement with the prompt", "cosine", {"agreement": ""}, NO_WHOLE)
    else:
        _over_gamma(next(panels), report, "drift from γ = 1, same seed", unit, {"drift": ""}, NO_NEUTRAL)
    return figure_to_image(figure)


def _against_drift(axes: Axes, report: DiversityReport) -> None:
    """Draw diversity against its cost: one point for each γ, joined in the order of γ."""
    rows = [row for row in report.rows if row["distance"].exists and row["drift"].exists]
    axes.set_title("diversity against drift", fontsize=10)
    axes.set(xlabel=f"drift from γ = 1, same seed ({report.space.unit})", ylabel=DISTANCE)
    if not rows:
        _write(axes, NO_NEUTRAL if report.neutral is None else ONE_IMAGE)
        return
    x, y = [row["drift"].value for row in rows], [row["distance"].value for row in rows]
    axes.plot(x, y, color=GREY, linewidth=1)
    for row, point in zip(rows, zip(x, y, strict=True), strict=True):
        colour, marker = (ORANGE, "s") if row.gamma == 1.0 else (BLUE, "o")
        _point(axes, row["drift"], row["distance"], colour, marker)
        beside = (6, -13) if row.gamma < 1.0 else (6, 6)  # γ on both sides of 1 may drift alike
        axes.annotate(f"γ {row.gamma:g}", point, beside, textcoords="offset points", fontsize=9)
    axes.margins(0.12)
    axes.grid(alpha=0.3)


def _over_gamma(
    axes: Axes,
    report: DiversityReport,
    title: str,
    unit: str,
    names: dict[str, str],
    without: str,
    scale: float = 1.0,
) -> None:
    """Draw one or two measures over γ, with dotted lines through γ = 1.

    Args:
        names: the names of the measures, and what the legend calls them.
        without: the text where no γ has any of them.
    """
    axes.set_title(title, fontsize=10)
    axes.set(xlabel="γ", ylabel=unit)
    drawn = [(name, [row for row in report.rows if row[name].exists]) for name in names]
    if not any(rows for _, rows in drawn):
        _write(axes, without)
        return
    for (name, rows), (colour, marker, line) in zip(drawn, STYLES, strict=False):
        numbers = [_scaled(row[name], scale) for row in rows]
        gammas, values = [row.gamma for row in rows], [number.value for number in numbers]
        axes.plot(gammas, values, line, marker=marker, markersize=5, color=colour, linewidth=1.5, label=names[name])
        for gamma, number in zip(gammas, numbers, strict=True):
            _point(axes, Estimate(gamma), number, colour, marker)
        if report.neutral in rows:
            axes.axhline(values[rows.index(report.neutral)], color=GREY, linestyle=":", linewidth=1)
    axes.axvline(1.0, color=GREY, linestyle=":", linewidth=1)
    ticks = _ticks([row.gamma for row in report.rows])
    axes.set_xticks(ticks, [f"{gamma:g}" for gamma in ticks])
    axes.margins(x=0.06, y=0.12)
    axes.grid(alpha=0.3)
    if len(names) > 1:
        axes.legend(fontsize=8)


def _ticks(gammas: Sequence[float]) -> list[float]:
    """Return as many of the γ as have room for their numbers below an axis, 1 first of all."""
    room = ROOM_OF_A_TICK * (max(gammas) - min(gammas))
    ticks: list[float] = []
    for gamma in sorted(gammas, key=lambda gamma: gamma != 1.0):
        if all(abs(gamma - tick) >= room for tick in ticks):
            ticks.append(gamma)
    return ticks


def _scaled(number: Estimate, scale: float) -> Estimate:
    return Estimate(scale * number.value, scale * number.low, scale * number.high)


def _point(axes: Axes, x: Estimate, y: Estimate, colour: str, marker: str) -> None:
    """Draw a point with its intervals as bars, where it has any."""
    axes.errorbar(
        x.value, y.value, _reach(y), _reach(x), fmt=marker, color=colour, markersize=5, elinewidth=1.2, capsize=3
    )


def _reach(number: Estimate) -> list[list[float]] | None:
    """Return how far the interval goes to both sides, in matplotlib's form; None where it has no width."""
    if not number.has_interval or math.isclose(number.low, number.high):
        return None
    return [[number.value - number.low], [number.high - number.value]]


def _write(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", fontsize=9, color=GREY)
    axes.set(xticks=[], yticks=[])
