"""How the pictures of several γ differ, in numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Comparison:
    """Pictures of the same seeds at several γ, and their distances as root mean square of pixels in [0, 1].

    Attributes:
        gammas: one for each row, none twice.
        rows: a batch `(B, height, width, 3)` for each γ, all of one shape.
        moved: `(rows, B)` distance of each picture from that of γ = 1 in its column; None where γ = 1 is not there.
        apart: mean distance between two pictures of a row, one for each row; None where a row has one picture.
    """

    gammas: tuple[float, ...]
    rows: tuple[Tensor, ...]
    moved: Tensor | None
    apart: tuple[float, ...] | None

    def to_csv(self) -> str:
        """One line for each γ; a number that does not exist is left empty."""
        lines = ["gamma,moved,apart"]
        for index, gamma in enumerate(self.gammas):
            moved = "" if self.moved is None else f"{float(self.moved[index].mean()):.5f}"
            apart = "" if self.apart is None else f"{self.apart[index]:.5f}"
            lines.append(f"{gamma:g},{moved},{apart}")
        return "\n".join(lines)


def compare_gammas(batches: Sequence[Tensor], gammas: Sequence[float]) -> Comparison:
    """Measure the pictures of a sweep; runs of one γ, each with a seed of its own, make one row.

    Args:
        batches: ComfyUI IMAGEs, `(B, height, width, 3)` each.
        gammas: the γ of each.

    Raises:
        ValueError: not one γ for each batch, pictures of several sizes, or not as many for every γ.
    """
    by_gamma = pictures_by_gamma(batches, gammas)
    if len({len(pictures) for pictures in by_gamma.values()}) > 1:
        raise ValueError(
            "The images of a sweep must all have one size and number, but there are "
            f"{', '.join(f'{len(pictures)} of gamma {gamma:g}' for gamma, pictures in by_gamma.items())}."
        )
    rows = {gamma: torch.stack(pictures) for gamma, pictures in by_gamma.items()}
    flat = {gamma: row.float().flatten(1) for gamma, row in rows.items()}  # (B, pixels) each
    pictures, pixels = next(iter(flat.values())).shape
    plain = flat.get(1.0)
    moved = None if plain is None else torch.stack([(row - plain).norm(dim=1) for row in flat.values()]) / pixels**0.5
    apart = None if pictures < 2 else tuple(float(torch.pdist(row).mean()) / pixels**0.5 for row in flat.values())
    return Comparison(tuple(rows), tuple(rows.values()), moved, apart)


def pictures_by_gamma(batches: Sequence[Tensor], gammas: Sequence[float]) -> dict[float, list[Tensor]]:
    """The pictures of every γ, `(height, width, 3)` each, in the order they came in; runs of one γ follow each other.

    Raises:
        ValueError: not one γ for each batch, or pictures of several sizes.
    """
    if len(batches) != len(gammas):
        raise ValueError(
            f"{len(batches)} images came in for {len(gammas)} gammas, but there must be one run for each: wire gamma "
            "from the same Gamma Sweep (SAD) as into Skew Attention (SAD)."
        )
    sizes = {(batch.shape[2], batch.shape[1]) for batch in batches}
    if len(sizes) > 1:
        raise ValueError(
            "The images of a sweep must all have one size and number, but there are "
            f"{', '.join(f'{width}×{height}' for width, height in sorted(sizes))} pixels."
        )
    by_gamma: dict[float, list[Tensor]] = {}
    for batch, gamma in zip(batches, gammas, strict=True):
        by_gamma.setdefault(gamma, []).extend(batch[..., :3])
    return by_gamma
