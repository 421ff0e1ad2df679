"""The sheet of a trial: γ = 1 above, the chosen γ below, the same seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import wrap

from torch import Tensor

from .style import BLUE, figure_to_image, needs_matplotlib, new_figure, with_margin

MOST_COLUMNS = 12
LETTERS_AN_INCH = 10  # of the title
LARGEST_CELL = 192  # pixels of an image's longer side


@needs_matplotlib("The table and the file are there, but the sheet needs matplotlib:")
def draw_sheet(rows: Mapping[str, Sequence[Tensor]], title: str) -> Tensor:
    """Draw the first pictures of several settings below each other.

    Args:
        rows: pictures `(height, width, 3)` by the name of a setting, the unpatched model first, with the same seeds.
        title: shown above.

    Returns:
        A ComfyUI IMAGE, `(1, height, width, 3)` in [0, 1].
    """
    columns = min(MOST_COLUMNS, *(len(images) for images in rows.values()))
    height, width, _ = next(iter(rows.values()))[0].shape
    zoom = LARGEST_CELL / max(height, width)
    figure = new_figure((columns * (width * zoom + 4)) / 100 + 1.2, len(rows) * (height * zoom + 6) / 100 + 0.4)
    figure.set_layout_engine("constrained", w_pad=0.01, h_pad=0.01)
    letters = int(figure.get_figwidth() * LETTERS_AN_INCH)
    figure.suptitle("\n".join(wrap(title, letters)), fontsize=11)
    cells = figure.subplots(len(rows), columns, squeeze=False)
    for number, (name, images) in enumerate(rows.items()):
        for column in range(columns):
            cell = cells[number][column]
            picture = images[column].nan_to_num(0.0).clamp(0, 1).cpu().numpy()
            cell.imshow(picture, interpolation="nearest" if zoom > 1 else "antialiased")
            cell.set(xticks=[], yticks=[])
            for edge in cell.spines.values():
                edge.set(visible=number == 0, color=BLUE, linewidth=2)
        label = f"{name}\nunpatched model" if number == 0 else name.replace(", ", ",\n")
        cells[number][0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=11)
    return with_margin(figure_to_image(figure))
