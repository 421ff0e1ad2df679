"""The picture of the frontier: what each method does to fidelity and to diversity, a curve over its strengths."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lab.testbed.comparisons import is_stochastic
from lab.testbed.frontier import neutral_of
from lab.testbed.pages.reading import Numbers
from lab.testbed.scores import DIVERSITY, FIDELITY

# Okabe and Ito's colours, told apart by people of every kind of colour vision; ours is the darkest and the widest.
OURS = {"γ": "#0072B2", "γ, β 3": "#56B4E9", "γ, adaptive": "#56B4E9"}
COLOURS = ("#D55E00", "#009E73", "#CC79A7", "#E69F00", "#000000", "#8C564B")
MARKERS = ("s", "^", "D", "v", "P", "X")
FAINT, INK = "#9A9A9A", "#222222"
IN_COLOUR = 6
ROOM = 1.6  # of the rivals' chosen changes: how far the picture reaches
PIXELS_APART = 15


@dataclass(frozen=True)
class Curve:
    """A knob's arms by rising strength, the unpatched model among them: (coverage, Fréchet) changes with intervals."""

    knob: str
    points: list[tuple[list[float], list[float]]]


def curve_of(numbers: Numbers, knob: str) -> Curve:
    """The curve of a knob, through the origin where the unpatched model is one of its strengths."""
    strengths = [(numbers.arms[name]["strength"], name) for name in numbers.of_knob(knob)]
    neutral = neutral_of(knob, numbers.content["guidance"])
    if neutral is not None:
        strengths.append((neutral, ""))
    zero = [0.0, 0.0, 0.0]
    return Curve(knob, [
        (numbers.arms[name]["changes"][DIVERSITY][:3], numbers.arms[name]["changes"][FIDELITY][:3]) if name
        else (zero, zero)
        for _, name in sorted(strengths)
    ])  # fmt: skip


def shown_in_colour(numbers: Numbers) -> list[str]:
    """The rivals with the largest dominated area."""
    area = {knob: numbers.content["knobs"][knob]["dominated area"][0] for knob in numbers.rivals}
    return sorted(area, key=lambda knob: -area[knob])[:IN_COLOUR]


def frontier(numbers: Numbers, title: str) -> Figure:
    """Change of Fréchet distance against change of coverage: to the right more diverse, upwards nearer to the test."""
    figure = Figure(figsize=(9, 6.6), dpi=100, layout="constrained", facecolor="white")
    axes = figure.subplots()
    set_limits(axes, numbers)
    labels: list[tuple[float, float, str, str]] = []
    coloured = shown_in_colour(numbers)
    for knob in numbers.rivals:
        if knob not in coloured:
            draw(axes, curve_of(numbers, knob), FAINT, "o", labels, faint=True)
    for knob, colour, marker in zip(coloured, COLOURS, MARKERS, strict=False):
        draw(axes, curve_of(numbers, knob), colour, marker, labels)
    for knob, colour in reversed(OURS.items()):
        if knob in numbers.ours:
            draw(axes, curve_of(numbers, knob), colour, "o", labels, wide=knob == "γ")
    axes.axhline(0, color=INK, linewidth=0.7, linestyle=":", zorder=0)
    axes.axvline(0, color=INK, linewidth=0.7, linestyle=":", zorder=0)
    axes.plot(0, 0, marker="*", markersize=15, color=INK, zorder=9)
    labels.append((0.0, 0.0, "unpatched model", INK))
    axes.set_title(title, fontsize=11, loc="left", color=INK)
    axes.set_xlabel("change of coverage (to the right: more diverse)", fontsize=10)
    axes.set_ylabel("change of Fréchet distance (upwards: smaller, so nearer to real pictures)", fontsize=10)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    write_labels(figure, axes, labels)
    return figure


