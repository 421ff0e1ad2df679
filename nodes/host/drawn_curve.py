"""Curves drawn in ComfyUI, and the steps of a run seen as progress."""

from __future__ import annotations

from typing import Any

from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...sad_core import GammaSchedule
from .progress import progress_at

CURVE_INTERVALS = 1024


def schedule_from_curve(curve: Any, lowest: float, highest: float) -> GammaSchedule:
    """A drawn CURVE as a schedule; ComfyUI's curves live in [0, 1]², so γ is spread from `lowest` to `highest`.

    The curve is read at 1,025 evenly spaced places with straight lines between them.

    Raises:
        ValueError: not a curve.
    """
    from comfy_api.input import CurveInput

    try:
        drawn = CurveInput.from_raw(curve)
        if not drawn.points:
            raise ValueError("it has no points")
        heights = [float(drawn.interp(index / CURVE_INTERVALS)) for index in range(CURVE_INTERVALS + 1)]
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise ValueError(
            f"curve: got {type(curve).__name__}, which is not a drawn curve ({error}); draw one in the curve widget or "
            "wire a CURVE, or choose another shape."
        ) from error
    return GammaSchedule.from_values([lowest + (highest - lowest) * height for height in heights])


def steps_of_run(model: ModelPatcher, sigmas: Tensor) -> list[float]:
    """Progress of every model call a one-call-a-step sampler makes for `sigmas`, the last sigma being the result."""
    model_sampling = model.get_model_object("model_sampling")
    return [progress_at(model_sampling, float(sigma)) for sigma in sigmas[:-1]]
