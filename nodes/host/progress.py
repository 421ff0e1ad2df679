"""Progress of a sampling run: the p in [0, 1] at which ComfyUI's `percent_to_sigma(p)` is the current sigma."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Protocol

STEPS = 2**22  # of the grid that p is found on: a quarter of the last decimal that is kept


class ModelSampling(Protocol):
    """The part of ComfyUI's `model_sampling` (comfy/model_sampling.py) that is used here."""

    def percent_to_sigma(self, percent: float) -> float: ...


def progress_at(model_sampling: ModelSampling, sigma: float) -> float:
    """The p that solves `percent_to_sigma(p) = sigma`, for any model and any patched shift.

    It depends only on sigma: image to image, split samplers and samplers that call the model several times a step all
    agree. Neither a step counter nor a place in the run's list of sigmas could do that.

    Args:
        model_sampling: as patched for this run; `percent_to_sigma` must fall as p rises.
        sigma: the noise level of the call.

    Returns:
        p in [0, 1], to six decimals, which is what float32 sigmas carry. Sigmas beyond either end give 0 or 1.
    """
    wanted = math.log1p(max(sigma, 0.0))  # over p this is straighter than sigma itself in every kind of model

    def excess(step: int) -> float:
        return math.log1p(max(float(model_sampling.percent_to_sigma(step / STEPS)), 0.0)) - wanted

    # The root lies between `newest` and `other`. `older` is the step that one of the two took the place of.
    newest, at_newest = 1, excess(1)
    if not at_newest > 0:
        return 0.0
    other, at_other = STEPS - 1, excess(STEPS - 1)
    if at_other > 0:
        return 1.0
    share = at_newest / (at_newest - at_other) if at_newest < math.inf else 0.5
    while abs(other - newest) > 1:
        low, high = sorted((newest, other))
        step = min(max(round(newest + share * (other - newest)), low + 1), high - 1)
        at_step = excess(step)
        if (at_step > 0) == (at_newest > 0):
            older, at_older = newest, at_newest
        else:
            older, at_older = other, at_other
            other, at_other = newest, at_newest
        newest, at_newest = step, at_step
        share = _next_share(newest, other, older, at_newest, at_other, at_older)
    return round(max(newest, other) / STEPS, 6)


def _next_share(newest: int, other: int, older: int, at_newest: float, at_other: float, at_older: float) -> float:
    """Return how far from `newest` to `other` to look next: Chandrupatla's method (1997).

    That is the root of the parabola through the three points where it can be trusted, and else the middle. So a smooth
    curve takes about eight values, and no curve many more than bisection, which takes 22.
    """
    if at_older in (at_newest, at_other):
        return 0.5
    x, y = (newest - other) / (older - other), (at_newest - at_other) / (at_older - at_other)
    if not (y**2 < x and (1 - y) ** 2 < 1 - x):
        return 0.5
    first = at_newest / (at_other - at_newest) * at_older / (at_other - at_older)
    second = at_newest / (at_older - at_newest) * at_other / (at_older - at_other)
    return first + (older - newest) / (other - newest) * second


def steps_of_run(model: Any, sigmas: Iterable[Any]) -> list[float]:
    """Return the progress of every model call that a sampler with one call a step makes for `sigmas`.

    Args:
        model: ComfyUI's MODEL, a `ModelPatcher`.
        sigmas: the noise levels of the run, `(steps + 1,)`; the last one belongs to the result.
    """
    model_sampling = model.get_model_object("model_sampling")
    return [progress_at(model_sampling, float(sigma)) for sigma in list(sigmas)[:-1]]
