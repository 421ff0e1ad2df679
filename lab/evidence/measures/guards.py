"""Signs of damage that say nothing about what a picture shows. Each has a normal value: that of real pictures."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

HALF_A_LEVEL = 0.5 / 255  # values this close to 0 or 1 are 0 or 255 in a file
BACKGROUND = 0.02  # a pixel is white background when all its channels are within this of 1
LARGEST_RESPONSE = 8.0  # of the five-point Laplacian, to a checkerboard
FLAT = 1e-12  # a mean square deviation below this is rounding


def saturation(pictures: Tensor) -> Tensor:
    """Share of values at 0 or 1 among the pixels that are not white: (N, 3, H, W) -> (N,); 0 where all is white."""
    pictures = pictures.double()
    drawn = (pictures < 1 - BACKGROUND).any(dim=1, keepdim=True).expand_as(pictures)
    at_an_end = (pictures <= HALF_A_LEVEL) | (pictures >= 1 - HALF_A_LEVEL)
    return (at_an_end & drawn).sum(dim=(1, 2, 3)) / drawn.sum(dim=(1, 2, 3)).clamp(min=1).double()


def high_frequency(pictures: Tensor) -> Tensor:
    """Share of Laplacian energy: (N, 3, H, W) -> (N,) in [0, 1]; 0 for one flat colour, 1 for a checkerboard.

    ‖Δy‖² / (64 ‖y − mean‖²), Δ the five-point Laplacian with opposite edges joined, the mean taken a channel. By
    Parseval that is the mean of (λ / 8)² over the power spectrum of the picture, λ the response of Δ at a frequency.
    """
    pictures = pictures.double()
    padded = F.pad(pictures, (1, 1, 1, 1), mode="circular")
    sides = padded[..., :-2, 1:-1] + padded[..., 2:, 1:-1] + padded[..., 1:-1, :-2] + padded[..., 1:-1, 2:]
    energy = (4 * pictures - sides).square().mean(dim=(1, 2, 3)) / LARGEST_RESPONSE**2
    variation = (pictures - pictures.mean(dim=(2, 3), keepdim=True)).square().mean(dim=(1, 2, 3))
    return torch.where(variation > FLAT, energy / variation, 0)
