"""The pictures of a trial, with 8 bits a colour in memory as in their files, and as measures want them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import torch
from torch import Tensor

from ..guards import is_whole

DIGITS = 6  # of seconds


@dataclass(frozen=True)
class Picture:
    """A picture, rounded once to 8 bits: what is measured does not depend on whether it was just sampled or kept.

    Attributes:
        pixels: `(height, width, 3)`, uint8.
        seconds: that it took.
        broken: whether a number of it was NaN or infinite, which 8 bits cannot hold.
    """

    pixels: Tensor
    seconds: float
    broken: bool = False

    @classmethod
    def of(cls, image: Tensor, seconds: float) -> Picture:
        """Return an image `(height, width, 3)` in [0, 1] as a picture: times 255, to the nearest, halves to even."""
        pixels = (image.float().cpu().nan_to_num(0.0).clamp(0, 1) * 255).round().to(torch.uint8)
        # In the order of a file: sums over other strides round otherwise.
        return cls(pixels.contiguous(), float(f"{seconds:.{DIGITS}g}"), not is_whole(image))

    @property
    def image(self) -> Tensor:
        """The picture in [0, 1], float32; all NaN where it is broken."""
        return torch.full(self.pixels.shape, math.nan) if self.broken else self.pixels.float() / 255


@dataclass(frozen=True)
class Images(Sequence[Tensor]):
    """Pictures as a sequence of images in [0, 1], each made when it is asked for, so that few are in memory at once."""

    pictures: Sequence[Picture]

    def __len__(self) -> int:
        return len(self.pictures)

    @overload
    def __getitem__(self, index: int) -> Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> list[Tensor]: ...
    def __getitem__(self, index: int | slice) -> Tensor | list[Tensor]:
        if isinstance(index, slice):
            return [picture.image for picture in self.pictures[index]]
        return self.pictures[index].image
