"""The shapes of Gamma Schedule (SAD): which widgets count for each, and the schedule they give."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..sad_core import GammaSchedule
from ..sad_core.schedule import PRESETS, read_values
from .host.drawn_curve import schedule_from_curve

SHAPES = (*PRESETS, "keyframes", "curve", "values")
FIELDS = {
    **dict.fromkeys(PRESETS, ("start_gamma", "end_gamma", "start", "end")),
    "constant": ("start_gamma",),
    "window": ("start_gamma", "start", "end"),
    "keyframes": ("keyframes",),
    "curve": ("curve", "curve_min", "curve_max"),
    "values": ("values",),
}  # what counts for each shape


def make_schedule(
    shape: str,
    start_gamma: float = 1.0,
    end_gamma: float = 1.0,
    start: float = 0.0,
    end: float = 1.0,
    keyframes: str = "",
    curve: Any = None,
    curve_min: float = 0.5,
    curve_max: float = 1.5,
    values: str | Sequence[float] | float = "",
) -> GammaSchedule:
    """Return the schedule of a shape; the arguments are the widgets of the node.

    Raises:
        ValueError: a field that counts for this shape does not give a schedule.
    """
    if shape == "keyframes":
        return GammaSchedule.from_keyframes(keyframes)
    if shape == "curve":
        return schedule_from_curve(curve, curve_min, curve_max)
    if shape == "values":
        return GammaSchedule.from_values(read_values(values))
    return GammaSchedule.from_preset(shape, start_gamma, end_gamma, start, end)
