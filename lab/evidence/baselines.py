"""Two rivals of γ from their papers: perturbed-attention guidance and self-attention guidance.

FreeU (Si et al., arXiv 2309.11497) comes from diffusers, and temperature is a factor on the first noise; sampling.py
sets both.

The papers speak of the noise ε in z = √a·x₀ + √(1 − a)·ε, the model of the velocity v = √a·ε − √(1 − a)·x₀. At one z

    x₀ = √a·z − √(1 − a)·v        ε = √(1 − a)·z + √a·v

so a change of ε by δ is a change of v by δ/√a, and a mixture of noises is the same mixture of velocities.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lab.demo.model import NO_CATEGORY, DemoModel
from lab.demo.sampling import both_velocities, guide
from lab.evidence.watching import self_attentions, watching

MIDDLE = "middle.0"
BLUR_DEVIATION = 1.0  # in latent pixels; the paper's value for latent models
BLUR_REACH = 4


def perturbed_attention_guidance(
    model: DemoModel, scaled: Tensor, timestep: Tensor, categories: Tensor, guidance: float, scale: float
) -> Tensor:
    """The guided velocity (N, 12, 16, 16) plus `scale` · (conditional − conditional with perturbed attention).

    Ahn et al. 2024, arXiv 2403.17377, with guidance as in their equation for both: in the perturbed pass every token of
    the middle block's self-attention attends only to itself.
    """
    conditional, unconditional = both_velocities(model, scaled, timestep, categories)
    with identity_attention(self_attentions(model.unet)[MIDDLE]):
        perturbed: Tensor = model(scaled, timestep.expand(len(categories)), categories)
    return guide(conditional, unconditional, guidance) + scale * (conditional - perturbed)


def self_attention_guidance(
    model: DemoModel, scaled: Tensor, timestep: Tensor, categories: Tensor, guidance: float, scale: float, alpha: Tensor
) -> Tensor:
    """The guided velocity (N, 12, 16, 16), led away from what the model says where salient parts are blurred.

    Hong et al. 2023, arXiv 2210.00939: the picture that the unconditional pass predicts is blurred where its middle
    block attends, gets its predicted noise back and is looked at again; `scale` times the difference of the two noises
    is added to the guided noise. `alpha` is the cumulative alpha of the timestep.
    """
    count = len(categories)
    with watching({MIDDLE: self_attentions(model.unet)[MIDDLE]}) as seen:
        conditional, unconditional = both_velocities(model, scaled, timestep, categories)
        queries, keys, _ = seen[MIDDLE].rows(count, 2 * count)
    picture, noise = picture_and_noise(scaled, unconditional, alpha)
    degraded = torch.where(salient(queries, keys, scaled.shape[-1]), blur(picture), picture)
    noisy = alpha.sqrt() * degraded + (1 - alpha).sqrt() * noise
    velocity = model(noisy, timestep.expand(count), torch.full_like(categories, NO_CATEGORY))
    _, noise_again = picture_and_noise(noisy, velocity, alpha)
    return guide(conditional, unconditional, guidance) + scale * (noise - noise_again) / alpha.sqrt()


def picture_and_noise(scaled: Tensor, velocity: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
    """The latent x₀ and the noise ε that a velocity means at `scaled`, each (N, 12, 16, 16)."""
    signal, rest = alpha.sqrt(), (1 - alpha).sqrt()
    return signal * scaled - rest * velocity, rest * scaled + signal * velocity


def salient(queries: Tensor, keys: Tensor, size: int) -> Tensor:
    """Mark the tokens that receive more attention than the average token: bool (N, 1, size, size).

    Args:
        queries, keys: (N, H, L, d) of a layer on a square grid; the attention is averaged over its heads.
        size: of the answer, each grid cell a block of equal pixels.
    """
    scale = queries.shape[-1] ** -0.5
    attention = (queries @ keys.mT * scale).softmax(dim=-1).mean(dim=1)
    received = attention.sum(dim=-2)  # by every token; 1 on average
    side = round(received.shape[-1] ** 0.5)
    grid = received.unflatten(-1, (side, side))[:, None]
    return F.interpolate(grid, size=(size, size), mode="nearest") > 1


def blur(latents: Tensor) -> Tensor:
    """(N, C, H, W) under a Gaussian of BLUR_DEVIATION, mirrored at the edges."""
    places = torch.arange(-BLUR_REACH, BLUR_REACH + 1, dtype=latents.dtype)
    line = (-0.5 * (places / BLUR_DEVIATION) ** 2).exp()
    line = line / line.sum()
    kernel = (line[:, None] * line).expand(latents.shape[1], 1, -1, -1)
    return F.conv2d(F.pad(latents, [BLUR_REACH] * 4, mode="reflect"), kernel, groups=latents.shape[1])


@contextmanager
def identity_attention(layer: Any) -> Iterator[None]:
    """Inside the `with` block every token of a diffusers attention layer attends only to itself."""
    before = layer.__dict__.get("forward")  # γ, if it is on the layer
    layer.forward = partial(_attend_to_oneself, layer)
    try:
        yield
    finally:
        del layer.forward
        if before is not None:
            layer.forward = before


def _attend_to_oneself(layer: Any, hidden_states: Tensor, *_: object, **__: object) -> Tensor:
    """Return the output of a diffusers attention layer, (B, L, C) in and out."""
    out: Tensor = layer.to_v(hidden_states)
    for projection in layer.to_out:
        out = projection(out)
    return out
