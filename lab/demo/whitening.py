"""The mean and the deviation of each channel that latents are whitened by, measured once before training."""

from __future__ import annotations

import torch
from torch import Tensor

from demo_model.bands import bands_of
from demo_model.shape import LATENT_CHANNELS

# Stable Diffusion's noise schedule is made for latents 64 pixels wide. With so few pixels as 16 x 16 its noise drowns
# colours that would still show in a larger picture; latents twice as strong bring the two closer together.
LATENT_DEVIATION = 2.0


def measure_whitening(
    pictures: Tensor, channels: int = LATENT_CHANNELS, deviation: float = LATENT_DEVIATION
) -> tuple[Tensor, Tensor]:
    """The (12,) `mean` and `std` that give the latents of pictures (N, 3, 32, 32) mean 0 and a deviation."""
    std, mean = torch.std_mean(bands_of(pictures, channels), dim=(0, 2, 3))
    return mean, std / deviation
