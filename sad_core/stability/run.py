"""A sampling run that is measured: its steps, few enough to keep and safe to read while they come."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..parameters import check_choice
from .measures import DEFAULT_MEASURES, TRACE_MEASURES
from .step import Sample, Step, join, step_of
from .tables import TableRow, describe_measure, step_rows

KINDS = ("measured", "difference", "z-scores")
# Bytes of measures: 200 steps × 70 sites × 20 heads × cond and uncond × 6 measures are 13.4 MB.
LARGEST_RUN = 16 * 2**20
MOST_STEPS = 4096


@dataclass
class StabilityRun:
    """One sampling run, filled while it goes on.

    Attributes:
        model: what the model is called.
        sites: addresses of the sites that were to be measured, in the order of the model.
        measures: which of `TRACE_MEASURES`, in the order of the values.
        patterns: "value" or "input", what the retrieved patterns were taken of.
        kind: one of `KINDS`; a difference or z-scores come from `comparison` and `baseline`.
        status: "running", "finished", "stopped early", "interrupted" by the user, or "failed (RuntimeError)" and the
            like.
        stride: every how many steps one is kept; it doubles whenever the run would grow beyond `LARGEST_RUN` or
            `MOST_STEPS`.
        tokens: of the image at the largest site; 0 where it is not known.
        gamma: the γ at work in words, such as "γ 1" or "γ 0.8 … 1.3"; empty where it is not known.
        notes: sentences about what could not be measured, each once.
        origin: where the run began, in whatever words its host has for that; not saved.
    """

    model: str
    sites: tuple[str, ...]
    measures: tuple[str, ...] = DEFAULT_MEASURES
    patterns: str = "value"
    kind: str = "measured"
    status: str = "running"
    stride: int = 1
    gamma: str = ""
    tokens: int = 0
    notes: list[str] = field(default_factory=list)
    origin: Any = field(default=None, repr=False, compare=False)
    _steps: list[Step] = field(default_factory=list, repr=False)
    _last: Step | None = field(default=None, repr=False)
    _count: int = field(default=0, repr=False)
    _bytes: int = field(default=0, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def __post_init__(self) -> None:
        for measure in self.measures:
            check_choice("measure", measure, TRACE_MEASURES)
        check_choice("kind", self.kind, KINDS)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state of a copy: all measurements until now."""
        with self._lock:
            return {**vars(self), "notes": list(self.notes), "_steps": list(self._steps), "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=threading.Lock())

    def record(
        self,
        sigma: float,
        progress: float,
        samples: Sequence[Sample],
        values: Mapping[str, Tensor],
        maps: Mapping[str, Tensor] | None = None,
        gammas: Sequence[float] = (),
    ) -> None:
        """Keep what one call of the model gave.

        Samples that are new at this sigma join the step that is there (prompts in separate calls); samples that
        were already seen begin another step (a sampler that evaluates a noise level twice).

        Args:
            sigma, progress: noise level and progress of the call.
            samples: what the rows of the values are.
            values: `(samples, measures, heads)` by site, on the CPU.
            maps: `(samples, height, width)` by site, on the CPU.
            gammas: the γ that feedback gave each sample; empty without feedback.
        """
        if not values:
            return
        step = step_of(sigma, progress, samples, values, maps, gammas)
        with self._lock:
            last = self._last
            if last is not None and last.sigma == sigma and not set(last.samples) & set(step.samples):
                is_kept = bool(self._steps) and self._steps[-1] is last
                step = join(last, step)
                if is_kept:
                    self._bytes -= self._steps.pop().nbytes
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
        self._bytes += step.nbytes
        while (self._bytes > LARGEST_RUN or len(self._steps) > MOST_STEPS) and len(self._steps) > 1:
            self._steps = self._steps[::2]
            self._bytes = sum(step.nbytes for step in self._steps)
            self.stride *= 2

    def restore(self, steps: Iterable[Step]) -> None:
        """Put in steps that were recorded before, such as those of a file."""
        with self._lock:
            self._steps = list(steps)
            self._last = self._steps[-1] if self._steps else None
            self._count = self.stride * len(self._steps)
            self._bytes = sum(step.nbytes for step in self._steps)

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
        """The number of steps that were measured, kept or not."""
        return self._count

    @property
    def nbytes(self) -> int:
        """Bytes of the kept measures."""
        return self._bytes

    @property
    def addresses(self) -> tuple[str, ...]:
        """The sites that have values, in the order of the model."""
        reached = dict.fromkeys(address for step in self.steps for address, _ in step.columns)
        order = {address: index for index, address in enumerate(self.sites)}
        return tuple(sorted(reached, key=lambda address: order.get(address.partition("#")[0], len(order))))

    @property
    def passes(self) -> tuple[str, ...]:
        """The names of the prompts that have values, such as positive and negative."""
        return tuple(dict.fromkeys(sample.pass_name for step in self.steps for sample in step.samples))

    def matrix(self, measure: str, pass_name: str | None = None) -> Tensor:
        """A measure by site and step, averaged over heads and samples: `(sites, steps)`, NaN where there is none.

        Args:
            measure: one of `measures`.
            pass_name: a name from `passes`, or None for all together; "cond" is positive and "uncond" negative.

        Raises:
            ValueError: a measure this run does not have.
        """
        check_choice("measure", measure, self.measures)
        index, addresses, steps = self.measures.index(measure), self.addresses, self.steps
        result = torch.full((len(addresses), len(steps)), float("nan"))
        row_of = {address: row for row, address in enumerate(addresses)}
        for column, step in enumerate(steps):
            if rows := step.rows(pass_name):
                found = [row_of[address] for address, _ in step.columns]
                result[found, column] = step.averages[:, rows, index].nanmean(dim=1)
        return result

    def heads(self, address: str, measure: str, pass_name: str | None = None) -> Tensor:
        """A measure of one site by head and step, averaged over the samples: `(heads, steps)`.

        Raises:
            ValueError: a measure or a site this run does not have.
        """
        check_choice("measure", measure, self.measures)
        check_choice("site", address, self.addresses)
        index, steps = self.measures.index(measure), self.steps
        found = [(step.of(address), step.rows(pass_name)) for step in steps]
        count = max(each.shape[-1] for each, _ in found if each is not None)
        result = torch.full((count, len(steps)), float("nan"))
        for column, (values, rows) in enumerate(found):
            if values is not None and rows:
                result[:, column] = values[rows, index].nanmean(dim=0)
        return result

    def table(self) -> Iterator[TableRow]:
        """One row per step, sample and site; the measures are means over the heads."""
        for number, step in enumerate(self.steps):
            yield from step_rows(number * self.stride, step, self.measures)

    def summary(self) -> str:
        """The run in a few lines for people."""
        steps, addresses = self.steps, self.addresses
        if not steps:
            return "\n".join([f"{self.model}, {self.status}: nothing was measured.", *self.notes])
        kept = "" if self.stride == 1 else f" (one of every {self.stride} kept)"
        lines = [
            f"{self.model}, {self.status}, {self.kind}: {len(addresses)} of {len(self.sites)} sites × {len(steps)} "
            f"steps{kept}, {', '.join(self.passes)}; sigma {steps[0].sigma:.4g} … {steps[-1].sigma:.4g}; "
            f"{self.patterns} patterns{self.gamma and f'; {self.gamma}'}."
        ]
        lines += [describe_measure(measure, self.matrix(measure), addresses) for measure in self.measures]
        missing = [address for address in self.sites if address not in addresses]
        if missing:
            lines.append(f"Not measured: {', '.join(missing)}.")
        return "\n".join([*lines, *self.notes])
