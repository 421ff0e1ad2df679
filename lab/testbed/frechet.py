"""Fréchet distance of two sets (Heusel et al. 2017, https://arxiv.org/abs/1706.08500), in any feature space.

Of the Gaussians with the sets' means μ, ν and covariances S, T it is ‖μ − ν‖² + tr S + tr T − 2 tr (S T)^½. Its size
depends on the feature space, and on the numbers of pictures, because few pictures give a poor covariance. So it stands
beside the distance of as many real pictures. What others call FID is the same in the features of an Inception network.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lab.evidence.measures.sets import SetMeasure


def frechet_distance(samples: Tensor, real: Tensor) -> SetMeasure:
    """The distance of some of the samples (N, d) from all real pictures (M, d), both float64."""
    real_mean, real_covariance = real.mean(dim=0), real.mT.cov()
    root = square_root(real_covariance)

    def measure(rows: Tensor) -> float:
        mean, covariance = samples[rows].mean(dim=0), samples[rows].mT.cov()
        # S T has the eigenvalues of T^½ S T^½, which is symmetric.
        cross = torch.linalg.eigvalsh(root @ covariance @ root).clamp(min=0).sqrt().sum()
        return float((mean - real_mean).square().sum() + covariance.trace() + real_covariance.trace() - 2 * cross)

    return measure


def square_root(covariance: Tensor) -> Tensor:
    """The symmetric (d, d) matrix whose square is the covariance (d, d)."""
    values, vectors = torch.linalg.eigh(covariance)
    root: Tensor = vectors * values.clamp(min=0).sqrt() @ vectors.mT
    return root
