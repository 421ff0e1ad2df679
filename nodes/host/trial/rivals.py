"""The rivals of γ on a MODEL: no guidance in the first steps, and a rescaled score."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import comfy.model_sampling
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ....sad_core.evaluation.trial.ways import GUIDANCE_OFF, RESCALED_SCORE, Way

NAME = "symmetric_attention.rival"
NO_GUIDANCE = 1.0


def with_rival(model: ModelPatcher, way: Way) -> ModelPatcher:
    """Return a clone of `model` with the rival of a way."""
    return {GUIDANCE_OFF: without_early_guidance, RESCALED_SCORE: with_rescaled_score}[way.rival](model, way.strength)


def why_not(model: ModelPatcher, way: Way, cfg: float) -> str:
    """Return a sentence on why a rival means nothing here; empty where it does."""
    if way.rival == GUIDANCE_OFF and cfg == NO_GUIDANCE:
        return f'"{way.name}" is not compared, because at CFG 1 there is no guidance to switch off.'
    sampling = model.get_model_object("model_sampling")
    known = (comfy.model_sampling.EPS, comfy.model_sampling.CONST)
    if way.rival == RESCALED_SCORE and not isinstance(sampling, known):
        return f'"{way.name}" is not compared, because it is not defined for the noise levels of this model.'
    return ""


def without_early_guidance(model: ModelPatcher, share: float) -> ModelPatcher:
    """CFG 1 in the first `share` of the run, which computes one prompt where else are two.

    Kynkäänniemi et al. 2024 (arXiv 2404.07724) leave guidance out at high noise.
    """
    limit = float(model.get_model_object("model_sampling").percent_to_sigma(share))

    def predict(executor: Any, x: Tensor, timestep: Tensor, *args: Any, **kwargs: Any) -> Any:
        guider = executor.class_obj
        if float(timestep.flatten()[0]) <= limit:
            return executor(x, timestep, *args, **kwargs)
        cfg, guider.cfg = guider.cfg, NO_GUIDANCE
        try:
            return executor(x, timestep, *args, **kwargs)
        finally:
            guider.cfg = cfg

    model = model.clone()
    model.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, NAME, predict)
    return model


def with_rescaled_score(model: ModelPatcher, k: float) -> ModelPatcher:
    """Temporal score rescaling (arXiv 2510.01184, equation 6, with its σ at 1).

        r = (s + 1) / (s/k + 1),   s the ratio of the variances of signal and noise

    The noise in x = α·x₀ + σ·ε is taken r times as large: x₀ becomes (x − r·(x − α·x₀)) / α. ComfyUI's node of that
    name takes one sample at a time.
    """
    is_flow = isinstance(model.get_model_object("model_sampling"), comfy.model_sampling.CONST)

    def rescaled(given: Mapping[str, Any]) -> Tensor:
        x, denoised = given["input"], given["denoised"]
        sigma = given["sigma"].to(torch.float32).reshape(-1, *[1] * (x.dim() - 1))
        alpha = 1.0 - sigma if is_flow else torch.ones_like(sigma)
        ratio = (alpha / sigma) ** 2
        factor = (ratio + 1) / (ratio / k + 1)
        moved = denoised + (1 - factor) * (x / alpha - denoised)
        return torch.where((ratio == 0) | ratio.isinf(), denoised, moved).to(denoised.dtype)

    model = model.clone()
    model.set_model_sampler_post_cfg_function(rescaled)
    return model
