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
        gammas: one for each row.
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
    """Measure the pictures of a sweep.

    Args:
        batches: ComfyUI IMAGEs, `(B, height, width, 3)` each.
        gammas: the γ of each.

    Raises:
        ValueError: not one γ for each batch, or batches of several shapes.
    """
    if len(batches) != len(gammas):
        raise ValueError(
            f"{len(batches)} images came in for {len(gammas)} gammas, but there must be one run for each: wire gamma "
            "from the same Gamma Sweep (SAD) as into Skew Attention (SAD)."
        )
    shapes = {tuple(batch.shape) for batch in batches}
    if len(shapes) > 1:
        raise ValueError(f"The images of a sweep must all have one size and number, but there are {sorted(shapes)}.")
    flat = [batch.float().flatten(1) for batch in batches]  # (B, pixels) each
    pictures, pixels = flat[0].shape
    plain = next((row for row, gamma in zip(flat, gammas, strict=True) if gamma == 1.0), None)
    moved = None if plain is None else torch.stack([(row - plain).norm(dim=1) for row in flat]) / pixels**0.5
    apart = None if pictures < 2 else tuple(float(torch.pdist(row).mean()) / pixels**0.5 for row in flat)
    return Comparison(tuple(gammas), tuple(batches), moved, apart)
