"""The images of a sweep, by γ and seed, and the distances between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Comparison:
    """Images of the same seeds at several γ, and their distances as root mean square of pixels in [0, 1].

    Attributes:
        gammas: the γ of each row, none twice.
        rows: a batch `(B, height, width, 3)` for each γ, all of one shape.
        moved: `(rows, B)` distance of each image from that of γ = 1 in its column; None where γ = 1 is missing.
        apart: mean distance between two images of a row, one for each row; None where a row has one image.
    """

    gammas: tuple[float, ...]
    rows: tuple[Tensor, ...]
    moved: Tensor | None
    apart: tuple[float, ...] | None

    def to_csv(self) -> str:
        """Return one line for each γ; a number that does not exist is left empty."""
        lines = ["gamma,moved,apart"]
        for index, gamma in enumerate(self.gammas):
            moved = "" if self.moved is None else f"{float(self.moved[index].mean()):.5f}"
            apart = "" if self.apart is None else f"{self.apart[index]:.5f}"
            lines.append(f"{gamma:g},{moved},{apart}")
        return "\n".join(lines)


def compare_gammas(batches: Sequence[Tensor], gammas: Sequence[float]) -> Comparison:
    """Measure the distances between the images of a sweep.

    Runs of one γ, each with a seed of its own, make one row.

    Args:
        batches: ComfyUI IMAGEs, `(B, height, width, 3)` each.
        gammas: the γ of each batch.

    Raises:
        ValueError: there is not one γ for each batch, or the images have several sizes, or the γ several numbers of
            images.
    """
    by_gamma = images_by_gamma(batches, gammas)
    if len({len(images) for images in by_gamma.values()}) > 1:
        raise ValueError(
            "Every gamma of a sweep must have the same number of images, but there are "
            f"{', '.join(f'{len(images)} of gamma {gamma:g}' for gamma, images in by_gamma.items())}. Give every run "
            "the same latent."
        )
    rows = {gamma: torch.stack(images) for gamma, images in by_gamma.items()}
    flat = {gamma: row.float().flatten(1) for gamma, row in rows.items()}  # (B, pixels) each
    count, pixels = next(iter(flat.values())).shape
    neutral = flat.get(1.0)
    moved = None
    if neutral is not None:
        moved = torch.stack([(row - neutral).norm(dim=1) for row in flat.values()]) / pixels**0.5
    apart = None if count < 2 else tuple(float(torch.pdist(row).mean()) / pixels**0.5 for row in flat.values())
    return Comparison(tuple(rows), tuple(rows.values()), moved, apart)


def images_by_gamma(batches: Sequence[Tensor], gammas: Sequence[float]) -> dict[float, list[Tensor]]:
    """Return the images of every γ, `(height, width, 3)` each, in the order they came in; runs of one γ are joined.

    Raises:
        ValueError: there is not one γ for each batch, or the images have several sizes.
    """
    if len(batches) != len(gammas):
        raise ValueError(
            f"Each gamma must have one batch of images, but the number of batches is {len(batches)} and the number of "
            f"gammas is {len(gammas)}. Wire gamma from the Gamma Sweep (SAD) that also feeds Skew Attention (SAD)."
        )
    sizes = {(batch.shape[2], batch.shape[1]) for batch in batches}
    if len(sizes) > 1:
        raise ValueError(
            "All images of a sweep must have the same size, but there are "
            f"{', '.join(f'{width}×{height}' for width, height in sorted(sizes))} pixels. Give every run the same "
            "latent."
        )
    by_gamma: dict[float, list[Tensor]] = {}
    for batch, gamma in zip(batches, gammas, strict=True):
        by_gamma.setdefault(gamma, []).extend(batch[..., :3])
    return by_gamma
