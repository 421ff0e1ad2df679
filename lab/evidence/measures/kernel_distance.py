"""Kernel distance of two sets, KID (Bińkowski et al. 2018, https://arxiv.org/abs/1801.01401), in any feature space.

The squared maximum mean discrepancy with the kernel k(x, y) = (x·y / d + 1)³, estimated without bias: it may come out a
little below 0 for two sets of one origin. Its size depends on the feature space: compare within one only. What others
call KID is the same in the features of an Inception network.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lab.evidence.measures.sets import SetMeasure
from sad_core.evaluation.diversity import off_diagonal_mean


def kernel_distance(samples: Tensor, real: Tensor) -> SetMeasure:
    """mean over i ≠ j of k(y_i, y_j) + mean over i ≠ j of k(x_i, x_j) − 2 mean of k(y_i, x_j); (N, d) and (M, d)."""
    among, to_real = polynomial_kernel(samples, samples), polynomial_kernel(samples, real).mean(dim=1)
    among_real = off_diagonal_mean(polynomial_kernel(real, real))

    def measure(rows: Tensor) -> float:
        return float(off_diagonal_mean(among[rows[:, None], rows]) + among_real - 2 * to_real[rows].mean())

    return measure


def polynomial_kernel(points: Tensor, others: Tensor) -> Tensor:
    """(N, d) and (M, d) -> (N, M)."""
    return torch.add(points @ others.mT / points.shape[-1], 1).pow(3)
