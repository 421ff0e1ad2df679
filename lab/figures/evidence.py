"""The figures of docs/evidence_emoji.md: what γ does to each measure, every knob in one plane, and pictures to look at.

python -m lab.figures.evidence      # from lab/evidence/numbers.json and a few samples, which are drawn where missing
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from lab.evidence.document import title
from lab.evidence.draw import draw
from lab.evidence.results import NUMBERS
from lab.evidence.settings import SETTINGS, Setting, named
from lab.evidence.store import FOLDER, Store
from lab.folders import IMAGES, expand_path

BLUE, ORANGE, GREEN, PINK, GREY, SKY, YELLOW = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#555555", "#56B4E9", "#E69F00"
)  # fmt: skip
PANELS = {
    "probability": "judge's probability of the category",
    "density/imagenet/unseen": "density among unseen real pictures",
    "mixture/pixels": "mixture index (blends)",
    "patchwork/pixels": "patchwork index",
    "apart/imagenet": "distance between seeds (ImageNet features)",
    "vendi/imagenet": "Vendi score (ImageNet features)",
    "high frequency": "high-frequency energy",
    "drift/pixels": "distance from the plain picture",
}
BETA_COLOURS = {1.0: BLUE, 3.0: ORANGE, 5.0: GREEN}
SHOWN = ("gamma_-1", "gamma_0", "gamma_0.5", "plain", "gamma_1.5", "gamma_2", "gamma_3",
         "gamma_1.05_beta_3", "gamma_1.2_beta_5", "guidance_1", "guidance_4", "pag_1", "sag_1")  # fmt: skip
SEEDS_SHOWN = 15


def draw_figures(numbers: dict[str, Any], store: Store, folder: Path = IMAGES) -> None:
    """Write all figures."""
    save(gamma_figure(numbers), folder / "evidence_gamma.png")
    save(plane_figure(numbers), folder / "evidence_plane.png")
    save(pictures_figure(store), folder / "evidence_pictures.png")


def save(figure: Figure, path: Path) -> None:
    """Return the figure as PNG without using pyplot."""
    FigureCanvasAgg(figure).print_png(path)


def gamma_figure(numbers: dict[str, Any]) -> Figure:
    """Every panel the change of a measure against γ, seed by seed, a line for each β, with 95 % intervals."""
    figure = Figure(figsize=(10.2, 13), dpi=100, layout="constrained")
    by_name = {setting.name: setting for setting in SETTINGS}
    for axes, (measure, words) in zip(figure.subplots(4, 2).flat, PANELS.items(), strict=True):
        kind = "measures" if measure.startswith("drift") else "changes"
        for beta, colour in BETA_COLOURS.items():
            points = {}
            for name, result in numbers["settings"].items():
                setting = by_name[name]
                if is_in_the_grid(setting) and (setting.beta == beta or name == "plain"):
                    points[setting.gamma] = result[kind].get(measure, [0.0, 0.0, 0.0])
            with_interval(axes, sorted(points.items()), colour, f"β = {beta:g}")
        axes.axvline(1.0, color=GREY, linewidth=1, linestyle=":")
        axes.axhline(0.0, color=GREY, linewidth=1, linestyle=":")
        axes.set(title=words if kind == "measures" else f"change of: {words}", xlabel="γ")
        axes.title.set_size(10)
    figure.axes[0].legend(frameon=False, loc="lower center")
    return figure


def is_in_the_grid(setting: Setting) -> bool:
    """Return whether only γ and β differ from the unpatched model."""
    return setting.sweep in ("main", "grid") and setting.guidance == 2.0


def with_interval(axes: Axes, points: list[tuple[float, list[float]]], colour: str, label: str) -> None:
    """A line with error bars."""
    places, results = zip(*points, strict=True)
    values = [value for value, _, _ in results]
    axes.errorbar(places, values, yerr=reach(results), color=colour, label=label, marker="o", markersize=4, capsize=2)


def reach(results: Sequence[list[float]]) -> list[list[float]]:
    """Return the lengths of the intervals of (value, low, high) below and above their values."""
    below = [max(0.0, value - low) for value, low, _ in results]
    return [below, [max(0.0, high - value) for value, _, high in results]]


def plane_figure(numbers: dict[str, Any]) -> Figure:
    """Draw the joint effect of each knob on fidelity and diversity, as a line from the unpatched model at (0, 0)."""
    figure = Figure(figsize=(10.2, 7), dpi=100, layout="constrained")
    axes = figure.subplots()
    families: dict[str, tuple[str, str, Callable[[Setting], bool], str]] = {
        "γ, β = 1": (BLUE, "o", lambda s: is_in_the_grid(s) and s.beta == 1, "gamma"),
        "γ, β = 3": (ORANGE, "s", lambda s: is_in_the_grid(s) and (s.beta == 3 or s.name == "plain"), "gamma"),
        "CFG": (GREEN, "^", lambda s: s.gamma == 1 and s.sweep in ("main", "guidance"), "guidance"),
        "PAG": (PINK, "D", lambda s: s.pag > 0 or s.name == "plain", "pag"),
        "SAG": (SKY, "v", lambda s: s.sag > 0 or s.name == "plain", "sag"),
        "first noise ×": (YELLOW, "X", lambda s: s.temperature != 1 or s.name == "plain", "temperature"),
    }
    for label, (colour, marker, belongs, knob) in families.items():
        chosen = [setting for setting in SETTINGS if setting.name in numbers["settings"] and belongs(setting)]
        chosen.sort(key=lambda setting: getattr(setting, knob))
        rows = [numbers["settings"][setting.name]["changes"] for setting in chosen]
        along, up = ([row[name] for row in rows] for name in ("apart/imagenet", "probability"))
        axes.errorbar([p[0] for p in along], [p[0] for p in up], xerr=reach(along), yerr=reach(up), color=colour,
                      marker=marker, markersize=7, linewidth=1.4, elinewidth=0.4, label=label)  # fmt: skip
        for setting, x, y in zip(chosen, along, up, strict=True):
            if setting.name != "plain":
                axes.annotate(f"{getattr(setting, knob):g}", (x[0], y[0]), xytext=(6, 5), textcoords="offset points",
                              color=colour, fontsize=10, annotation_clip=True)  # fmt: skip
    axes.plot(0, 0, marker="*", markersize=20, color="black", linestyle="", label="plain model (γ 1, CFG 2)", zorder=9)
    axes.axhline(0, color=GREY, linewidth=0.8, linestyle=":")
    axes.axvline(0, color=GREY, linewidth=0.8, linestyle=":")
    axes.set(xlim=(-0.031, 0.031), ylim=(-0.082, 0.034),
             xlabel="change of diversity: distance between seeds of a category (ImageNet features)",
             ylabel="change of fidelity: judge's probability of the category")  # fmt: skip
    axes.legend(frameon=False, loc="upper left")
    return figure


def pictures_figure(store: Store) -> Figure:
    """The same seeds under some settings, a row each."""
    shown = [setting for name in SHOWN for setting in SETTINGS if setting.name == name and store.count(setting)]
    layout = ConstrainedLayoutEngine(w_pad=0.005, h_pad=0.005, wspace=0.0, hspace=0.0)
    figure = Figure(figsize=(10.2, 0.62 * len(shown) + 0.1), dpi=100, layout=layout)
    cells = figure.subplots(len(shown), SEEDS_SHOWN, squeeze=False)
    order = sorted(range(SEEDS_SHOWN), key=lambda seed: seed % 3)
    for row, setting in zip(cells, shown, strict=True):
        pictures = store.load(setting, SEEDS_SHOWN).pictures
        for cell, seed in zip(row, order, strict=True):
            cell.imshow(pictures[seed].movedim(0, -1).numpy(), interpolation="nearest")
            cell.set(xticks=[], yticks=[])
            for edge in cell.spines.values():
                edge.set_visible(False)
        row[0].set_ylabel(title(setting.name), rotation=0, ha="right", va="center", fontsize=8)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=expand_path, default=FOLDER, help="where the samples are kept")
    parser.add_argument("--folder", type=expand_path, default=IMAGES, help="where to write them (default docs/images)")
    options = parser.parse_args()
    store = Store(options.samples)
    draw(store, named(SHOWN), limit=SEEDS_SHOWN)
    draw_figures(json.loads(NUMBERS.read_text(encoding="utf-8")), store, options.folder)


if __name__ == "__main__":
    main()
