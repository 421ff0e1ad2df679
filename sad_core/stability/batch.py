"""The measures of many retrievals, such as those of all sites in a model call, computed together.

At each retrieval only its sums over the tokens are taken. All else is small, so it costs a GPU the same for one
retrieval as for many of one shape.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..parameters import check_choice, only_sums
from .extremes import Projection, extremes, join_projections, project
from .measures import DEFAULT_MEASURES, TRACE_MEASURES
from .site_sums import SUMMED_MEASURES, SiteSums, empty_table, measures_of_sums, take_sums, take_sums_in_graph

LARGEST_HELD = 128 * 2**20  # bytes of sums that wait; joining them takes as much again
LANDSCAPE_MEASURES = ("depth", "relative curvature")


@dataclass(frozen=True)
class BatchedMeasures:
    """The measures of a `StabilityBatch` at one retrieval, on the CPU.

    Attributes:
        values: `(B, measures, H)`, each a mean over the patterns.
        is_uncertain: whether depth and curvature of a head may be off by more than `extremes` allows for.
    """

    values: Tensor
    is_uncertain: bool


@dataclass
class _Retrieved:
    """One retrieval, as far as it is known: its table of sums, or its rows in what was computed."""

    batch: int
    heads: int
    tokens: int
    head_dim: int
    table: Tensor | None


@dataclass
class _Group:
    """Retrievals whose tables were read together: means of `SUMMED_MEASURES`, and what depth and curvature need."""

    retrievals: list[_Retrieved]
    means: Tensor
    projection: Projection | None
    landscape: Tensor | None = None


@dataclass
class StabilityBatch:
    """Take the sums of retrievals one by one, and compute their measures at the end.

    Attributes:
        measures: which of `TRACE_MEASURES`, in the order of the values.
        limit: bytes of sums that may wait. Beyond it what follows from them is computed at once, without depth and
            curvature, which wait in a smaller form.

    Raises:
        ValueError: an unknown measure.
    """

    measures: Sequence[str] = DEFAULT_MEASURES
    limit: int = LARGEST_HELD
    _retrievals: list[_Retrieved] = field(default_factory=list, repr=False)
    _groups: list[_Group] = field(default_factory=list, repr=False)
    _held: int = field(default=0, repr=False)

    def __post_init__(self) -> None:
        for measure in self.measures:
            check_choice("measure", measure, TRACE_MEASURES)

    @property
    def tokens(self) -> int:
        """The most tokens of a retrieval that was taken."""
        return max([each.tokens for each in self._retrievals], default=0)

    def take(self, q: Tensor, k: Tensor, patterns: Tensor) -> int:
        """Take the sums of one retrieval.

        Args:
            q, k: `(B, H, L, d)`.
            patterns: `(B, H, L, P)`, what was retrieved.

        Returns:
            The index of the retrieval in `results`.
        """
        table, compiling = empty_table(q, patterns), torch.compiler.is_compiling()
        (take_sums_in_graph if compiling else take_sums)(q, k, patterns, table)
        batch, heads, tokens, head_dim = q.shape
        self._retrievals.append(_Retrieved(batch, heads, tokens, head_dim, table))
        if not compiling:  # a graph gives all its tables out at its end
            self._held += table.nbytes
            if self._held > self.limit:
                self._read()
        return len(self._retrievals) - 1

    def results(self) -> list[BatchedMeasures]:
        """The measures of every retrieval in the order in which they were taken, moved from the device together."""
        self._read()
        self._find_landscapes()
        columns = [name for name in self.measures if name in SUMMED_MEASURES]
        places: dict[int, BatchedMeasures] = {}
        moved = _on_the_cpu([each for group in self._groups for each in (group.means, group.landscape)])
        for group, means, landscape in zip(self._groups, moved[::2], moved[1::2], strict=True):
            assert means is not None
            found = dict(zip(columns, means.unbind(dim=-1), strict=True))
            uncertain = [0.0] * len(means)
            if landscape is not None:
                found |= dict(zip(LANDSCAPE_MEASURES, landscape.unbind(dim=-1), strict=False))
                uncertain = landscape[:, -1].tolist()
            values = torch.stack([found[name] for name in self.measures], dim=-1)
            start = 0
            for each in group.retrievals:
                stop = start + each.batch * each.heads
                by_head = values[start:stop].unflatten(0, (each.batch, each.heads))
                places[id(each)] = BatchedMeasures(by_head.mT, any(uncertain[start:stop]))
                start = stop
        return [places.get(id(each)) or self._unknown(each) for each in self._retrievals]

    def _unknown(self, retrieval: _Retrieved) -> BatchedMeasures:
        """Return NaN measures for a retrieval whose sums were lost, for example for lack of memory."""
        return BatchedMeasures(torch.full((retrieval.batch, len(self.measures), retrieval.heads), torch.nan), False)

    def _read(self) -> None:
        """Compute what follows from the tables that wait, those of one shape together, and let go of them."""
        self._held = 0  # also where memory runs out below, or every later retrieval would try again
        waiting: defaultdict[tuple[object, ...], list[_Retrieved]] = defaultdict(list)
        for each in self._retrievals:
            if each.table is not None:
                waiting[each.head_dim, each.table.shape[-1], each.table.dtype, each.table.device].append(each)
        for (_, _, _, device), retrievals in waiting.items():
            assert isinstance(device, torch.device)
            with only_sums(device):
                while retrievals:
                    self._read_together(_first_of(retrievals, self.limit))

    def _read_together(self, retrievals: list[_Retrieved]) -> None:
        tables = [each.table for each in retrievals if each.table is not None]
        sums = SiteSums.read(tables, [each.tokens for each in retrievals], retrievals[0].head_dim)
        for each in retrievals:
            each.table = None
        del tables
        found = measures_of_sums(sums, self.measures)
        means = [found[name].mean(dim=-1) for name in self.measures if name in SUMMED_MEASURES]
        projection = project(sums) if any(name in self.measures for name in LANDSCAPE_MEASURES) else None
        stacked = torch.stack(means, dim=-1) if means else sums.means.new_empty(len(sums.means), 0)
        self._groups.append(_Group(retrievals, stacked, projection))

    def _find_landscapes(self) -> None:
        """Depth, relative curvature and whether they are uncertain, for all groups of one kind together."""
        alike: defaultdict[tuple[object, ...], list[_Group]] = defaultdict(list)
        for group in self._groups:
            if group.projection is not None:
                parts = group.projection.parts
                alike[tuple(parts.shape[1:]), parts.dtype, parts.device].append(group)
        for groups in alike.values():
            projections = [group.projection for group in groups if group.projection is not None]
            with only_sums(projections[0].parts.device):
                found = extremes(projections[0] if len(projections) == 1 else join_projections(projections))
                depth, curvature = (each.mean(dim=-1) for each in (found.depth, found.relative_curvature))
                columns = torch.stack([depth, curvature, found.is_uncertain[:, 0].to(depth.dtype)], dim=-1)
            for group, part in zip(groups, columns.split([len(each.means) for each in groups]), strict=True):
                group.landscape, group.projection = part, None


def _first_of(retrievals: list[_Retrieved], limit: int) -> list[_Retrieved]:
    """The first of them, at least one, as many as have no more than `limit` bytes; they are taken off the list."""
    held = count = 0
    while count < len(retrievals) and (not count or held <= limit):
        table = retrievals[count].table
        held += 0 if table is None else table.nbytes
        count += 1
    chosen, retrievals[:count] = retrievals[:count], []
    return chosen


def _on_the_cpu(tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
    """The tensors on the CPU, with one transfer from each device."""
    moved: list[Tensor | None] = [None] * len(tensors)
    places: defaultdict[tuple[torch.device, torch.dtype], list[tuple[int, Tensor]]] = defaultdict(list)
    for place, each in enumerate(tensors):
        if each is not None:
            places[each.device, each.dtype].append((place, each))
    for given in places.values():
        flat = torch.cat([each.flatten() for _, each in given]).cpu().split([each.numel() for _, each in given])
        for (place, each), part in zip(given, flat, strict=True):
            moved[place] = part.view(each.shape)
    return moved
