"""Stability over whole sampling runs: per site, step and sample, small enough to keep, safe to read while it grows."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..parameters import check_choice

TableRow = dict[str, str | int | float]

TRACE_MEASURES = ("energy", "instability", "alignment", "symmetricity", "depth", "relative curvature")
KINDS = ("measured", "difference", "z-scores")
KEPT_RUNS = 8
LARGEST_RUN = (
    16 * 2**20
)  # bytes of measures: 200 steps × 70 sites × 20 heads × cond and uncond × 6 measures are 13.4 MB
LARGEST_TRACE = 28 * 2**20
EMPTY = (
    "No sampling run went through this probe yet. If a picture came out all the same, its sampler was served from a "
    "cache or used another model."
)


class Sample(NamedTuple):
    """One picture of a batch in one pass of the model: `chunk` is cond, uncond, or cond 2 for a second prompt."""

    chunk: str
    number: int


@dataclass(frozen=True)
class Step:
    """One evaluation of the model.

    Attributes:
        sigma, progress: noise level, and how far the run is, 0 … 1.
        samples: what the rows of `values` are.
        columns: `(site, heads)` in the order of the model.
        values: `(samples, measures, heads of all sites)`, float32 on the CPU; NaN where a sample did not reach a site.
        maps: alignment by place in the picture, `(samples, height, width)` in float16, by site; where asked for.
    """

    sigma: float
    progress: float
    samples: tuple[Sample, ...]
    columns: tuple[tuple[str, int], ...]
    values: Tensor
    maps: Mapping[str, Tensor] = field(default_factory=dict)

    def of(self, address: str) -> Tensor | None:
        """The values of one site, `(samples, measures, heads)`, or None where the step has none."""
        start = 0
        for name, heads in self.columns:
            if name == address:
                return self.values[..., start : start + heads]
            start += heads
        return None

    @cached_property
    def averages(self) -> Tensor:
        """The mean over the heads, `(sites, samples, measures)` in the order of `columns`."""
        parts = self.values.split([heads for _, heads in self.columns], dim=-1)
        return torch.stack([part.mean(dim=-1) for part in parts])

    def means(self) -> dict[str, Tensor]:
        """The mean over the heads by site, each `(samples, measures)`."""
        return {address: average for (address, _), average in zip(self.columns, self.averages, strict=True)}

    def part_means(self) -> dict[str, Tensor]:
        """The mean over heads, samples and sites of each part of the model (`input`, `double` …), each `(measures,)`.

        The mean over all sites comes first, as "all".
        """
        rows: dict[str, list[int]] = {"all": list(range(len(self.columns)))}
        for row, (address, _) in enumerate(self.columns):
            rows.setdefault(address.partition("#")[0].partition(".")[0], []).append(row)
        return {part: self.averages[each].flatten(0, 1).nanmean(dim=0) for part, each in rows.items()}

    def rows(self, chunk: str | None) -> list[int]:
        """Rows of `values` that belong to `chunk`: its own name, or cond for every cond; None means all."""
        return [row for row, sample in enumerate(self.samples) if chunk is None or _is_of(sample.chunk, chunk)]


@dataclass
class StabilityRun:
    """One sampling run, filled while it goes on.

    Attributes:
        model: what the model is called.
        sites: addresses of the sites that were to be measured, in the order of the model.
        measures: which of `TRACE_MEASURES`, in the order of the values.
        patterns: "value" or "input", what the retrieved patterns were taken of.
        kind: one of `KINDS`; a difference or z-scores come from `stability_comparison`.
        status: "running", "finished", "interrupted" by the user, or "failed (RuntimeError)" and the like.
        stride: every how many steps one is kept; it doubles whenever the run would grow beyond `LARGEST_RUN`.
        gamma: the γ at work in words, such as "γ 1" or "γ 0.8 … 1.3"; empty where it is not known.
        notes: sentences about what could not be measured, each once.
    """

    model: str
    sites: tuple[str, ...]
    measures: tuple[str, ...] = TRACE_MEASURES[:4]
    patterns: str = "value"
    kind: str = "measured"
    status: str = "running"
    stride: int = 1
    gamma: str = ""
    notes: list[str] = field(default_factory=list)
    _steps: list[Step] = field(default_factory=list, repr=False)
    _last: Step | None = field(default=None, repr=False)
    _count: int = field(default=0, repr=False)
    _bytes: int = field(default=0, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def __post_init__(self) -> None:
        for measure in self.measures:
            check_choice("measure", measure, TRACE_MEASURES)
        check_choice("kind", self.kind, KINDS)

    def record(
        self,
        sigma: float,
        progress: float,
        samples: Sequence[Sample],
        values: Mapping[str, Tensor],
        maps: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Keep what one call of the model gave.

        Samples that are new at this sigma join the step that is there (cond and uncond in separate calls); samples that
        were already seen begin another step (a sampler that evaluates a noise level twice).

        Args:
            sigma, progress: noise level and progress of the call.
            samples: what the rows of the values are.
            values: `(samples, measures, heads)` by site, on the CPU.
            maps: `(samples, height, width)` by site, on the CPU.
        """
        if not values:
            return
        columns = tuple((address, each.shape[-1]) for address, each in values.items())
        flat = torch.cat(list(values.values()), dim=-1).float()
        half = {address: each.half() for address, each in (maps or {}).items()}
        step = Step(sigma, progress, tuple(samples), columns, flat, half)
        with self._lock:
            last = self._last
            if last is not None and last.sigma == sigma and not set(last.samples) & set(step.samples):
                is_kept = bool(self._steps) and self._steps[-1] is last
                step = _joined(last, step)
                if is_kept:
                    self._bytes -= _size(self._steps.pop())
            else:
                is_kept = self._count % self.stride == 0
                self._count += 1
            if last is not None and last.columns == step.columns:
                step = replace(step, columns=last.columns)  # one tuple for all steps
            self._last = step
            if is_kept:
                self._keep(step)

    def _keep(self, step: Step) -> None:
        self._steps.append(step)
        self._bytes += _size(step)
        while self._bytes > LARGEST_RUN and len(self._steps) > 1:
            self._steps = self._steps[::2]
            self._bytes = sum(map(_size, self._steps))
            self.stride *= 2

    def restore(self, steps: Iterable[Step]) -> None:
        """Put in steps that were recorded before, such as those of a file."""
        with self._lock:
            self._steps = list(steps)
            self._last = self._steps[-1] if self._steps else None
            self._count = self.stride * len(self._steps)
            self._bytes = sum(map(_size, self._steps))

    def note(self, sentence: str) -> None:
        """Keep a sentence about what could not be measured, once."""
        with self._lock:
            if sentence not in self.notes:
                self.notes.append(sentence)

    @property
    def steps(self) -> tuple[Step, ...]:
        """The kept steps in the order of the run; safe to read while it goes on."""
        with self._lock:
            return tuple(self._steps)

    @property
    def last_step(self) -> Step | None:
        """The newest step, kept or not; safe to read while the run goes on."""
        with self._lock:
            return self._last

    @property
    def step_count(self) -> int:
        """How many steps were measured, kept or not."""
        return self._count

    @property
    def nbytes(self) -> int:
        """Bytes of the kept measures."""
        return self._bytes

    @property
    def addresses(self) -> tuple[str, ...]:
        """The sites that have values, in the order of the model."""
        reached = dict.fromkeys(address for step in self.steps for address, _ in step.columns)
        order = {address: place for place, address in enumerate(self.sites)}
        return tuple(sorted(reached, key=lambda address: order.get(address.partition("#")[0], len(order))))

    @property
    def chunks(self) -> tuple[str, ...]:
        """cond, uncond and further prompts that have values."""
        return tuple(dict.fromkeys(sample.chunk for step in self.steps for sample in step.samples))

    def matrix(self, measure: str, chunk: str | None = None) -> Tensor:
        """A measure by site and step, averaged over heads and samples: `(sites, steps)`, NaN where there is none.

        Args:
            measure: one of `measures`.
            chunk: "cond", "uncond", another name from `chunks`, or None for all together.

        Raises:
            ValueError: a measure this run does not have.
        """
        check_choice("measure", measure, self.measures)
        place, addresses, steps = self.measures.index(measure), self.addresses, self.steps
        result = torch.full((len(addresses), len(steps)), float("nan"))
        places = {address: row for row, address in enumerate(addresses)}
        for column, step in enumerate(steps):
            if rows := step.rows(chunk):
                found = [places[address] for address, _ in step.columns]
                result[found, column] = step.averages[:, rows, place].nanmean(dim=1)
        return result

    def heads(self, address: str, measure: str, chunk: str | None = None) -> Tensor:
        """A measure of one site by head and step, averaged over the samples: `(heads, steps)`.

        Raises:
            ValueError: a measure or a site this run does not have.
        """
        check_choice("measure", measure, self.measures)
        check_choice("site", address, self.addresses)
        place, steps = self.measures.index(measure), self.steps
        found = [(step.of(address), step.rows(chunk)) for step in steps]
        count = max(each.shape[-1] for each, _ in found if each is not None)
        result = torch.full((count, len(steps)), float("nan"))
        for column, (values, rows) in enumerate(found):
            if values is not None and rows:
                result[:, column] = values[rows, place].nanmean(dim=0)
        return result

    def table(self) -> Iterator[TableRow]:
        """One row per step, sample and site; the measures are means over the heads."""
        for number, step in enumerate(self.steps):
            means = step.means()
            for row, sample in enumerate(step.samples):
                for address, values in means.items():
                    if not values[row].isnan().all():
                        where: TableRow = {"step": number * self.stride, "sigma": step.sigma, "progress": step.progress}
                        who: TableRow = {"pass": sample.chunk, "sample": sample.number, "site": address}
                        yield where | who | dict(zip(self.measures, values[row].tolist(), strict=True))

    def summary(self) -> str:
        """The run in a few lines for people."""
        steps, addresses = self.steps, self.addresses
        if not steps:
            return "\n".join([f"{self.model}, {self.status}: nothing was measured.", *self.notes])
        kept = "" if self.stride == 1 else f" (one of {self.stride} kept)"
        lines = [
            f"{self.model}, {self.status}, {self.kind}: {len(addresses)} of {len(self.sites)} sites × {len(steps)} "
            f"steps{kept}, {', '.join(self.chunks)}; sigma {steps[0].sigma:.4g} … {steps[-1].sigma:.4g}; "
            f"{self.patterns} patterns{self.gamma and f'; {self.gamma}'}."
        ]
        for measure in self.measures:
            values = self.matrix(measure)
            by_site, by_step = values.nanmean(dim=1), values.nanmean(dim=0)
            order = torch.nan_to_num(by_site, nan=float(by_site.nanmean())).sort().indices.tolist()
            low, high = order[0], order[-1]
            lines.append(
                f"{measure}: mean {values.nanmean():.4g}; from {by_step[0]:.4g} to {by_step[-1]:.4g} over the run; "
                f"lowest at {addresses[low]} ({by_site[low]:.4g}), highest at {addresses[high]} ({by_site[high]:.4g})."
            )
        missing = [address for address in self.sites if address not in addresses]
        if missing:
            lines.append(f"Not measured: {', '.join(missing)}.")
        return "\n".join([*lines, *self.notes])


