"""The plot of a schedule: γ over the progress of the run."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ...sad_core import GammaSchedule
from .style import BLUE, GREY, ORANGE, figure_to_image, needs_matplotlib, new_figure


@needs_matplotlib("The schedule works, but its picture needs matplotlib:")
def draw_schedule(schedule: GammaSchedule, steps: Sequence[float] | None = None) -> Tensor:
    """Draw γ over progress, the neutral line at 1, and a dot for each real step.

    Args:
        schedule: γ over progress.
        steps: progress of every step, or None.

    Returns:
        A ComfyUI IMAGE, `(1, 512, 768, 3)` in [0, 1].
    """
    figure = new_figure(7.68, 5.12)
    axes = figure.add_subplot()
    axes.axhline(1.0, color=GREY, linestyle="--", linewidth=1, label="γ = 1, the unpatched model")
    axes.plot(*zip(*schedule.polyline(), strict=True), color=BLUE, linewidth=2, label="γ")
    if steps is not None:
        axes.plot(steps, [schedule.at(step) for step in steps], "o", color=ORANGE, label=f"{len(steps)} steps")
    axes.set(xlim=(0, 1), xlabel="progress of the run (0 noise, 1 image)", ylabel="γ", title="Gamma schedule")
    axes.xaxis.set_major_formatter("{x:.0%}")
    axes.margins(y=0.15)
    axes.grid(alpha=0.3)
    axes.legend(loc="best")
    return figure_to_image(figure)
