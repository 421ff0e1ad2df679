"""The images of a sweep side by side, a row for each γ."""

from __future__ import annotations

from torch import Tensor

from ...sad_core.evaluation.sweep import Comparison
from .style import BLUE, figure_to_image, needs_matplotlib, new_figure, with_margin

LARGEST_CELL = 256  # pixels of an image's longer side


@needs_matplotlib("The table works, but the grid needs matplotlib:")
def draw_grid(comparison: Comparison) -> Tensor:
    """Draw the images of a sweep, a row for each γ and a column for each of its images, distances beneath.

    Args:
        comparison: images and distances; every image is scaled to `LARGEST_CELL` pixels.

    Returns:
        A ComfyUI IMAGE, `(1, height, width, 3)` in [0, 1].
    """
    rows, (columns, height, width, _) = len(comparison.rows), comparison.rows[0].shape
    zoom = LARGEST_CELL / max(height, width)
    cell_width, cell_height = width * zoom, height * zoom + 34
    figure = new_figure(columns * cell_width / 100 + 1.2, rows * cell_height / 100 + 0.2)
    figure.set_layout_engine("constrained", w_pad=0.02, h_pad=0.02)
    cells = figure.subplots(rows, columns, squeeze=False)
    for row, gamma in enumerate(comparison.gammas):
        for column in range(columns):
            cell, image = cells[row][column], comparison.rows[row][column]
            cell.imshow(image.clamp(0, 1).cpu().numpy(), interpolation="nearest" if zoom > 1 else "antialiased")
            cell.set(xticks=[], yticks=[])
            if comparison.moved is not None:
                cell.set_xlabel(f"moved {float(comparison.moved[row, column]):.3f}", fontsize=9, labelpad=2)
            for edge in cell.spines.values():
                edge.set(visible=gamma == 1.0, color=BLUE, linewidth=3)
        label = f"γ = {gamma:g}" + ("\nunpatched model" if gamma == 1.0 else "")
        if comparison.apart is not None:
            label += f"\napart {comparison.apart[row]:.3f}"
        cells[row][0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=11)
    return with_margin(figure_to_image(figure))