def set_limits(axes: Axes, numbers: Numbers) -> None:
    """Room for γ and for what the rivals do at their chosen strengths; what lies far beyond is cut off."""
    picked = (numbers.chosen(knob) for knob in numbers.content["chosen"] if not is_stochastic(knob))
    names = [name for name in picked if name is not None and name in numbers.arms]
    names += [name for name in numbers.of_knob("γ") if 0.5 <= numbers.arms[name]["strength"] <= 2]
    fidelity, diversity = (
        [numbers.change(name, measure).value for name in names] + [0.0] for measure in (FIDELITY, DIVERSITY)
    )
    for limits, values, flipped in ((axes.set_xlim, diversity, False), (axes.set_ylim, fidelity, True)):
        span = max(max(values) - min(values), 1e-3)
        low, high = min(values) - (ROOM - 1) / 2 * span, max(values) + (ROOM - 1) / 2 * span
        limits(*(high, low) if flipped else (low, high))


def draw(
    axes: Axes,
    curve: Curve,
    colour: str,
    marker: str,
    labels: list[tuple[float, float, str, str]],
    faint: bool = False,
    wide: bool = False,
) -> None:
    """The line, its points and intervals; the name goes to the end that lies furthest from the unpatched model."""
    across, up = ([point[axis][0] for point in curve.points] for axis in (0, 1))
    width = 3.0 if wide else 0.9 if faint else 1.8
    axes.plot(across, up, color=colour, linewidth=width, marker=marker, markersize=3 if faint else 5, zorder=3 + wide)
    for (x, x_low, x_high), (y, y_low, y_high) in curve.points:
        axes.plot([x_low, x_high], [y, y], color=colour, linewidth=0.8, alpha=0.35, zorder=2)
        axes.plot([x, x], [y_low, y_high], color=colour, linewidth=0.8, alpha=0.35, zorder=2)
    places = list(zip(across, up, strict=True))
    inside = [place for place in places if is_inside(axes, *place) and place != (0.0, 0.0)]
    if not inside and not faint:  # only the line is seen; its name goes to where it leaves the picture
        inside = [place for place in along(places) if is_inside(axes, *place)]
    if inside:
        left, right = axes.get_xlim()
        bottom, top = axes.get_ylim()
        end = max(inside, key=lambda at: (at[0] / (right - left)) ** 2 + (at[1] / (top - bottom)) ** 2)
        labels.append((*end, curve.knob, FAINT if faint else colour))


def along(places: list[tuple[float, float]], steps: int = 100) -> list[tuple[float, float]]:
    """Places on the line through these, close together."""
    shares = [step / steps for step in range(steps + 1)]
    return [
        ((1 - share) * x + share * end_x, (1 - share) * y + share * end_y)
        for (x, y), (end_x, end_y) in itertools.pairwise(places)
        for share in shares
    ]


def is_inside(axes: Axes, across: float, up: float) -> bool:
    """Return whether a point lies in the picture."""
    left, right = axes.get_xlim()
    bottom, top = sorted(axes.get_ylim())
    return left <= across <= right and bottom <= up <= top


def write_labels(figure: Figure, axes: Axes, labels: list[tuple[float, float, str, str]]) -> None:
    """The names beside their points, moved up or down until none covers another."""
    FigureCanvasAgg(figure).draw()  # the layout is known after this
    right = axes.transData.transform((axes.get_xlim()[1], 0))[0]
    boxes: list[tuple[float, float, float]] = []  # from, to and height of those written, in pixels
    for across, up, words, colour in sorted(labels, key=lambda each: axes.transData.transform(each[:2])[1]):
        x, y = axes.transData.transform((across, up))
        long = 6.3 * len(words)
        on_the_left = x + long + 8 > right + 60
        start = x - long - 8 if on_the_left else x + 8
        while any(
            start < end and begin < start + long and abs(y - height) < PIXELS_APART for begin, end, height in boxes
        ):
            y += 2
        boxes.append((start, start + long, y))
        left, height = map(float, axes.transData.inverted().transform((start, y)))
        axes.annotate(words, xy=(across, up), xytext=(left, height), color=colour, fontsize=9.5, va="center", zorder=10,
                      arrowprops={"arrowstyle": "-", "color": colour, "lw": 0.5, "alpha": 0.6},
                      bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.6})  # fmt: skip


def save(figure: Figure, path: Path) -> None:
    """Write the figure as PNG with a ground of its own, so that it is read on light and dark pages."""
    FigureCanvasAgg(figure).print_png(path)
