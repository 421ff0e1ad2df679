"""Published methods for the DiT, where text and pixels share one stream of tokens and the network predicts a velocity.

What a node would do, as in `lab.testbed.rivals`. The pixels are the last tokens of a stream; the network's first block,
the noise refiner, sees nothing but pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher, create_model_options_clone
from comfy.patcher_extension import WrappersMP, add_wrapper
from torch import Tensor, nn

from lab.testbed.rivals import guided_away_from
from lab.testbed.seeded_noise import SeededNoise
from lab.testbed.shape import LATENT_SIZE

PIXELS = LATENT_SIZE**2
OVERRIDE = "optimized_attention_override"  # ComfyUI's own name


def temperature(model: ModelPatcher, noise: SeededNoise, factor: float, among_pixels: bool = False) -> ModelPatcher:
    """softmax(factor · scores) wherever pixels attend; `among_pixels` leaves scores that involve the text unchanged.

    The latter are the scores that γ changes.
    """

    def attend(attention: Any, q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Any = None, **named: Any) -> Any:
        """(B, heads, L, d) each."""
        if q.shape[-2] < PIXELS:  # the text on its own
            return attention(q, k, v, heads, mask=mask, **named)
        if not among_pixels:
            return attention(factor * q, k, v, heads, mask=mask, **named)
        more = q.new_zeros(*q.shape[:-1], k.shape[-2])
        scores = q[..., -PIXELS:, :] @ k[..., -PIXELS:, :].mT * q.shape[-1] ** -0.5
        more[..., -PIXELS:, -PIXELS:] = (factor - 1) * scores
        return attention(q, k, v, heads, mask=more, **named)

    model = model.clone()
    model.model_options["transformer_options"][OVERRIDE] = attend
    return model


def perturbed_attention_guidance(
    model: ModelPatcher, noise: SeededNoise, scale: float, layers: Sequence[int]
) -> ModelPatcher:
    """D + scale · (D_c − D_c where pixels look at no pixel but themselves), in the layers that are named.

    Ahn et al. 2024, https://arxiv.org/abs/2403.17377. As diffusers has it for Stable Diffusion 3: pixels still look at
    the text, and the text at everything.
    """

    def attend(attention: Any, q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Any = None, **named: Any) -> Any:
        """(B, heads, L, d) each."""
        options = named["transformer_options"]
        if options.get("block_type") == "double" and options["block_index"] in layers:
            mask = q.new_zeros(q.shape[-2], k.shape[-2])
            mask[-PIXELS:, -PIXELS:] = torch.full_like(mask[-PIXELS:, -PIXELS:], -torch.inf).fill_diagonal_(0)
        return attention(q, k, v, heads, mask=mask, **named)

    def perturbed(options: Mapping[str, Any]) -> dict[str, Any]:
        changed: dict[str, Any] = create_model_options_clone(options)
        changed["transformer_options"][OVERRIDE] = attend
        return changed

    return guided_away_from(model, perturbed, scale)


def smoothed_energy_guidance(
    model: ModelPatcher, noise: SeededNoise, scale: float, layers: Sequence[int]
) -> ModelPatcher:
    """D + scale · (D_c − D_c with the queries of the layers' pixels replaced by their mean over the pixels).

    Hong 2024, https://arxiv.org/abs/2408.00760, with a blur of infinite width. Queries are those that the projection
    gives, as in diffusers, before they are normalised and rotated.
    """

    def mean_queries(module: nn.Module, given: Any, projected: Tensor) -> Tensor:
        """(B, L, 3·C), of which the first third are the queries."""
        queries, rest = projected.tensor_split([projected.shape[-1] // 3], dim=-1)
        text, pixels = queries.tensor_split([queries.shape[1] - PIXELS], dim=1)
        means = pixels.mean(dim=1, keepdim=True).expand_as(pixels)
        return torch.cat([torch.cat([text, means], dim=1), rest], dim=-1)

    def run(network: Any, *arguments: Any, **named: Any) -> Any:
        with ExitStack() as hooks:
            for layer in layers:
                projection = network.class_obj.layers[layer].attention.qkv
                hooks.callback(projection.register_forward_hook(mean_queries).remove)
            return network(*arguments, **named)

    def smoothed(options: Mapping[str, Any]) -> dict[str, Any]:
        changed: dict[str, Any] = create_model_options_clone(options)
        add_wrapper(WrappersMP.DIFFUSION_MODEL, run, changed, is_model_options=True)
        return changed

    return guided_away_from(model, smoothed, scale)


def rescaled_guidance(model: ModelPatcher, noise: SeededNoise, multiplier: float) -> ModelPatcher:
    """The guided velocity v, `multiplier` of the way to v · deviation of v_c / deviation of v, for each sample.

    Lin et al. 2024, https://arxiv.org/abs/2305.08891, equations 15 and 16. ComfyUI's node takes the model for one whose
    latents have no factor at any noise level.
    """

    def guided(given: Mapping[str, Any]) -> Tensor:
        """The given velocities are σ·v, and σ cancels."""
        conditional, unconditional = given["cond"], given["uncond"]
        velocity = unconditional + given["cond_scale"] * (conditional - unconditional)
        ratio = deviation(conditional) / deviation(velocity)
        out: Tensor = velocity * (multiplier * ratio + (1 - multiplier))
        return out

    model = model.clone()
    model.set_model_sampler_cfg_function(guided)
    return model


def deviation(x: Tensor) -> Tensor:
    """Standard deviation of each sample's numbers (N, C, H, W), (N, 1, 1, 1)."""
    return x.std(dim=(1, 2, 3), keepdim=True)


DIT_RIVALS: Mapping[str, Callable[..., ModelPatcher]] = {
    "temperature of a stream": temperature,
    "perturbed attention guidance of a stream": perturbed_attention_guidance,
    "smoothed energy guidance of a stream": smoothed_energy_guidance,
    "rescaled guidance of the velocity": rescaled_guidance,
}
