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
# The defaults of the widgets, where more than one file needs them; an input that a prompt lacks has the same.
DEFAULT_SHAPE, DEFAULT_START, DEFAULT_END = "linear", 1.2, 1.0
DEFAULT_KEYFRAMES = "0:1, 0.3:1.05, 1:1"
DEFAULT_CURVE = ((0.0, 0.0), (1.0, 1.0))
LOWEST_OF_CURVE, HIGHEST_OF_CURVE = 0.5, 1.5
DEFAULT_VALUES = "1, 1.05, 1.2, 1.05, 1"


def make_schedule(
    shape: str,
    start_gamma: float = DEFAULT_START,
    end_gamma: float = DEFAULT_END,
    start: float = 0.0,
    end: float = 1.0,
    keyframes: str = DEFAULT_KEYFRAMES,
    curve: Any = DEFAULT_CURVE,
    curve_min: float = LOWEST_OF_CURVE,
    curve_max: float = HIGHEST_OF_CURVE,
    values: str | Sequence[float] | float = DEFAULT_VALUES,
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
