"""Errors of the probe's depth and curvature against the dense spectrum in float64."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from sad_core import hopfield_stability
from sad_core.stability.batch import StabilityBatch
from sad_core.stability.extremes import extremes, project
from sad_core.stability.site_sums import SiteSums, empty_table, take_sums

Retrieval = tuple[Tensor, Tensor, Tensor]  # queries, keys and what was retrieved, each `(B, H, L, d)`


class LandscapeErrors(NamedTuple):
    """Return the probe's values of N heads minus those of the dense spectrum in float64, as shares of λ₁ − λ_min.

    Attributes:
        depth, curvature: `(N,)`, absolute, each of a mean over the patterns.
        is_uncertain: which of the heads the probe flags, `(N,)`.
    """

    depth: Tensor
    curvature: Tensor
    is_uncertain: Tensor

    def describe(self) -> str:
        """The largest and the median errors in a line, of all heads and of those without a flag."""
        certain = ~self.is_uncertain
        parts = [f"{len(certain)} heads, {float(self.is_uncertain.double().mean()):.1%} flagged"]
        for name, errors in (("depth", self.depth), ("curvature", self.curvature)):
            clear = f"{float(errors[certain].max()):.1e}" if certain.any() else "–"
            parts.append(f"{name}: median {float(errors.median()):.1e}, largest {float(errors.max()):.1e}, "
                         f"largest without a flag {clear}")  # fmt: skip
        return "; ".join(parts)


def landscape_errors(retrievals: Iterable[Retrieval]) -> LandscapeErrors:
    """The errors of the probe on all heads of some retrievals, computed in float32 as it does."""
    depths, curvatures, flags = [], [], []
    for q, k, patterns in retrievals:
        batch = StabilityBatch(("depth", "relative curvature"))
        batch.take(q, k, patterns)
        (found,) = batch.results()
        dense = hopfield_stability(q.double(), k.double(), patterns.double(), measures=("depth", "curvature"))
        assert dense.depth is not None
        assert dense.relative_curvature is not None
        depths.append((found.values[:, 0] - dense.depth.mean(dim=-1)).abs().flatten())
        curvatures.append((found.values[:, 1] - dense.relative_curvature.mean(dim=-1)).abs().flatten())
        table = empty_table(q, patterns)
        take_sums(q, k, patterns, table)
        sums = SiteSums.read([table], [q.shape[2]], q.shape[-1])
        flags.append(extremes(project(sums)).is_uncertain[:, 0])
    return LandscapeErrors(torch.cat(depths), torch.cat(curvatures), torch.cat(flags))
