"""The trace of a probe: the sampling runs that went through it, and their file.

A file is safetensors with a JSON header, so reading one runs no code.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ..shown_text import shown
from ..whole_file import whole_file
from .files import DAMAGE, has_header, opened
from .run import LARGEST_RUN, StabilityRun
from .step import Sample, Step
from .tables import TableRow
from .trace_header import VERSION, OtherVersion, read_runs, write_runs

KEPT_RUNS = 8
LARGEST_TRACE = 28 * 2**20
HEADER = "stability_trace"
LARGEST_FILE = 64 * 2**20
EMPTY = (
    "No sampling run has gone through this probe yet. If an image came out anyway, its sampler took it from ComfyUI's "
    "cache or used another model. Wire the MODEL of the probe into the sampler, and change the seed once."
)


class StabilityTrace:
    """The handle a probe gives out; the sampling runs of its model fill it, several runs told apart.

    Attributes:
        unmeasured: why no run will ever fill it, in a sentence; empty where runs may.
    """

    def __init__(self, runs: Iterable[StabilityRun] = (), unmeasured: str = ""):
        self.unmeasured = unmeasured
        self._runs = list(runs)
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        """Return the state of a copy: the runs until now."""
        return {"_runs": list(self.runs), "unmeasured": self.unmeasured}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=threading.Lock())

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
            raise ValueError("This trace has no run to record in. Begin one first.")
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
        """True if nothing was measured yet."""
        return not any(run.steps for run in self.runs)

    def save(self, path: str | Path) -> None:
        """Write all runs to a safetensors file with a JSON header; what is there is replaced.

        Raises:
            ValueError: nothing was measured, so there is nothing to keep, or there is too much for one file.
        """
        from safetensors.torch import save_file

        if self.is_empty:
            raise ValueError("This trace is empty, so there is nothing to save. Run a sampler first.")
        header, tensors = write_runs(self.runs)
        with whole_file(path) as unfinished:
            save_file(tensors, str(unfinished), metadata={HEADER: header})

    @staticmethod
    def is_saved_in(path: str | Path) -> bool:
        """Return whether a file has the header of a trace. Reads only the first bytes."""
        return has_header(path, HEADER)

    @staticmethod
    def load(path: str | Path) -> StabilityTrace:
        """The trace in a file that `save` wrote. Reading it runs no code of the file.

        Raises:
            ValueError: no such file, too large, no safetensors file, or not a trace; the sentence says which.
        """
        from safetensors import SafetensorError

        path = Path(path)
        name = shown(path.name)
        with opened(path, HEADER, "stability trace", "Save Stability Trace", LARGEST_FILE) as (header, file):
            try:
                return StabilityTrace(read_runs(header, file.get_tensor))
            except OtherVersion as other:
                raise ValueError(
                    f"{name} has format {other}, but this version reads {VERSION}. Update the pack."
                ) from None
            except (*DAMAGE, SafetensorError) as error:
                raise ValueError(f"{name} is damaged and cannot be read. Save the trace again.") from error

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
            return self.unmeasured or EMPTY
        texts = [run.summary() for run in reversed(runs)]
        if len(runs) > 1:
            texts = [f"Run {len(runs) - index} of {len(runs)}. {text}" for index, text in enumerate(texts)]
        return "\n\n".join(texts)
