"""The stability of each retrieval of a sampling step: the five Hopfield measures by sample and site."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from lab.evidence.watching import Seen
from sad_core import hopfield_stability

MEASURES = ("energy", "instability", "alignment", "depth", "curvature")  # those that the numbers kept hold


def stability_of(sites: Iterable[Seen], count: int) -> Tensor:
    """`(count, sites, measures)` in float32: MEASURES of the first `count` samples of a batch, at every site.

    The patterns are those of the values, as they were really retrieved; each number is a mean over heads and patterns.
    With guidance the first half of a batch is the conditional pass.
    """
    return torch.stack([_of_one_site(*seen.rows(0, count)) for seen in sites], dim=1)


def _of_one_site(queries: Tensor, keys: Tensor, retrieved: Tensor) -> Tensor:
    """`(B, measures)` of `(B, H, L, d)` each."""
    found = hopfield_stability(queries, keys, retrieved)
    return torch.stack([getattr(found, measure).mean(dim=(1, 2)) for measure in MEASURES], dim=-1)
