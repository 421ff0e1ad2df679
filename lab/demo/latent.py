"""Pictures to latents and back, in a few lines of plain PyTorch; exact both ways up to rounding.

A picture (N, 3, 32, 32) becomes a latent (N, 12, 16, 16): one level of the orthonormal Haar transform, then one mean
and one standard deviation per channel. The detail bands of real pictures are small, so whitening magnifies them for
the model, and decoding shrinks the model's errors in them by the same factor: that is what keeps checkerboards away.
"""

from __future__ import annotations

import torch
from torch import Tensor

LATENT_CHANNELS = 12
LATENT_SIZE = 16
PICTURE_SIZE = 32
# Stable Diffusion's noise schedule is made for latents 64 pixels wide. With so few pixels as 16 x 16 its noise drowns
# colours that would still show in a larger picture; latents twice as strong bring the two closer together.
LATENT_DEVIATION = 2.0


def haar(pictures: Tensor) -> Tensor:
    """(N, C, 2H, 2W) -> (N, 4C, H, W): all LL channels, then all LH (left minus right), HL (top minus bottom), HH."""
    top_left, top_right = pictures[..., 0::2, 0::2], pictures[..., 0::2, 1::2]
    bottom_left, bottom_right = pictures[..., 1::2, 0::2], pictures[..., 1::2, 1::2]
    bands = [
        top_left + top_right + bottom_left + bottom_right,
        top_left - top_right + bottom_left - bottom_right,
        top_left + top_right - bottom_left - bottom_right,
        top_left - top_right - bottom_left + bottom_right,
    ]
    return torch.cat(bands, dim=-3) / 2


def inverse_haar(bands: Tensor) -> Tensor:
    """(N, 4C, H, W) -> (N, C, 2H, 2W): undoes `haar`. The transform of each 2x2 block is its own inverse."""
    mean, horizontal, vertical, diagonal = bands.chunk(4, dim=-3)
    top = torch.stack([mean + horizontal + vertical + diagonal, mean - horizontal + vertical - diagonal], dim=-1)
    bottom = torch.stack([mean + horizontal - vertical - diagonal, mean - horizontal - vertical + diagonal], dim=-1)
    rows = torch.stack([top.flatten(-2), bottom.flatten(-2)], dim=-2)  # (N, C, H, 2, 2W)
    return rows.flatten(-3, -2) / 2


def bands_of(pictures: Tensor, size: int) -> Tensor:
    """Pictures (N, C, 32, 32) -> bands `size` pixels wide, by as many Haar steps as that takes, each of all bands."""
    bands = pictures
    while bands.shape[-1] > size:
        bands = haar(bands)
    return bands


def encode(pictures: Tensor, mean: Tensor, std: Tensor, size: int = LATENT_SIZE) -> Tensor:
    """Pictures (N, 3, 32, 32) in [0, 1] -> latents (N, 12, 16, 16); `mean` and `std` are (12,)."""
    return (bands_of(pictures, size) - mean[:, None, None]) / std[:, None, None]


def decode(latents: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Latents (N, 12, 16, 16) -> pictures (N, 3, 32, 32), not clamped, so that it is the exact inverse of `encode`."""
    pictures = latents * std[:, None, None] + mean[:, None, None]
    while pictures.shape[-1] < PICTURE_SIZE:
        pictures = inverse_haar(pictures)
    return pictures


def measure_whitening(pictures: Tensor, size: int = LATENT_SIZE) -> tuple[Tensor, Tensor]:
    """The (12,) `mean` and `std` that give the latents of pictures (N, 3, 32, 32) mean 0 and LATENT_DEVIATION."""
    std, mean = torch.std_mean(bands_of(pictures, size), dim=(0, 2, 3))
    return mean, std / LATENT_DEVIATION
