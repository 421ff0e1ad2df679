"""Curves drawn in ComfyUI as schedules of γ."""

from __future__ import annotations

from typing import Any

from ...sad_core import GammaSchedule

CURVE_INTERVALS = 1024


def schedule_from_curve(curve: Any, lowest: float, highest: float) -> GammaSchedule:
    """A drawn CURVE as a schedule; ComfyUI's curves live in [0, 1]², so γ is spread from `lowest` to `highest`.

    The curve is read at 1,025 evenly spaced places with straight lines between them.

    Raises:
        ValueError: no curve, or something else.
    """
    from comfy_api.input import CurveInput

    if curve is None:
        raise ValueError("curve is empty. Draw one in the curve widget, wire a CURVE, or choose another shape.")
    try:
        drawn = CurveInput.from_raw(curve)
        if not drawn.points:
            raise ValueError("it has no points")
        heights = [float(drawn.interp(index / CURVE_INTERVALS)) for index in range(CURVE_INTERVALS + 1)]
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise ValueError(
            f"curve is {curve!r:.60}, which is not a drawn curve. Draw one in the curve widget, wire a CURVE, or "
            "choose another shape."
        ) from error
    return GammaSchedule.from_values([lowest + (highest - lowest) * height for height in heights])
