"""The test bed's second architecture: a small NextDiT of ten classes that learns a rectified flow.

Its file holds `dit.*`, the weights by ComfyUI's names, and what the UNet's file holds beside them: `context`
(11, 4, 64), `latent_mean` and `latent_std` (16,). Latents have a deviation of 1, and

    x = (1 − σ)·latent + σ·noise,    velocity = noise − latent,    σ from 1 to 0 in equal steps

(Liu et al. 2022, https://arxiv.org/abs/2209.03003), which is what ComfyUI's "simple" scheduler takes at a shift of 1.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from lab.demo.contact_sheet import draw_samples
from lab.demo.model import NO_CATEGORY, LatentModel
from lab.demo.sampling import guided_velocity, seed_noise
from lab.demo.train import CATEGORY_DROPOUT, Trainer, bfloat16_where_fast, spread
from lab.testbed.next_dit import NextDiT
from lab.testbed.shape import CLASSES, COMFYUI_DIT_CONFIG, LATENT_CHANNELS, LATENT_SIZE

DEVIATION = 1.0  # of the latents
SHEET_STEPS = 10


class FlowModel(LatentModel):
    """Predicts the way from a noisy latent to its noise, given σ and the class."""

    def __init__(self) -> None:
        super().__init__(len(CLASSES), COMFYUI_DIT_CONFIG["cap_feat_dim"], (LATENT_CHANNELS, LATENT_SIZE, LATENT_SIZE))
        self.dit = NextDiT(COMFYUI_DIT_CONFIG, LATENT_SIZE, self.context.shape[1])

    @property
    def network(self) -> NextDiT:
        """The network that predicts from latents."""
        return self.dit

    def forward(self, noisy: Tensor, sigmas: Tensor, classes: Tensor) -> Tensor:
        """The velocity (N, 16, 8, 8) at σ (N,), for classes (N,) or NO_CATEGORY."""
        velocity: Tensor = self.dit(noisy, sigmas, self.context[classes])
        return velocity


class FlowTrainer(Trainer):
    """Teaches the velocity; a sheet has four samples a class."""

    def error(
        self, latents: Tensor, labels: Tensor, alphas: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """The mean square error of the velocity, twice; every σ is equally likely."""
        count, device = len(latents), latents.device
        sigmas = spread(count, generator).to(device)
        noise = torch.randn(latents.shape, generator=generator).to(device)
        dropped = (torch.rand(count, generator=generator) < CATEGORY_DROPOUT).to(device)
        noisy = torch.lerp(latents, noise, sigmas[:, None, None, None])
        with bfloat16_where_fast(device):
            predicted = self.model(noisy, sigmas, labels.masked_fill(dropped, NO_CATEGORY))
        error = (predicted.float() - (noise - latents)).square().mean()
        return error, error.detach()

    def draw(self, per_category: int = 4, steps: int = SHEET_STEPS) -> None:
        """Writes a sheet of samples of the averaged model beside the checkpoint."""
        draw_samples(self.average, self.sheet_file, per_category, steps=steps, latents_of=sample_latents)


@torch.no_grad()
def sample_latents(
    model: FlowModel, classes: Tensor, seeds: Sequence[int], steps: int = SHEET_STEPS, guidance: float = 2.0
) -> Tensor:
    """One batch of finished latents (N, 16, 8, 8), for classes (N,) and N seeds, by Euler steps."""
    device = model.latent_mean.device
    x = torch.cat([seed_noise(seed, model.latent_shape) for seed in seeds]).to(device)
    for sigma, next_sigma in itertools.pairwise(torch.linspace(1, 0, steps + 1, device=device)):
        x = x + (next_sigma - sigma) * guided_velocity(model, x, sigma, classes.to(device), guidance)
    return x
