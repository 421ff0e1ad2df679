"""How far a sampling run is: the p in [0, 1] at which ComfyUI's `percent_to_sigma(p)` gives the current sigma."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

BISECTIONS = 22  # to half of the last decimal that is kept


class ModelSampling(Protocol):
    """The part of ComfyUI's `model_sampling` (comfy/model_sampling.py) that is used here."""

    def percent_to_sigma(self, percent: float) -> float: ...


def progress_at(model_sampling: ModelSampling, sigma: float) -> float:
    """The p that solves `percent_to_sigma(p) = sigma`, for any model and any patched shift.

    It depends on sigma alone: image to image, split samplers and samplers that call the model several times a step all
    agree. Neither a step counter nor a place in the run's list of sigmas could do that.

    Args:
        model_sampling: as patched for this run; `percent_to_sigma` must fall as p rises.
        sigma: the noise level of the call.

    Returns:
        p in [0, 1], to six decimals, which is what float32 sigmas carry. Sigmas beyond either end give 0 or 1.
    """
    low, high = 0.0, 1.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if float(model_sampling.percent_to_sigma(middle)) > sigma:
            low = middle
        else:
            high = middle
    return round(high, 6)


def steps_of_run(model: Any, sigmas: Iterable[Any]) -> list[float]:
    """Return the progress of every model call that a sampler with one call a step makes for `sigmas`.

    Args:
        model: ComfyUI's MODEL, a `ModelPatcher`.
        sigmas: the noise levels of the run, `(steps + 1,)`; the last one belongs to the result.
    """
    model_sampling = model.get_model_object("model_sampling")
    return [progress_at(model_sampling, float(sigma)) for sigma in list(sigmas)[:-1]]
