"""The common form of measures of whole sets: functions of indices whose scale does not depend on the set's size.

A set measure takes the places (n,) of some of the samples it was made for and answers one number, so that resampling
costs lookups in matrices that are computed once.

Diversity and recall grow with the number of samples they are taken of. Where that is so, the samples are dealt into
blocks with the same number of each category and the blocks averaged: what is said of 200 samples can be compared with
what is said of 1000, and half of the samples give the same answer up to chance, which evidence/bootstrap.py relies on.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

SetMeasure = Callable[[Tensor], float]
BLOCK = 25  # samples of a category: half of the 66 that the short settings have must hold a block


def blocks(labels: Tensor, rows: Tensor, size: int = BLOCK) -> Tensor:
    """The places `rows` (n,) of samples with `labels` (N,), dealt in their order: (blocks, categories, size) places.

    As few blocks as hold every place; where the last one is not full, the first places are dealt again.
    """
    by_category = [rows[labels[rows] == label] for label in labels[rows].unique()]
    fewest, most = (extreme(map(len, by_category)) for extreme in (min, max))
    if fewest < size:
        raise ValueError(
            f"block: {size} samples of each category wanted, but one has {fewest}. "
            f"Choose at most {fewest}, and for an interval at most half the samples of a category."
        )
    dealt = torch.arange(-(-most // size) * size)
    return torch.stack([places[dealt % len(places)].view(-1, size) for places in by_category], dim=1)
