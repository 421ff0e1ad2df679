"""Distances between samples, and between a sample and the unpatched model's picture of the same seed."""

from __future__ import annotations

import torch
from torch import Tensor

from lab.evidence.measures.features import cosine_distances
from lab.evidence.measures.sets import SetMeasure
from sad_core.evaluation.diversity import off_diagonal_mean


def distances_among(samples: Tensor, cosine: bool) -> Tensor:
    """(N, d) -> (N, N): one less the cosine, or Euclid's distance, which in pixel space is a root mean square."""
    distances: Tensor = cosine_distances(samples, samples) if cosine else torch.cdist(samples, samples)
    return distances


def apart(distances: Tensor, labels: Tensor) -> SetMeasure:
    """Mean distance between two samples of the same category, averaged over the categories: (N, N), (N,)."""

    def measure(rows: Tensor) -> float:
        within = [rows[labels[rows] == label] for label in labels[rows].unique()]
        return float(torch.stack([off_diagonal_mean(distances[own[:, None], own]) for own in within]).mean())

    return measure


def distance_to_others(distances: Tensor, labels: Tensor) -> Tensor:
    """Mean distance of each sample to the others of its category: (N, N), (N,) -> (N,).

    What a sample adds to the diversity of its set. The numbers share pairs, so they are no independent draws: for the
    interval of their mean take `apart`.
    """
    same = (labels[:, None] == labels).double().fill_diagonal_(0)
    return (distances * same).sum(dim=1) / same.sum(dim=1)


def drift(samples: Tensor, plain: Tensor, cosine: bool) -> Tensor:
    """Distance of each sample (N, d) to the plain model's sample of the same seed (N, d): (N,)."""
    if cosine:
        return 1 - torch.cosine_similarity(samples, plain, dim=-1)
    distances: Tensor = torch.linalg.vector_norm(samples - plain, dim=-1)
    return distances
