"""Published methods that ComfyUI has no node for, as what a node would do: a MODEL and some numbers in, a MODEL out.

Written from the papers' formulas. Guidance by denoised latents: D is what the model takes the clean latent to be.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import comfy.model_sampling
import comfy.samplers
import torch
from comfy.model_patcher import ModelPatcher, set_model_options_patch_replace
from diffusers.utils.torch_utils import apply_freeu
from torch import Tensor

from lab.testbed.seeded_noise import SeededNoise

BLOCKS_A_RESOLUTION = 2  # of the decoder


def perturbed_attention_guidance(
    model: ModelPatcher, noise: SeededNoise, scale: float, blocks: Sequence[tuple[str, int]]
) -> ModelPatcher:
    """D + scale · (D_c − D_c with self-attention that looks at nothing but itself), in the blocks that are named.

    Ahn et al. 2024, https://arxiv.org/abs/2403.17377. ComfyUI's node takes the middle block, where this model has four
    tokens and the change is lost.
    """

    def attend_to_oneself(q: Tensor, k: Tensor, v: Tensor, options: Any, mask: Any = None) -> Tensor:
        return v

    return guided_away_from(model, partial(with_attention, attention=attend_to_oneself, blocks=blocks), scale)


def smoothed_energy_guidance(
    model: ModelPatcher, noise: SeededNoise, scale: float, blocks: Sequence[tuple[str, int]]
) -> ModelPatcher:
    """D + scale · (D_c − D_c with the queries of the blocks replaced by their mean over the tokens).

    Hong 2024, https://arxiv.org/abs/2408.00760, with a blur of infinite width, which is what the paper recommends.
    """

    def attention_of_mean(q: Tensor, k: Tensor, v: Tensor, options: Mapping[str, Any], mask: Any = None) -> Tensor:
        """(B, L, C) each. One query for all tokens, so one softmax over the keys for all of them."""
        query, keys, values = (each.unflatten(-1, (options["n_heads"], -1)).transpose(1, 2) for each in (q, k, v))
        query = query.mean(dim=2, keepdim=True)
        weights = (query @ keys.mT * query.shape[-1] ** -0.5).softmax(dim=-1)
        retrieved: Tensor = (weights @ values).transpose(1, 2).flatten(-2)
        return retrieved.expand_as(q)

    return guided_away_from(model, partial(with_attention, attention=attention_of_mean, blocks=blocks), scale)


def with_attention(
    options: Mapping[str, Any], attention: Callable[..., Tensor], blocks: Sequence[tuple[str, int]]
) -> dict[str, Any]:
    """The options of a UNet with another self-attention in some blocks."""
    changed = dict(options)
    for block in blocks:
        changed = set_model_options_patch_replace(changed, attention, "attn1", *block)
    return changed


def guided_away_from(
    model: ModelPatcher, worsened: Callable[[Mapping[str, Any]], dict[str, Any]], scale: float
) -> ModelPatcher:
    """D + scale · (D_c − D_c under the options that `worsened` makes of the model's), which costs a third pass."""

    def guided(given: Mapping[str, Any]) -> Tensor:
        options, conditions = worsened(given["model_options"]), [given["cond"]]
        (worse,) = comfy.samplers.calc_cond_batch(given["model"], conditions, given["input"], given["sigma"], options)
        out: Tensor = given["denoised"] + scale * (given["cond_denoised"] - worse)
        return out

    model = model.clone()
    model.set_model_sampler_post_cfg_function(guided)
    return model


def temporal_score_rescaling(model: ModelPatcher, noise: SeededNoise, k: float, sigma: float = 1.0) -> ModelPatcher:
    """(x − r·σ·ε̂)/α instead of (x − σ·ε̂)/α, with r = (s·sigma² + 1) / (s·sigma²/k + 1) and s = α²/σ².

    https://arxiv.org/abs/2510.01184, equation 6. α, the factor of the latent in x, is 1 − σ in a flow and 1 in
    ComfyUI's x of every other model. ComfyUI's node of that name takes one sample at a time.
    """
    flow = isinstance(model.get_model_object("model_sampling"), comfy.model_sampling.CONST)

    def rescaled(given: Mapping[str, Any]) -> Tensor:
        denoised: Tensor = given["denoised"]
        level = given["sigma"][0]
        alpha = 1 - level if flow else torch.ones_like(level)
        if alpha == 0:  # nothing but noise, and r is 1
            return denoised
        noisy, ratio = given["input"] / alpha, (level / alpha) ** -2
        factor = (ratio * sigma**2 + 1) / (ratio * sigma**2 / k + 1)
        out: Tensor = noisy + factor * (denoised - noisy)
        return out

    model = model.clone()
    model.set_model_sampler_post_cfg_function(rescaled)
    return model


def freeu_by_resolution(
    model: ModelPatcher, noise: SeededNoise, b1: float, b2: float, s1: float, s2: float
) -> ModelPatcher:
    """FreeU (Si et al. 2023, https://arxiv.org/abs/2309.11497), by diffusers, at the two coarsest resolutions.

    ComfyUI's node looks for blocks four and two times as wide as the first; all blocks of this model are equally wide.
    """

    def patch(hidden: Tensor, skipped: Tensor, options: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        _, block = options["block"]
        changed: tuple[Tensor, Tensor] = apply_freeu(
            block // BLOCKS_A_RESOLUTION, hidden, skipped, b1=b1, b2=b2, s1=s1, s2=s2
        )
        return changed

    model = model.clone()
    model.set_model_output_block_patch(patch)
    return model


def cads(model: ModelPatcher, noise: SeededNoise, start: float, end: float = 0.9, scale: float = 0.1) -> ModelPatcher:
    """Condition-annealed sampling: ŷ = √g·y + scale·√(1 − g)·n, given back the mean and the deviation of y.

    Sadat et al. 2023, https://arxiv.org/abs/2310.17347. With t the time left, 1 ... 0, g is 0 above `end` (τ₂), 1 below
    `start` (τ₁), and linear between; ψ is 1. n is fresh in every step, and a sample's own.
    """

    def annealed(condition: Tensor, left: float, number: int) -> Tensor:
        share = min(1.0, max(0.0, (end - left) / (end - start)))
        if share == 1.0:
            return condition
        fresh = noise.draw("CADS", number, condition.shape[1:]).to(condition)
        mixed = share**0.5 * condition + scale * (1 - share) ** 0.5 * fresh
        (mean, deviation), (was_mean, was_deviation) = map(moments, (condition, mixed))
        rescaled: Tensor = (mixed - was_mean) / was_deviation * deviation + mean
        return rescaled

    return with_condition(model, annealed)


def moments(condition: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each sample's tokens (N, tokens, width), (N, 1, 1) each."""
    return condition.mean(dim=(1, 2), keepdim=True), condition.std(dim=(1, 2), keepdim=True)


def noise_on_the_condition(
    model: ModelPatcher, noise: SeededNoise, strength: float, until: float = 0.2, share: float = 0.5
) -> ModelPatcher:
    """Uniform noise on some numbers of the condition in the first part of the run, as SeedVarianceEnhancer has it.

    That node pack adds noise in [−strength, strength] to a random `share` of the text embedding's numbers, in the first
    steps only, and keeps the noise of a seed over them.
    """

    def disturbed(condition: Tensor, left: float, number: int) -> Tensor:
        if 1 - left >= until:
            return condition
        shape = condition.shape[1:]
        uniform = 2 * noise.draw_uniform("strength", 0, shape) - 1
        chosen = noise.draw_uniform("chosen", 0, shape) < share
        return condition + (strength * uniform * chosen).to(condition)

    return with_condition(model, disturbed)


def with_condition(model: ModelPatcher, change: Callable[[Tensor, float, int], Tensor]) -> ModelPatcher:
    """A model whose positive rows see `change(condition (N, tokens, width), time left 1 ... 0, number of the step)`."""
    last: dict[str, Any] = {"sigma": None, "number": -1}
    sampling = model.get_model_object("model_sampling")
    whole = float(sampling.timestep(sampling.sigma_max))

    def wrapper(call: Callable[..., Tensor], given: Mapping[str, Any]) -> Tensor:
        conditions, sigma = dict(given["c"]), float(given["timestep"][0])
        if sigma != last["sigma"]:
            started = last["sigma"] is None or sigma > last["sigma"]
            last.update(sigma=sigma, number=0 if started else last["number"] + 1)
        left = float(sampling.timestep(given["timestep"][:1])[0]) / whole
        chunks = conditions["c_crossattn"].chunk(len(given["cond_or_uncond"]))
        conditions["c_crossattn"] = torch.cat(
            [
                change(chunk, left, last["number"]) if mark == 0 else chunk
                for mark, chunk in zip(given["cond_or_uncond"], chunks, strict=True)
            ]
        )
        return call(given["input"], given["timestep"], **conditions)

    model = model.clone()
    model.set_model_unet_function_wrapper(wrapper)
    return model


RIVALS: Mapping[str, Callable[..., ModelPatcher]] = {
    "perturbed attention guidance": perturbed_attention_guidance,
    "smoothed energy guidance": smoothed_energy_guidance,
    "temporal score rescaling": temporal_score_rescaling,
    "FreeU by resolution": freeu_by_resolution,
    "CADS": cads,
    "noise on the condition": noise_on_the_condition,
}
