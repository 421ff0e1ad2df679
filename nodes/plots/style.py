"""The common parts of all plots: colours, new figures, figures as images, and the fallback without matplotlib.

Only the files of this folder import matplotlib, when something is drawn, and never through pyplot: pyplot keeps figures
and a backend for the whole process, which belongs to ComfyUI.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Literal, ParamSpec

import torch
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Arguments = ParamSpec("Arguments")

# Okabe and Ito: told apart by colour-blind readers too
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#666666"
INCHES = 10.24  # width of a wide plot, 1024 pixels
DPI = 100
MARGIN = 12  # white pixels around a sheet of images
INSTALL_MATPLOTLIB = "pip install matplotlib"


class MatplotlibMissing(ImportError):
    """matplotlib cannot be imported."""


def needs_matplotlib(sentence: str) -> Callable[[Callable[Arguments, Tensor]], Callable[Arguments, Tensor]]:
    """Decorate a function that draws a plot: without matplotlib, it returns an image of a text instead.

    Args:
        sentence: what works and what needs matplotlib. Below it the image says how to install it.
    """

    def decorate(draw: Callable[Arguments, Tensor]) -> Callable[Arguments, Tensor]:
        @wraps(draw)
        def draw_or_explain(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Tensor:
            try:
                return draw(*args, **kwargs)
            except MatplotlibMissing:
                return draw_text(f"{sentence}\n{INSTALL_MATPLOTLIB}")

        return draw_or_explain

    return decorate


def new_figure(width: float, height: float, layout: Literal["constrained", "compressed"] = "constrained") -> Figure:
    """Return an empty figure.

    Args:
        width, height: in inches of `DPI` pixels.
        layout: name of matplotlib's layout engine.

    Raises:
        MatplotlibMissing: matplotlib cannot be imported.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MatplotlibMissing from error
    return Figure(figsize=(width, height), dpi=DPI, layout=layout)


def figure_to_image(figure: Figure) -> Tensor:
    """Return a figure as a ComfyUI IMAGE, `(1, height, width, 3)` in [0, 1]. All texts are drawn as they are."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)  # a name with two "$" in it is no formula
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = torch.frombuffer(bytearray(canvas.buffer_rgba()), dtype=torch.uint8)
    width, height = canvas.get_width_height()
    return pixels.reshape(1, height, width, 4)[..., :3].float() / 255


def with_margin(image: Tensor) -> Tensor:
    """Return an IMAGE with a white margin, so that no label, title or frame touches an edge."""
    return torch.nn.functional.pad(image, (0, 0, MARGIN, MARGIN, MARGIN, MARGIN), value=1.0)


def draw_text(text: str) -> Tensor:
    """Return a text as a ComfyUI IMAGE, `(1, 512, 768, 3)` in [0, 1], drawn with what ComfyUI brings."""
    import numpy
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (768, 512), "white")
    ImageDraw.Draw(image).multiline_text((40, 220), text, fill="black")
    return torch.from_numpy(numpy.array(image)).float()[None] / 255
