"""Pictures drawn with matplotlib, which is imported only when one is drawn and never through pyplot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...sad_core import GammaSchedule

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ...sad_core.evaluation.sweep import Comparison

LARGEST_CELL = 256
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#666666"  # Okabe and Ito: told apart by colour-blind readers too
INSTALL_MATPLOTLIB = "pip install matplotlib"


def draw_schedule(schedule: GammaSchedule, steps: Sequence[float] | None = None) -> Tensor:
    """The curve of γ over progress, the neutral line at 1, and a dot for each real step.

    Args:
        schedule: the curve.
        steps: progress of every step, or None.

    Returns:
        A ComfyUI IMAGE, `(1, 512, 768, 3)` in [0, 1].
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return draw_text(f"The schedule works, but its picture needs matplotlib:\n{INSTALL_MATPLOTLIB}")

    figure = Figure(figsize=(7.68, 5.12), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    axes.axhline(1.0, color=GREY, linestyle="--", linewidth=1, label="γ = 1, the plain model")
    axes.plot(*zip(*schedule.polyline(), strict=True), color=BLUE, linewidth=2, label="γ")
    if steps is not None:
        axes.plot(steps, [schedule.at(step) for step in steps], "o", color=ORANGE, label=f"{len(steps)} steps")
    axes.set(xlim=(0, 1), xlabel="progress of the run (0 noise, 1 image)", ylabel="γ", title="Gamma schedule")
    axes.xaxis.set_major_formatter("{x:.0%}")
    axes.margins(y=0.15)
    axes.grid(alpha=0.3)
    axes.legend(loc="best")
    return figure_to_image(figure)


def draw_grid(comparison: Comparison) -> Tensor:
    """The pictures of a sweep, a row for each γ and a column for each of its pictures, distances beneath.

    Args:
        comparison: pictures and distances; large pictures are shrunk to cells of at most `LARGEST_CELL` pixels.

    Returns:
        A ComfyUI IMAGE, `(1, height, width, 3)` in [0, 1].
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return draw_text(f"The table works, but the grid needs matplotlib:\n{INSTALL_MATPLOTLIB}")

    rows, (columns, height, width, _) = len(comparison.rows), comparison.rows[0].shape
    zoom = LARGEST_CELL / max(height, width)
    cell_width, cell_height = width * zoom, height * zoom + 34
    figure = Figure(figsize=(columns * cell_width / 100 + 1.2, rows * cell_height / 100 + 0.2), dpi=100)
    figure.set_layout_engine("constrained", w_pad=0.02, h_pad=0.02)
    cells = figure.subplots(rows, columns, squeeze=False)
    for row, gamma in enumerate(comparison.gammas):
        for column in range(columns):
            cell, picture = cells[row][column], comparison.rows[row][column]
            cell.imshow(picture.clamp(0, 1).cpu().numpy(), interpolation="nearest" if zoom > 1 else "antialiased")
            cell.set(xticks=[], yticks=[])
            if comparison.moved is not None:
                cell.set_xlabel(f"moved {float(comparison.moved[row, column]):.3f}", fontsize=9, labelpad=2)
            for edge in cell.spines.values():
                edge.set(visible=gamma == 1.0, color=BLUE, linewidth=3)
        label = f"γ = {gamma:g}" + ("\nplain model" if gamma == 1.0 else "")
        if comparison.apart is not None:
            label += f"\napart {comparison.apart[row]:.3f}"
        cells[row][0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=11)
    return figure_to_image(figure)


def draw_text(text: str) -> Tensor:
    """A sentence as a ComfyUI IMAGE, `(1, 512, 768, 3)` in [0, 1], drawn with what ComfyUI brings."""
    import numpy
    from PIL import Image, ImageDraw

    picture = Image.new("RGB", (768, 512), "white")
    ImageDraw.Draw(picture).multiline_text((40, 220), text, fill="black")
    return torch.from_numpy(numpy.array(picture)).float()[None] / 255


def figure_to_image(figure: Figure) -> Tensor:
    """A matplotlib figure as a ComfyUI IMAGE, `(1, height, width, 3)` in [0, 1]."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = torch.frombuffer(bytearray(canvas.buffer_rgba()), dtype=torch.uint8)
    width, height = canvas.get_width_height()
    return pixels.reshape(1, height, width, 4)[..., :3].float() / 255