class StabilityTrace:
    """The handle a probe gives out; the sampling runs of its model fill it, several runs told apart."""

    def __init__(self, runs: Iterable[StabilityRun] = ()):
        self._runs = list(runs)
        self._lock = threading.Lock()

    def begin(self, run: StabilityRun) -> StabilityRun:
        """Add a run that starts now; the oldest ones go when there are more than `KEPT_RUNS` or they grow too large."""
        with self._lock:
            self._runs.append(run)
            while len(self._runs) > 1 and (
                len(self._runs) > KEPT_RUNS
                or sum(each.nbytes for each in self._runs[:-1]) > LARGEST_TRACE - LARGEST_RUN
            ):
                del self._runs[0]
        return run

    def record(self, sigma: float, progress: float, samples: Sequence[Sample], values: Mapping[str, Tensor]) -> None:
        """`StabilityRun.record` in the newest run.

        Raises:
            ValueError: no run was begun.
        """
        if not self.runs:
            raise ValueError("This trace has no run to record in; begin one first.")
        self.runs[-1].record(sigma, progress, samples, values)

    @property
    def runs(self) -> tuple[StabilityRun, ...]:
        """The runs, newest last."""
        with self._lock:
            return tuple(self._runs)

    @property
    def last_step(self) -> Step | None:
        """The newest step of the newest run; safe to read while it goes on."""
        runs = self.runs
        return runs[-1].last_step if runs else None

    @property
    def nbytes(self) -> int:
        """Bytes of all kept measures."""
        return sum(run.nbytes for run in self.runs)

    @property
    def is_empty(self) -> bool:
        """Whether nothing was measured yet."""
        return not any(run.steps for run in self.runs)

    def save(self, path: str | Path) -> None:
        """Write all runs to a safetensors file, see `stability_file.save_trace`."""
        from .tables import save_trace

        save_trace(self, path)

    @staticmethod
    def load(path: str | Path) -> StabilityTrace:
        """The trace in a safetensors file, see `stability_file.load_trace`."""
        from .tables import load_trace

        return load_trace(path)

    def merged(self, other: StabilityTrace) -> StabilityTrace:
        """A trace with the runs of both, those of `other` last."""
        return StabilityTrace([*self.runs, *other.runs])

    def to_table(self) -> list[TableRow]:
        """One row per run, step, sample and site, the measures averaged over the heads."""
        rows: list[TableRow] = []
        for number, run in enumerate(self.runs):
            rows += ({"run": number, "model": run.model, **row} for row in run.table())
        return rows

    def summary(self) -> str:
        """Every run in a few lines, the newest first, or why there is none."""
        runs = self.runs
        if not runs:
            return EMPTY
        texts = [run.summary() for run in reversed(runs)]
        if len(runs) > 1:
            texts = [f"Run {len(runs) - index} of {len(runs)}. {text}" for index, text in enumerate(texts)]
        return "\n\n".join(texts)


