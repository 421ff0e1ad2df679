"""Signs that an image is broken: facts about its pixels, none of them a verdict."""

from __future__ import annotations

import math

from torch import Tensor

HALF_A_STEP = 0.5 / 255  # of an image with 8 bits a channel


def is_whole(image: Tensor) -> bool:
    """Return whether every number of an image is finite."""
    return bool(image.isfinite().all())


def clipped_share(image: Tensor) -> float:
    """Return the share of the colour values of `(h, w, 3)` that are black or white in 8 bits: at or beyond 0 or 1."""
    return float(((image < HALF_A_STEP) | (image > 1 - HALF_A_STEP)).float().mean())


def saturation(image: Tensor) -> float:
    """Return the largest less the smallest channel, averaged over the pixels of `(h, w, 3)`: 0 grey, 1 pure colours."""
    return float((image.amax(dim=-1) - image.amin(dim=-1)).float().mean())


def high_frequency_energy(image: Tensor) -> float:
    """Return the mean variance inside the blocks of 2×2 pixels of `(h, w, 3)`, the finest octave of the image.

    It is the energy of a Haar wavelet's three finest bands. Noise and over-sharpening raise it, blur lowers it. A last
    odd row or column is left out. NaN for an image without a block.
    """
    height, width = (size - size % 2 for size in image.shape[:2])
    if height == 0 or width == 0:
        return math.nan
    blocks = image[:height, :width].float().unflatten(1, (-1, 2)).unflatten(0, (-1, 2))  # (h/2, 2, w/2, 2, 3)
    return float((blocks - blocks.mean(dim=(1, 3), keepdim=True)).square().mean())
