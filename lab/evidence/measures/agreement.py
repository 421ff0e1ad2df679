"""Does a sample show what was asked for? The committed judge (demo/classifier.py) answers, from its own features."""

from __future__ import annotations

import torch
from torch import Tensor

from lab.evidence.measures.features import committed_classifier


@torch.no_grad()
def probabilities(features: Tensor) -> Tensor:
    """Probability of each category: features (N, 128) of the classifier's space -> (N, 3)."""
    scores: Tensor = committed_classifier().scores(features.float())
    return scores.double().softmax(dim=-1)


def agreement(features: Tensor, labels: Tensor) -> Tensor:
    """1 where the category (N,) that was asked for is the most probable one, else 0: (N,)."""
    return (probabilities(features).argmax(dim=-1) == labels).double()


def probability(features: Tensor, labels: Tensor) -> Tensor:
    """Probability of the category (N,) that was asked for: (N,). The judge learned smoothed labels: it is rarely 1."""
    return probabilities(features).gather(1, labels[:, None]).squeeze(1)
