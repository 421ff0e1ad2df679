"""Draws the icon and the banner the registry shows, docs/images/icon.png and banner.png; needs matplotlib.

    python -m lab.figures.emblem

What is drawn is the method: a landscape of two memories, from the symmetric part of attention, and paths that circulate
on their way down, from the skew part: straight down in grey (γ 0), with γ 1 in orange, with γ 2 in white.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lab.folders import IMAGES

NIGHT, RING, WHITE, ORANGE, GREY = "#15213b", "#4f7cac", "#f4f6fb", "#f59e42", "#9aa8bd"
ICON, BANNER, DOTS_PER_INCH = (400, 400), (1050, 450), 100
WELLS = np.array([[-0.55, -0.25], [0.6, 0.3]])


def energy(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Depth of the landscape: two wells."""
    wells = sum(np.exp(-((x - wx) ** 2 + (y - wy) ** 2) / 0.32) for wx, wy in WELLS)
    depth: np.ndarray = -wells + 0.12 * (x**2 + y**2)
    return depth


def path(start: tuple[float, float], gamma: float, steps: int = 1500, size: float = 0.01) -> np.ndarray:
    """Return the path down the landscape from `start`, pushed sideways by `gamma` times the slope."""
    points, place, small = [start], np.array(start), 1e-4
    for _ in range(steps):
        x, y = place
        slope = np.array(
            [
                (energy(x + small, y) - energy(x - small, y)) / (2 * small),
                (energy(x, y + small) - energy(x, y - small)) / (2 * small),
            ]
        )
        place = place - size * (slope + 1.6 * gamma * np.array([-slope[1], slope[0]]))
        points.append(tuple(place))
    return np.array(points)


def draw_landscape(axes: Axes, across: float, line: float) -> None:
    """Rings of equal energy and three paths, `across` wide and 1.2 high to both sides of the middle."""
    x, y = np.meshgrid(np.linspace(-across, across, 500), np.linspace(-1.2, 1.2, 300))
    rings: dict[str, Any] = {"colors": RING, "linestyles": "solid", "linewidths": line * 0.45}
    axes.contour(x, y, energy(x, y), levels=np.linspace(-1.0, 0.35, 13), **rings)
    for gamma, colour in ((0.0, GREY), (1.0, ORANGE), (2.0, WHITE)):
        trail = path((-0.05, 1.0), gamma)
        axes.plot(*trail.T, color=colour, linewidth=line, solid_capstyle="round")
        axes.plot(*trail[-1], "o", color=colour, markersize=line * 2)
    axes.plot(-0.05, 1.0, "o", color=WHITE, markersize=line * 2.6)
    axes.set(xlim=(-across, across), ylim=(-1.2, 1.2))
    axes.set_axis_off()


def new_figure(size: tuple[int, int]) -> Figure:
    return Figure(figsize=(size[0] / DOTS_PER_INCH, size[1] / DOTS_PER_INCH), dpi=DOTS_PER_INCH, facecolor=NIGHT)


def main() -> None:
    icon = new_figure(ICON)
    draw_landscape(icon.add_axes((0, 0, 1, 1)), 1.2, 4.0)
    FigureCanvasAgg(icon).print_png(IMAGES / "icon.png")

    banner = new_figure(BANNER)
    draw_landscape(banner.add_axes((0.5, 0, 0.5, 1)), 1.4, 3.6)
    banner.text(0.05, 0.6, "Symmetric", color=WHITE, fontsize=38, weight="bold")
    banner.text(0.05, 0.44, "Attention", color=WHITE, fontsize=38, weight="bold")
    banner.text(0.05, 0.28, "S + γ·C: one knob on self-attention,", color=ORANGE, fontsize=15)
    banner.text(0.05, 0.2, "without training", color=ORANGE, fontsize=15)
    FigureCanvasAgg(banner).print_png(IMAGES / "banner.png")


if __name__ == "__main__":
    main()
