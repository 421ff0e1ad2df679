"""The trace of a probe: the sampling runs that went through it, and their file.

A file is safetensors with a JSON header, so reading one runs no code.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .run import LARGEST_RUN, StabilityRun
from .step import Sample, Step
from .tables import TableRow

KEPT_RUNS = 8
LARGEST_TRACE = 28 * 2**20
HEADER = "stability_trace"
VERSION = 1
LARGEST_FILE = 64 * 2**20
EMPTY = (
    "No sampling run went through this probe yet. If a picture came out all the same, its sampler was served from a "
    "cache or used another model."
)


class StabilityTrace:
    """The handle a probe gives out; the sampling runs of its model fill it, several runs told apart."""

    def __init__(self, runs: Iterable[StabilityRun] = ()):
        self._runs = list(runs)
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        """What a copy begins with: the runs until now."""
        return {"_runs": list(self.runs)}

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
        """True if nothing was measured yet."""
        return not any(run.steps for run in self.runs)

    def save(self, path: str | Path) -> None:
        """Write all runs to a safetensors file with a JSON header; what is there is replaced.

        Raises:
            ValueError: nothing was measured, so there is nothing to keep.
        """
        from safetensors.torch import save_file

        if self.is_empty:
            raise ValueError("This trace is empty, so there is nothing to save; let a sampler run first.")
        tensors: dict[str, Tensor] = {}
        runs = [_write_run(number, run, tensors) for number, run in enumerate(self.runs)]
        save_file(tensors, str(path), metadata={HEADER: json.dumps({"version": VERSION, "runs": runs})})

    @staticmethod
    def load(path: str | Path) -> StabilityTrace:
        """The trace in a file that `save` wrote. Reading it runs no code of the file.

        Raises:
            ValueError: no such file, too large, no safetensors file, or not a trace; the sentence says which.
        """
        from safetensors import SafetensorError, safe_open

        path = Path(path)
        try:
            size = path.stat().st_size if path.is_file() else None
        except OSError:  # a name that no file can have
            size = None
        if size is None:
            raise ValueError(f"There is no file {path.name}; choose a stability trace that was saved before.")
        if size > LARGEST_FILE:
            raise ValueError(
                f"{path.name} has {size / 2**20:.0f} MB, but a stability trace has at most {LARGEST_FILE // 2**20} MB; "
                "choose another file."
            )
        not_a_trace = f"{path.name} is not a stability trace of this pack; choose a file saved by Save Stability Trace."
        try:
            with safe_open(str(path), "pt") as file:
                header = (file.metadata() or {}).get(HEADER)
                if header is None:
                    raise ValueError(not_a_trace)
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (the file is no dict)
        except (SafetensorError, OSError) as error:
            raise ValueError(not_a_trace) from error
        try:
            content = json.loads(header)
            if content["version"] == VERSION:
                return StabilityTrace([_read_run(number, run, tensors) for number, run in enumerate(content["runs"])])
        except (KeyError, TypeError, ValueError, ArithmeticError, IndexError, AttributeError, RecursionError) as error:
            raise ValueError(f"{path.name} is damaged and cannot be read; save the trace again.") from error
        raise ValueError(
            f"{path.name} has format {content['version']}, but this version reads {VERSION}; update the pack."
        )

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


def _write_run(number: int, run: StabilityRun, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """The header of a run. Its numbers are added to `tensors`, named by the number of the run."""
    steps = run.steps  # once: the run may be growing
    layouts = list(dict.fromkeys(step.columns for step in steps))
    for index, step in enumerate(steps):
        tensors[f"{number}.{index}"] = step.values.contiguous().clone()
        tensors |= {f"{number}.{index}.{address}": each.contiguous() for address, each in step.maps.items()}
    return {
        **{name: getattr(run, name) for name in ("model", "patterns", "kind", "status", "stride", "gamma")},
        **{name: list(getattr(run, name)) for name in ("sites", "measures", "notes")},
        "layouts": layouts,
        "steps": [
            [step.sigma, step.progress, step.samples, layouts.index(step.columns), list(step.maps)] for step in steps
        ],
    }


def _read_run(number: int, content: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> StabilityRun:
    layouts = [tuple((str(address), int(heads)) for address, heads in layout) for layout in content["layouts"]]
    measures = tuple(map(str, content["measures"]))
    steps = []
    for index, (sigma, progress, samples, layout, mapped) in enumerate(content["steps"]):
        values, columns = tensors[f"{number}.{index}"], layouts[layout]
        shape = (len(samples), len(measures), sum(heads for _, heads in columns))
        if tuple(values.shape) != shape or values.dtype != torch.float32:
            raise ValueError(f"step {index} has shape {tuple(values.shape)}, not {shape}")
        if any(heads < 1 for _, heads in columns):
            raise ValueError(f"step {index} has a site without heads")
        maps = {str(address): tensors[f"{number}.{index}.{address}"] for address in mapped}
        if any(each.dim() != 3 or len(each) != len(samples) or each.dtype != torch.float16 for each in maps.values()):
            raise ValueError(f"step {index} has a map of another shape")
        names = tuple(Sample(str(pass_name), int(sample)) for pass_name, sample in samples)
        steps.append(Step(float(sigma), float(progress), names, columns, values, maps))
    run = StabilityRun(
        str(content["model"]),
        tuple(map(str, content["sites"])),
        measures,
        patterns=str(content["patterns"]),
        kind=str(content["kind"]),
        status=str(content["status"]),
        stride=max(int(content["stride"]), 1),
        gamma=str(content.get("gamma", "")),
        notes=list(map(str, content["notes"])),
    )
    run.restore(steps)
    return run
