"""Signs that a picture has gone wrong, each a plain fact about its pixels and none of them a verdict."""

from __future__ import annotations

import math

from torch import Tensor

HALF_A_STEP = 0.5 / 255  # of a picture with 8 bits a channel


def is_whole(picture: Tensor) -> bool:
    """Whether every number of a picture is finite."""
    return bool(picture.isfinite().all())


def clipped_share(picture: Tensor) -> float:
    """Share of the colour values of `(h, w, 3)` that are black or white in 8 bits: at or beyond 0 or 1."""
    return float(((picture < HALF_A_STEP) | (picture > 1 - HALF_A_STEP)).float().mean())


def saturation(picture: Tensor) -> float:
    """Mean over the pixels of `(h, w, 3)` of the largest less the smallest channel: 0 grey, 1 pure colours."""
    return float((picture.amax(dim=-1) - picture.amin(dim=-1)).float().mean())


def high_frequency_energy(picture: Tensor) -> float:
    """Mean variance inside the blocks of 2×2 pixels of `(h, w, 3)`, the finest octave of the picture.

    It is what a Haar wavelet's three finest bands hold. Noise and over-sharpening raise it, blur lowers it. A last odd
    row or column is left out; NaN for a picture without a block.
    """
    height, width = (size - size % 2 for size in picture.shape[:2])
    if height == 0 or width == 0:
        return math.nan
    blocks = picture[:height, :width].float().unflatten(1, (-1, 2)).unflatten(0, (-1, 2))  # (h/2, 2, w/2, 2, 3)
    return float((blocks - blocks.mean(dim=(1, 3), keepdim=True)).square().mean())
