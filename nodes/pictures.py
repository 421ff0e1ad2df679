"""Pictures drawn with matplotlib, which is imported only when one is drawn and never through pyplot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..sad_core import GammaSchedule

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CURVE_PLACES = 513
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#666666"  # Okabe and Ito: told apart by colour-blind readers too


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
        return draw_text("The schedule works, but its picture needs matplotlib:\npip install matplotlib")

    figure = Figure(figsize=(7.68, 5.12), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    places = [index / (CURVE_PLACES - 1) for index in range(CURVE_PLACES)]
    style = "steps-post" if schedule.easing == "hold" else "default"
    axes.axhline(1.0, color=GREY, linestyle="--", linewidth=1, label="γ = 1, the plain model")
    axes.plot(places, [schedule.at(place) for place in places], color=BLUE, linewidth=2, drawstyle=style, label="γ")
    if steps is not None:
        axes.plot(steps, [schedule.at(step) for step in steps], "o", color=ORANGE, label=f"{len(steps)} steps")
    axes.set(xlim=(0, 1), xlabel="progress of the run (0 noise, 1 image)", ylabel="γ", title="Gamma schedule")
    axes.xaxis.set_major_formatter("{x:.0%}")
    axes.margins(y=0.15)
    axes.grid(alpha=0.3)
    axes.legend(loc="best")
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
