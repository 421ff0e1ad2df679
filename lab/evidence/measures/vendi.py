"""The Vendi score (Friedman and Dieng 2023, https://arxiv.org/abs/2210.02410): how many different pictures a set holds.

exp(−Σ λ ln λ) over the eigenvalues λ of K / n, with K the cosines between the features of n samples: 1 when all are
alike, n when all are orthogonal. Features that are never negative have large cosines, so the numbers are small; it is
their ratio that says something.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from lab.evidence.measures.sets import BLOCK, SetMeasure, blocks
from sad_core.evaluation.diversity import effective_number


def vendi(samples: Tensor, labels: Tensor, size: int = BLOCK) -> SetMeasure:
    """The mean score of blocks of one category, `size` samples each: features (N, d), categories (N,)."""
    unit = F.normalize(samples, dim=-1)
    kernel = unit @ unit.mT

    def measure(rows: Tensor) -> float:
        dealt = blocks(labels, rows, size).flatten(0, 1)
        return float(effective_number(kernel[dealt[:, :, None], dealt[:, None, :]]).mean())

    return measure
