"""Pictures to latents and back, in a few lines of plain PyTorch; exact both ways up to rounding.

A picture (N, 3, 2H, 2W) becomes a latent (N, 12, H, W): one level of the orthonormal Haar transform, then one mean
and one standard deviation per channel. The detail bands of real pictures are small, so whitening magnifies them for
the model, and decoding shrinks the model's errors in them by the same factor: that is what keeps checkerboards away.
A model of grey pictures may take two levels, (N, 1, 4H, 4W) to (N, 16, H, W): the channels say how many there are.
"""

from __future__ import annotations

import torch
from torch import Tensor


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


def bands_of(pictures: Tensor, channels: int) -> Tensor:
    """Pictures (N, C, H, W) -> bands of so many channels, by as many Haar steps as that takes, each of all bands."""
    bands = pictures
    while bands.shape[-3] < channels:
        bands = haar(bands)
    return bands


def encode(pictures: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Pictures (N, C, H, W) in [0, 1] -> latents of as many channels as `mean` and `std` have."""
    return (bands_of(pictures, len(mean)) - mean[:, None, None]) / std[:, None, None]


def decode(latents: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Latents -> pictures (N, C, H, W), not clamped, so that it is the exact inverse of `encode`.

    C is 3, or 1 where the latents come of one: a Haar step makes four channels of each.
    """
    pictures = latents * std[:, None, None] + mean[:, None, None]
    while pictures.shape[-3] % 4 == 0:
        pictures = inverse_haar(pictures)
    return pictures
