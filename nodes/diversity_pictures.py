"""The picture of a diversity report, drawn with matplotlib, which is imported only when one is drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from ..sad_core.diversity import Estimate
from .diversity_measures import DiversityReport, Row
from .pictures import BLUE, GREY, INSTALL_MATPLOTLIB, ORANGE, draw_text, figure_to_image

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INCHES, DPI, PANEL = 10.24, 100, 3.3
ONE_PICTURE = "needs two pictures or more of each γ"
NO_PLAIN = "needs γ = 1 in the sweep"
NO_WHOLE = "no picture is without NaN"


def draw_report(report: DiversityReport) -> Tensor:
    """Diversity against drift, and every measure over γ; bars are 95 % intervals.

    Returns:
        A ComfyUI IMAGE, `(1, height, 1024, 3)` in [0, 1].
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return draw_text(f"The table and the summary work, but the plot needs matplotlib:\n{INSTALL_MATPLOTLIB}")

    figure = Figure(figsize=(INCHES, 3 * PANEL), dpi=DPI, layout="constrained")
    figure.suptitle(f"{_counted(report)} · bars: 95 % intervals\n{report.space.name}", fontsize=10)
    panels = iter(figure.subplots(3, 2).flat)

    unit = report.space.unit
    relative = {"high_frequency": "high-frequency energy", "saturation": "saturation"}
    _against_drift(next(panels), report)
    _over_gamma(next(panels), report, {"distance": f"mean distance between two pictures\n({unit})"}, ONE_PICTURE)
    _over_gamma(next(panels), report, {"vendi": "Vendi score: as many unlike pictures"}, ONE_PICTURE)
    _over_gamma(next(panels), report, relative, NO_PLAIN, "times that of γ = 1")
    _over_gamma(next(panels), report, {"clipped": "clipped colour values in %"}, NO_WHOLE, scale=100)
    if "agreement" in report.columns:
        _over_gamma(next(panels), report, {"agreement": "agreement with the prompt\n(cosine)"}, NO_WHOLE)
    else:
        _over_gamma(next(panels), report, {"drift": f"drift from γ = 1, same seed\n({unit})"}, NO_PLAIN)
    return figure_to_image(figure)


def _counted(report: DiversityReport) -> str:
    counts = sorted({row.n for row in report.rows})
    return f"{counts[0]} pictures a γ" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} pictures a γ"


def _against_drift(axes: Axes, report: DiversityReport) -> None:
    """Diversity against what it costs: one point a γ, joined in the order of γ."""
    rows = [row for row in report.rows if row["distance"].exists and row["drift"].exists]
    axes.set_title("diversity against drift", fontsize=10)
    axes.set(xlabel=f"drift from γ = 1 ({report.space.unit})", ylabel="mean distance between two pictures")
    if not rows:
        return _say(axes, ONE_PICTURE if report.plain is not None else NO_PLAIN)
    x, y = [row["drift"].value for row in rows], [row["distance"].value for row in rows]
    axes.plot(x, y, color=GREY, linewidth=1)
    for row, place in zip(rows, zip(x, y, strict=True), strict=True):
        colour, marker = (ORANGE, "s") if row.gamma == 1.0 else (BLUE, "o")
        _point(axes, row["drift"], row["distance"], colour, marker)
        axes.annotate(f"γ {row.gamma:g}", place, (6, 6), textcoords="offset points", fontsize=9)
    axes.margins(0.12)
    axes.grid(alpha=0.3)


def _over_gamma(
    axes: Axes, report: DiversityReport, names: dict[str, str], without: str, label: str = "", scale: float = 1.0
) -> None:
    """One or two measures over γ, with their values at γ = 1 as dashed lines."""
    axes.set(xlabel="γ", ylabel=label or next(iter(names.values())))
    styles = ((BLUE, "o", "-"), (ORANGE, "s", "--"))
    drawn = False
    for (name, legend), (colour, marker, line) in zip(names.items(), styles, strict=False):
        rows = [row for row in report.rows if row[name].exists]
        if not rows:
            continue
        drawn = True
        axes.plot(*_curve(rows, name, scale), line, color=colour, linewidth=1.5, label=legend if label else None)
        for row in rows:
            _point(axes, Estimate(row.gamma), _scaled(row[name], scale), colour, marker)
        if report.plain is not None and report.plain[name].exists:
            axes.axhline(scale * report.plain[name].value, color=GREY, linestyle=":", linewidth=1)
    if not drawn:
        return _say(axes, without)
    axes.axvline(1.0, color=GREY, linestyle=":", linewidth=1)
    axes.margins(x=0.06, y=0.12)
    axes.grid(alpha=0.3)
    if label:
        axes.legend(fontsize=8)


def _curve(rows: Sequence[Row], name: str, scale: float) -> tuple[list[float], list[float]]:
    return [row.gamma for row in rows], [scale * row[name].value for row in rows]


def _scaled(number: Estimate, scale: float) -> Estimate:
    return Estimate(scale * number.value, scale * number.low, scale * number.high)


def _point(axes: Axes, x: Estimate, y: Estimate, colour: str, marker: str) -> None:
    """A point with its intervals as bars, where it has any."""
    axes.errorbar(
        x.value,
        y.value,
        xerr=_reach(x),
        yerr=_reach(y),
        fmt=marker,
        color=colour,
        markersize=5,
        elinewidth=1.2,
        capsize=3,
    )


def _reach(number: Estimate) -> float | None:
    return number.high - number.value if number.has_interval and not math.isclose(number.low, number.high) else None


def _say(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", fontsize=9, color=GREY)
    axes.set(xticks=[], yticks=[])
