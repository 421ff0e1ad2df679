"""Precision and recall (Kynkäänniemi et al. 2019, https://arxiv.org/abs/1904.06991), density and coverage (Naeem et al.
2020, https://arxiv.org/abs/2002.09797): is a sample where real pictures are, and is a real picture where samples are?

"Where pictures are" is the union of balls around them, each as wide as the way to its k-th nearest neighbour (k = 5).

Precision and density are numbers of one sample, given a real set. Recall and coverage grow with the number of samples
and are only compared at equal numbers, so here they are taken of blocks (see sets.py). All four depend on which real
pictures they are held against and on the feature space; between two real sets of different size they do not compare.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lab.evidence.measures.sets import BLOCK, SetMeasure, blocks

NEIGHBOUR = 5
RIM = 1 + 1e-9  # keeps the neighbour that a ball reaches to inside it, whatever the rounding


def radii(distances: Tensor, neighbour: int = NEIGHBOUR) -> Tensor:
    """Way of each point to its k-th nearest other, from the distances among them: (..., n, n) -> (..., n)."""
    count = distances.shape[-1]
    if count <= neighbour:
        raise ValueError(f"neighbour: {count} pictures have no {neighbour}th neighbour. Choose at most {count - 1}.")
    return distances.kthvalue(neighbour + 1, dim=-1).values * RIM  # the nearest of all is the point itself


def precision(samples: Tensor, real: Tensor, neighbour: int = NEIGHBOUR) -> Tensor:
    """1 for each sample (N, d) inside the ball of any real picture (M, d), else 0: (N,)."""
    return inside(samples, real, neighbour).any(dim=1).double()


def density(samples: Tensor, real: Tensor, neighbour: int = NEIGHBOUR) -> Tensor:
    """In how many balls of real pictures (M, d) each sample (N, d) lies, divided by k: (N,). Not bounded by 1."""
    return inside(samples, real, neighbour).double().sum(dim=1) / neighbour


def inside(samples: Tensor, real: Tensor, neighbour: int) -> Tensor:
    """(N, M) booleans: is the sample in the ball of the real picture?"""
    distances: Tensor = torch.cdist(samples, real)
    return distances <= radii(torch.cdist(real, real), neighbour)


def recall(samples: Tensor, labels: Tensor, real: Tensor, size: int = BLOCK, neighbour: int = NEIGHBOUR) -> SetMeasure:
    """The share of real pictures (M, d) inside the ball of any sample of a block, averaged over the blocks.

    Samples (N, d) of categories (N,); a block has `size` of each, and the balls reach to neighbours in the block.
    """
    among, to_real = torch.cdist(samples, samples), torch.cdist(samples, real)

    def measure(rows: Tensor) -> float:
        dealt = blocks(labels, rows, size).flatten(1)
        widths = radii(among[dealt[:, :, None], dealt[:, None, :]], neighbour)
        return float((to_real[dealt] <= widths[..., None]).any(dim=1).double().mean())

    return measure


def coverage(
    samples: Tensor, labels: Tensor, real: Tensor, size: int = BLOCK, neighbour: int = NEIGHBOUR
) -> SetMeasure:
    """The share of real pictures (M, d) with any sample of a block in their own ball; averaged over the blocks."""
    covers = inside(samples, real, neighbour)

    def measure(rows: Tensor) -> float:
        return float(covers[blocks(labels, rows, size).flatten(1)].any(dim=1).double().mean())

    return measure