def _is_of(chunk: str, wanted: str) -> bool:
    return chunk == wanted or chunk.startswith(f"{wanted} ")


def _size(step: Step) -> int:
    return sum(each.numel() * each.element_size() for each in (step.values, *step.maps.values()))


def _joined(first: Step, second: Step) -> Step:
    """Two steps at one sigma with different samples, as one."""
    samples, maps = first.samples + second.samples, _joined_maps(first, second)
    if first.columns == second.columns:
        return replace(first, samples=samples, values=torch.cat([first.values, second.values]), maps=maps)
    columns = dict(first.columns)
    for address, heads in second.columns:
        columns.setdefault(address, heads)
    parts = []
    for step in (first, second):
        shape = step.values.shape[:2]
        found = [(step.of(address), heads) for address, heads in columns.items()]
        nothing = [
            torch.full((*shape, heads), float("nan")) if each is None or each.shape[-1] != heads else each
            for each, heads in found
        ]
        parts.append(torch.cat(nothing, dim=-1))
    return replace(first, samples=samples, columns=tuple(columns.items()), values=torch.cat(parts), maps=maps)


def _joined_maps(first: Step, second: Step) -> dict[str, Tensor]:
    """The maps that both steps have, of one size."""
    shared = [address for address, each in first.maps.items() if address in second.maps]
    pairs = {address: (first.maps[address], second.maps[address]) for address in shared}
    return {address: torch.cat(pair) for address, pair in pairs.items() if pair[0].shape[1:] == pair[1].shape[1:]}
