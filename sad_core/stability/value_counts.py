"""Counts of each value in many cells at once, for quantiles that do not depend on the order of the values.

Values are rounded to 12 bits after the leading one, so a quantile is right to one part in 8,000, and the table stops to
grow once its cells have seen all values near theirs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

DROPPED = 11  # of the 23 bits of a float32
SPAN = 2**33  # more than the codes that a value can have


@dataclass(frozen=True, eq=False)
class ValueCounts:
    """Values by cell, each once, with the number of times it was seen.

    Attributes:
        codes: `(N,)`, int64, rising: a cell and a value in one number.
        counts: `(N,)`, int64.
    """

    codes: Tensor
    counts: Tensor

    @classmethod
    def empty(cls) -> ValueCounts:
        """Return a table in which nothing was seen."""
        return cls(torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64))

    @classmethod
    def of(cls, cells: Tensor, values: Tensor) -> ValueCounts:
        """Return the table of some values; those that are not finite are left out.

        Args:
            cells: `(N,)`, int64, 0 or more.
            values: `(N,)`, float32.
        """
        finite = values.isfinite()
        bits = values[finite].float().contiguous().view(torch.int32).to(torch.int64)
        size = ((bits & 0x7FFFFFFF) + (1 << (DROPPED - 1))) >> DROPPED << DROPPED
        codes = cells[finite] * SPAN + torch.where(bits < 0, -size, size) + SPAN // 2
        return cls(*torch.unique(codes, return_counts=True))

    @property
    def cells(self) -> Tensor:
        """The cell of every row, `(N,)`."""
        return self.codes // SPAN

    @property
    def values(self) -> Tensor:
        """The value of every row, `(N,)`, float32."""
        order = self.codes % SPAN - SPAN // 2
        sizes = order.abs().to(torch.int32).view(torch.float32)
        return torch.where(order < 0, -sizes, sizes)

    def moved(self, cells: Tensor) -> ValueCounts:
        """Return the same table in other cells: `cells[old]` is the new one, all different."""
        codes, order = (cells[self.cells] * SPAN + self.codes % SPAN).sort()
        return ValueCounts(codes, self.counts[order])

    def merged(self, other: ValueCounts) -> ValueCounts:
        """Return the table of what both have seen, exactly that of seeing all of it at once."""
        codes, places = torch.unique(torch.cat([self.codes, other.codes]), return_inverse=True)
        counts = torch.zeros_like(codes).index_add_(0, places, torch.cat([self.counts, other.counts]))
        return ValueCounts(codes, counts)

    def quantile(self, share: float, cells: int) -> Tensor:
        """Return the quantile of every cell, `(cells,)` in float32, NaN where nothing was seen.

        Between two values it is on the straight line between them, as `torch.quantile` has it.
        """
        seen = torch.zeros(cells, dtype=torch.int64).index_add_(0, self.cells, self.counts)
        before, ends, values = seen.cumsum(0) - seen, self.counts.cumsum(0), self.values
        place = share * (seen - 1).clamp_min(0).double()
        found = [
            values[torch.searchsorted(ends, before + step.long(), right=True).clamp_max(len(values) - 1)]
            if len(values)
            else torch.zeros(cells)
            for step in (place.floor(), place.ceil())
        ]
        result = torch.lerp(found[0].double(), found[1].double(), place - place.floor())
        return torch.where(seen > 0, result, torch.nan).float()
