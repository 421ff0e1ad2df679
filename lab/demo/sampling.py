"""From noise to pictures: plain Euler steps on Stable Diffusion's schedule, one picture per seed.

These conventions are shared by everything that draws with the demo model, inside ComfyUI or without it:

- "trailing" timesteps; for a number of steps that divides 1000 the sigmas are those of ComfyUI's "simple" scheduler;
- the noise of a seed is `seed_noise(seed)`, whatever else is in the batch;
- the first latent is noise * sqrt(1 + sigma_max^2), as ComfyUI starts at full denoise;
- guidance: uncond + scale * (cond - uncond).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from diffusers import EulerDiscreteScheduler
from torch import Tensor

from demo_model.shape import LATENT_CHANNELS, LATENT_SIZE
from lab.demo.model import NO_CATEGORY, LatentModel

TRAINING_TIMESTEPS = 1000
LATENT_SHAPE = (LATENT_CHANNELS, LATENT_SIZE, LATENT_SIZE)

Velocity = Callable[[Tensor, Tensor], Tensor]  # of the latents as the model sees them, at a timestep


def make_scheduler(steps: int) -> EulerDiscreteScheduler:
    """Euler on SD 1.5's betas, set to `steps` steps. Only whole fractions of 1000 keep the timesteps integers."""
    if not 1 <= steps <= TRAINING_TIMESTEPS or TRAINING_TIMESTEPS % steps:
        raise ValueError(f"steps: {steps} does not divide 1000. Choose 10, 20, 25, 40, 50, 100 or another divisor.")
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        timestep_spacing="trailing",
        prediction_type="v_prediction",
        steps_offset=0,
    )
    scheduler.set_timesteps(steps)
    return scheduler


def seed_noise(seed: int, shape: tuple[int, int, int] = LATENT_SHAPE) -> Tensor:
    """The (1, *shape) float32 standard normal noise that belongs to a seed."""
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.randn((1, *shape), generator=generator)


def both_velocities(model: LatentModel, scaled: Tensor, timestep: Tensor, categories: Tensor) -> tuple[Tensor, Tensor]:
    """The velocities (N, 12, 16, 16) with the categories and without any, from one call of the model, in this order."""
    both = torch.cat([categories, torch.full_like(categories, NO_CATEGORY)])
    conditional, unconditional = model(scaled.repeat(2, 1, 1, 1), timestep.expand(len(both)), both).chunk(2)
    return conditional, unconditional


def guide(conditional: Tensor, unconditional: Tensor, guidance: float) -> Tensor:
    """The velocity pushed away from "no category" by `guidance`."""
    return unconditional + guidance * (conditional - unconditional)


def guided_velocity(
    model: LatentModel, scaled: Tensor, timestep: Tensor, categories: Tensor, guidance: float
) -> Tensor:
    """The velocity (N, 12, 16, 16) the model sees in `scaled`, pushed away from "no category" by `guidance`.

    A guidance of 1 is only the conditional prediction and costs half as much.
    """
    if guidance == 1.0:
        conditional: Tensor = model(scaled, timestep.expand(len(categories)), categories)
        return conditional
    return guide(*both_velocities(model, scaled, timestep, categories), guidance)


def first_latents(
    scheduler: EulerDiscreteScheduler, seeds: Sequence[int], shape: tuple[int, int, int] = LATENT_SHAPE
) -> Tensor:
    """Return the initial noise of N seeds, (N, *shape)."""
    noise = torch.cat([seed_noise(seed, shape) for seed in seeds])
    latents: Tensor = noise * (1 + scheduler.sigmas[0] ** 2) ** 0.5
    return latents


@torch.no_grad()
def denoise(scheduler: EulerDiscreteScheduler, latents: Tensor, velocity: Velocity) -> Tensor:
    """Finished latents (N, 12, 16, 16), by one Euler step along `velocity` for each timestep of a fresh scheduler."""
    for timestep in scheduler.timesteps:
        scaled = scheduler.scale_model_input(latents, timestep)
        latents = scheduler.step(velocity(scaled, timestep), timestep, latents, return_dict=False)[0]
    return latents


def sample_latents(
    model: LatentModel, categories: Tensor, seeds: Sequence[int], steps: int = 25, guidance: float = 2.0
) -> Tensor:
    """One batch of finished latents (N, 12, 16, 16), for `categories` (N,) and N seeds."""

    device = model.latent_mean.device
    categories = categories.to(device)

    def velocity(scaled: Tensor, timestep: Tensor) -> Tensor:
        return guided_velocity(model, scaled, timestep.to(device), categories, guidance)

    scheduler = make_scheduler(steps)
    return denoise(scheduler, first_latents(scheduler, seeds, model.latent_shape).to(device), velocity)


def sample(
    model: LatentModel,
    categories: Sequence[int] | Tensor,
    seeds: Sequence[int],
    steps: int = 25,
    guidance: float = 2.0,
    chunk: int = 32,
    latents_of: Callable[..., Tensor] = sample_latents,
) -> Tensor:
    """Pictures (N, 3, 32, 32) in [0, 1], one per seed, computed `chunk` at a time.

    `categories` are places in CATEGORIES, or NO_CATEGORY, as many as there are seeds; `steps` must divide 1000.
    `latents_of` samples a batch of latents as `sample_latents` does, for models of another kind.
    """
    categories = torch.as_tensor(categories)
    if len(categories) != len(seeds):
        raise ValueError(f"categories: {len(categories)} given for {len(seeds)} seeds; give one for each seed.")
    pictures = []
    for start in range(0, len(seeds), chunk):
        part = slice(start, start + chunk)
        latents = latents_of(model, categories[part], seeds[part], steps, guidance)
        pictures.append(model.decode(latents).clamp(0, 1))
    return torch.cat(pictures)
