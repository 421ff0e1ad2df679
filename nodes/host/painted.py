"""γ where it is painted: a mask over the picture, as a weight for every token of a site.

    γᵢ = 1 + mᵢ·(γ − 1)        for the query of token i, mᵢ the mean of the mask over what the token covers

Row i of the retrieval is that of its own γᵢ, exactly. A γ that varies is no longer a scaling of one skew part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .picture import PATCHES, image_size
from .prompts import PLACES, Places
from .rows import numbers_of

NOT_OVER_TOKENS = "the mask cannot be laid over its tokens, which do not form a grid over the image"
NO_PICTURE = "the mask works on images, and this latent is not an image, or has several frames"
NO_PLACE = "it is not known which part of the image a model call covers, so the mask cannot be laid over it"


class PaintedMask:
    """A MASK of ComfyUI.

    Attributes:
        pixels: `(N, H, W)` in float32 on the CPU, from 0, where γ is 1, to 1, where it is what the node says. Image n
            of the run has mask n, from the first again where there are fewer masks than images.
    """

    def __init__(self, pixels: Tensor):
        self.pixels = pixels
        self._by_size: dict[tuple[int, int], Tensor] = {}

    @classmethod
    def of(cls, mask: Tensor) -> PaintedMask:
        """Return the mask of a `(N, H, W)` or `(H, W)` tensor; numbers outside 0 … 1 are moved to the nearer end.

        Raises:
            ValueError: a tensor of another shape or without pixels, or with numbers that are not finite.
        """
        pixels = mask.detach().to("cpu", torch.float32)
        pixels = pixels[None] if pixels.dim() == 2 else pixels
        if pixels.dim() != 3 or not pixels.numel() or not bool(pixels.isfinite().all()):
            raise ValueError(
                f"mask has shape {tuple(mask.shape)}, but it must be a MASK of shape (images, height, width) with only "
                "finite numbers."
            )
        return cls(pixels.clamp(0, 1))

    @property
    def is_empty(self) -> bool:
        """True if the mask is 0 everywhere."""
        return not bool(self.pixels.any())

    @property
    def is_full(self) -> bool:
        """True if the mask is 1 everywhere, which equals no mask."""
        return bool((self.pixels == 1).all())

    def describe(self) -> str:
        """The share that is painted, for the plan."""
        return f"in the painted area ({float(self.pixels.mean()):.0%} of the image)"

    def over(self, size: tuple[int, int]) -> Tensor:
        """Return the mask in the height and width of a latent, `(N, 1, height, width)`.

        Pixels are averaged where there are more than are wanted, and drawn out linearly where there are fewer.
        """
        if size not in self._by_size:
            height, width = size
            fewer = min(height, self.pixels.shape[1]), min(width, self.pixels.shape[2])
            smaller = F.adaptive_avg_pool2d(self.pixels[:, None], fewer)
            self._by_size = {size: F.interpolate(smaller, size, mode="bilinear").clamp(0, 1)}
        return self._by_size[size]


@dataclass(frozen=True)
class CallMask:
    """The mask in one model call.

    Attributes:
        shares: for each number of tokens a site may have, mᵢ of its tokens, `(rows, 1, tokens, 1)`, on the device.
        reason: why there are none.
    """

    shares: tuple[tuple[int, Tensor], ...] = ()
    reason: str = NOT_OVER_TOKENS

    def share(self, tokens: int, rows: int) -> Tensor | None:
        """Return mᵢ for the tokens of an attention call with so many rows; None where the mask does not fit."""
        for count, share in self.shares:
            if count == tokens and share.shape[0] == rows:
                return share
        return None

    def gammas(self, gamma: float | Tensor, share: Tensor, before: int, after: int) -> Tensor:
        """Return γ of every query row, `(B, 1, M, 1)`; 1 in the rows that are no image tokens.

        Args:
            gamma: γ where everything is painted; a number or `(B, 1, 1, 1)`.
            share: mᵢ of the image tokens, `(B, 1, tokens, 1)`.
            before, after: how many queries are before and after them.
        """
        if before or after:
            share = F.pad(share, (0, 0, before, after))
        return share * (gamma - 1) + 1


@dataclass
class RunMask:
    """A mask over the sampling runs of one patch. What was laid is kept as long as the calls ask for the same."""

    mask: PaintedMask
    _laid: dict[Any, CallMask | None] = field(default_factory=dict)

    def of_call(self, options: Mapping[str, Any], x: Tensor) -> CallMask | None:
        """Return the mask in a model call; None where nothing of it is painted.

        Args:
            options: the `transformer_options` of the call.
            x: its latents.
        """
        size, marks, ids = image_size(x), options.get("cond_or_uncond") or (), options.get("uuids") or ()
        places = options.get(PLACES)
        if not all(size):
            return CallMask(reason=NO_PICTURE)
        if not isinstance(places, Places) or len(marks) != len(ids) or len(x) != len(ids) * places.rows:
            return CallMask(reason=NO_PLACE)
        areas = [places.area(mark, chunk) for mark, chunk in zip(marks, ids, strict=True)]
        corners = tuple(area[2:] for area in areas if area is not None and area[:2] == size)
        if len(corners) != len(areas):
            return CallMask(reason=NO_PLACE)
        numbers = tuple(_images_of(options, len(x), len(ids)))
        key = places.size, size, corners, numbers, x.device
        if key not in self._laid:
            self._laid = {key: self._lay(*key)}
        return self._laid[key]

    def forget(self) -> None:
        """Forget what was laid, when a run ends."""
        self._laid = {}

    def _lay(
        self,
        whole: tuple[int, int],
        size: tuple[int, int],
        corners: Sequence[tuple[int, int]],
        numbers: Sequence[int],
        device: torch.device,
    ) -> CallMask | None:
        masks = self.mask.over(whole)
        masks = masks[[number % len(masks) for number in numbers]]
        part = torch.cat([masks[:, :, top : top + size[0], left : left + size[1]] for top, left in corners])
        if not bool(part.any()):
            return None
        shares = {}
        for patch in reversed(PATCHES):  # the smaller patch has the word where two have as many tokens
            means = F.avg_pool2d(part, patch, ceil_mode=True, count_include_pad=False)
            shares[means.shape[2] * means.shape[3]] = means.flatten(2)[..., None].to(device)
        return CallMask(tuple(shares.items()))


def _images_of(options: Mapping[str, Any], rows: int, passes: int) -> Sequence[int]:
    """Return the number of the image of each row of a pass; a window over a batch says which images it has."""
    window = options.get("context_window")
    if window is not None and getattr(window, "dim", None) == 0 and len(window.index_list) == rows // passes:
        return list(window.index_list)
    return numbers_of(options, rows, passes, rows)
