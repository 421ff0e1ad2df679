"""Images of sweeps whose measures are known, the same on every machine, and the tables that are made of them."""

from __future__ import annotations

import csv
import io
import zlib

import torch
from torch import Tensor


def grey_images(*greys: float, size: tuple[int, int] = (8, 6)) -> Tensor:
    """Return a batch of even images of the given greys: `(n, *size, 3)`."""
    return torch.stack([torch.full((*size, 3), grey) for grey in greys])


def noise_images(*names: str, size: tuple[int, int] = (20, 24), contrast: float = 0.6) -> Tensor:
    """Return an image of noise around middle grey for every name: `(n, *size, 3)`; equal names give equal images."""
    seeds = [zlib.crc32(f"picture {name}".encode()) for name in names]
    drawn = [torch.randn(*size, 3, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return 0.5 + contrast * (torch.stack(drawn).sigmoid() - 0.5)


def contrast_sweep() -> tuple[list[Tensor], list[float]]:
    """Return four seeds at three γ: the images lie closer together at 0.5 and further apart at 2, as their contrast."""
    return [noise_images("a", "b", "c", "d", contrast=contrast) for contrast in (0.3, 0.6, 0.9)], [0.5, 1.0, 2.0]


def read_table(table: str) -> list[dict[str, str]]:
    """Return the rows of a CSV by the names of its columns."""
    return list(csv.DictReader(io.StringIO(table)))


def column(rows: list[dict[str, str]], name: str) -> list[float | None]:
    """Return the numbers of a column, None where a cell is empty."""
    return [float(row[name]) if row[name] else None for row in rows]
