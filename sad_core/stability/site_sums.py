"""The sums over the tokens from which the measures of a retrieval follow, all but one count of signs.

With W = [q̄, k̄] and R the retrieved patterns, all centred over the tokens, they are WᵀW and WᵀR, the means and lengths
of the columns, and two numbers of each pattern that follow from no Gram matrix: the length of its field W J WᵀR, and
the share of the tokens that the field pushes away. They are taken where the retrieval is, in few operations; what
follows from them is small and can be computed later, for many retrievals at once.

Columns are centred before they are multiplied. Real keys have means of 10 to 300 standard deviations, and a Gram matrix
that is centred afterwards loses in float32 what is left beside them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..operation_names import operation_namespace
from ..parameters import accumulation_dtype, only_sums
from .measures import divided, overlap_of, swapped, unit_factors

ROWS_OF_COLUMNS = 4  # below the products: means, lengths, lengths of the fields, shares of tokens pushed away
SUMMED_MEASURES = ("energy", "instability", "alignment", "symmetricity")  # of `measures_of_sums`


def empty_table(q: Tensor, patterns: Tensor) -> Tensor:
    """The memory for the sums of one retrieval, not filled: `(B·H, 2d + 4, 2d + P)` in float32 or wider.

    Args:
        q: `(B, H, L, d)`.
        patterns: `(B, H, L, P)`.
    """
    batch, heads, _, head_dim = q.shape
    columns = 2 * head_dim + patterns.shape[-1]
    return q.new_empty(
        batch * heads, 2 * head_dim + ROWS_OF_COLUMNS, columns, dtype=accumulation_dtype(q.dtype), requires_grad=False
    )


def take_sums(q: Tensor, k: Tensor, patterns: Tensor, table: Tensor) -> None:
    """Write the sums of one retrieval into `table`. No gradient passes.

    Args:
        q, k: `(B, H, L, d)`, any float dtype.
        patterns: `(B, H, L, P)`, what was retrieved.
        table: as `empty_table` gives it. Its rows are WᵀW beside WᵀR, then the means, then the lengths of the centred
            columns, then for each pattern the length of W J WᵀR and the share of the tokens pushed away. The last two
            rows stay as they are below W.
    """
    width = 2 * q.shape[-1]
    with only_sums(q.device):
        columns = q.new_empty(*q.shape[:3], table.shape[-1], dtype=table.dtype)
        torch.cat([q, k, patterns], dim=-1, out=columns)
        columns = columns.flatten(0, 1)
        means, lengths = table[:, width : width + 1], table[:, width + 1 : width + 2]
        field_lengths, pushed = table[:, width + 2 : width + 3, width:], table[:, width + 3 :, width:]
        torch.mean(columns, dim=-2, keepdim=True, out=means)
        columns.sub_(means)
        torch.linalg.vector_norm(columns, dim=-2, keepdim=True, out=lengths)
        factors, centred = columns[..., :width], columns[..., width:]
        products = table[:, :width]
        torch.bmm(factors.mT, columns, out=products)
        field = factors @ swapped(products[..., width:])
        torch.linalg.vector_norm(field, dim=-2, keepdim=True, out=field_lengths)
        torch.mean(field.mul_(centred).lt_(0), dim=-2, keepdim=True, out=pushed)


# Compiled graphs take the sums by this operation, so that nothing of them is traced.
take_sums_in_graph = torch.library.custom_op(f"{operation_namespace(__name__)}::take_sums", mutates_args=("table",))(
    take_sums
)


@take_sums_in_graph.register_fake
def _writes_nothing_new(q: Tensor, k: Tensor, patterns: Tensor, table: Tensor) -> None:
    """All that comes back is in the table."""


@dataclass(frozen=True)
class SiteSums:
    """The sums of N heads with the same d and P, whatever retrievals they are of.

    Attributes:
        gram: WᵀW, `(N, 2d, 2d)`.
        parts: WᵀR, `(N, 2d, P)`, the patterns centred but not of unit length.
        means, lengths: of the columns of [q, k, R], `(N, 2d + P)`; the lengths are centred.
        field_lengths, pushed: `(N, P)`.
        tokens: L of every head, `(N, 1)`.
    """

    gram: Tensor
    parts: Tensor
    means: Tensor
    lengths: Tensor
    field_lengths: Tensor
    pushed: Tensor
    tokens: Tensor

    @classmethod
    def read(cls, tables: Sequence[Tensor], tokens: Sequence[int], head_dim: int) -> SiteSums:
        """Read tables of `take_sums`, and the number of tokens of each."""
        width = 2 * head_dim
        table = tables[0] if len(tables) == 1 else torch.cat(list(tables))
        counts = [count for each, count in zip(tables, tokens, strict=True) for _ in range(len(each))]
        # CUDA copies a few numbers from memory that is not pinned without waiting; Apple's GPUs would copy nonsense.
        length = torch.tensor(counts, dtype=table.dtype)[:, None].to(table.device, non_blocking=table.is_cuda)
        products, (means, lengths, fields, pushed) = table[:, :width], table[:, width:].unbind(dim=1)
        return cls(
            products[..., :width],
            products[..., width:],
            means,
            lengths,
            fields[:, width:],
            pushed[:, width:],
            length,
        )

    @property
    def head_dim(self) -> int:
        """d."""
        return self.gram.shape[-1] // 2

    @property
    def factors_of_unit_length(self) -> Tensor:
        """Factors that normalise each pattern, `(N, P)`. 0 for a constant pattern, of which only rounding is left."""
        width = self.gram.shape[-1]
        return unit_factors(self.lengths[:, width:], self.means[:, width:], self.tokens)


def measures_of_sums(sums: SiteSums, measures: Collection[str] = SUMMED_MEASURES) -> dict[str, Tensor]:
    """Energy, instability and alignment of every pattern, `(N, P)`, and the symmetricity of every head, `(N, 1)`.

    They are those of `hopfield_stability` and `symmetricity` to rounding.

    Args:
        sums: of N heads.
        measures: which of `SUMMED_MEASURES` to compute.
    """
    found: dict[str, Tensor] = {}
    if "symmetricity" in measures:
        found["symmetricity"] = _symmetricity(sums)
    if any(name in measures for name in SUMMED_MEASURES[:3]):
        factors, overlap = sums.factors_of_unit_length, overlap_of(sums.parts)
        if "energy" in measures:
            found["energy"] = overlap * factors.square() * -0.5
        if "alignment" in measures:  # s·h/‖h‖ with h = ½ W J Wᵀs
            found["alignment"] = divided(2 * factors * overlap, sums.field_lengths).clamp(-1.0, 1.0)
        if "instability" in measures:
            pushed = torch.where(factors == 0, 0.0, sums.pushed)
            found["instability"] = torch.where(overlap.isfinite(), pushed, float("nan"))
    return found


def _symmetricity(sums: SiteSums) -> Tensor:
    """η of the logits, which are not centred: to each Gram matrix come L times the products of the means."""
    means = sums.means[:, : sums.gram.shape[-1], None]
    gram = torch.baddbmm(sums.gram, means * sums.tokens[..., None], means.mT)
    (queries, cross), (_, keys) = (rows.chunk(2, dim=-1) for rows in gram.chunk(2, dim=-2))
    aligned = (cross * cross.mT).sum(dim=(-2, -1))
    total = (queries * keys).sum(dim=(-2, -1))
    tiny = torch.finfo(total.dtype).tiny
    return torch.where(total > 0, aligned / total.clamp_min(tiny), 0.0).clamp(-1.0, 1.0)[:, None]
