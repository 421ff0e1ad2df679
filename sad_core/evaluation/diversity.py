"""The diversity of a set of images, and the intervals of all measures of a set."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

# Student's t that leaves 2.5 % above it, for 1, 2, … degrees of freedom; beyond the last, a series around z.
STUDENT = (
    *(12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281),
    *(2.2010, 2.1788, 2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860),
)
Z = 1.959964


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval; NaN where there is none."""

    value: float = math.nan
    low: float = math.nan
    high: float = math.nan

    @property
    def exists(self) -> bool:
        """True if there is a value."""
        return math.isfinite(self.value)

    @property
    def has_interval(self) -> bool:
        """True if there were enough images for an interval."""
        return math.isfinite(self.low) and math.isfinite(self.high)


def cosines(first: Tensor, second: Tensor) -> Tensor:
    """Return the cosine of every row with every row: `(n, d)`, `(m, d)` → `(n, m)`, float64 on the CPU.

    The cosine of a row of zeros is 0.
    """
    rows, columns = (torch.nn.functional.normalize(each.cpu().double(), dim=1) for each in (first, second))
    return (rows @ columns.T).clamp(-1.0, 1.0)


def rms_distances(first: Tensor, second: Tensor) -> Tensor:
    """Return the root mean square difference of every row with every row, float64 on the CPU.

    Shapes are `(n, d)`, `(m, d)` → `(n, m)`.
    """
    rows, columns = (each.cpu().double() for each in (first, second))
    distances: Tensor = torch.cdist(rows, columns, compute_mode="donot_use_mm_for_euclid_dist")
    root_mean: Tensor = distances / rows.shape[1] ** 0.5
    return root_mean


def vendi_score(similarity: Tensor) -> float:
    """Return the effective number of distinct images: 1 if all are identical, n if no two are alike.

        exp(−Σ λᵢ log λᵢ),   λ the eigenvalues of similarity / n

    Friedman and Dieng, The Vendi Score (arXiv 2210.02410). It grows with n, so only sets of one size compare.

    Args:
        similarity: `(n, n)`, positive semi-definite; its diagonal is taken as 1.

    Returns:
        A number from 1 to n; NaN for fewer than two images, since a single one always counts as 1.
    """
    if len(similarity) < 2:
        return math.nan
    return float(effective_number(similarity.double().clone().fill_diagonal_(1.0)))


def effective_number(kernel: Tensor) -> Tensor:
    """Return the Vendi scores of similarity matrices with ones on their diagonals: `(…, n, n)` → `(…)`."""
    shares = torch.linalg.eigvalsh(kernel / kernel.shape[-1]).clamp_min(0.0)
    entropy: Tensor = torch.special.entr(shares).sum(dim=-1)
    return entropy.exp()


def mean_distance(distances: Tensor) -> float:
    """Return the mean of `(n, n)` distances over all pairs of two different images; NaN for fewer than two images.

    Its expectation does not depend on n.
    """
    return float(off_diagonal_mean(distances))


def off_diagonal_mean(matrix: Tensor) -> Tensor:
    """Return the mean of the entries off the diagonal: `(…, n, n)` → `(…)`; NaN for fewer than two rows."""
    count = matrix.shape[-1]
    total = matrix.sum(dim=(-2, -1)) - matrix.diagonal(dim1=-2, dim2=-1).sum(dim=-1)
    return total / (count * (count - 1)) if count > 1 else total * math.nan


def jackknife(
    statistic: Callable[[Tensor], float],
    n: int,
    lowest: float = -math.inf,
    highest: float = math.inf,
    groups: Tensor | None = None,
) -> Estimate:
    """Return a number of n images and its 95 % interval, from leaving out one image after the other.

        value ± t·s,   s² = Σ_g (n_g − 1)/n_g · Σᵢ∈g (θ₋ᵢ − mean_g θ₋)²,   t Student's for n − (number of groups)

    The variance is Tukey's estimate (1958). A bootstrap would draw some images twice, and two equal images have no
    distance, so it would underestimate the diversity of every set. Images of one prompt are one group: the interval is
    one over seeds, and says nothing about other prompts.

    Args:
        statistic: the number of the images with the indices `(m,)` it is called with; NaN where it needs more of them.
        n: the number of images.
        lowest, highest: the limits of the number, which its interval is cut at.
        groups: of each image, `(n,)`; None where all are one.

    Returns:
        The number of all images; without an interval where leaving one out leaves too few.
    """
    everyone = torch.arange(n)
    value = float(statistic(everyone)) if n else math.nan
    names = torch.zeros(n, dtype=torch.long) if groups is None else groups
    freedom = n - len(names.unique())
    if freedom < 1 or not math.isfinite(value):
        return Estimate(value)
    left = torch.tensor([float(statistic(everyone[everyone != out])) for out in range(n)], dtype=torch.float64)
    variance = 0.0
    for name in names.unique():
        own = left[names == name]
        variance += float((len(own) - 1) / len(own) * (own - own.mean()).square().sum())
    reach = student(freedom) * math.sqrt(variance)
    return Estimate(value, max(value - reach, lowest), min(value + reach, highest))


def student(freedom: int) -> float:
    """Return Student's t with 2.5 % above it, for `freedom` ≥ 1 degrees of freedom, to within 0.001."""
    if freedom <= len(STUDENT):
        return STUDENT[freedom - 1]
    first, second = (Z**3 + Z) / 4, (5 * Z**5 + 16 * Z**3 + 3 * Z) / 96
    return Z + first / freedom + second / freedom**2
