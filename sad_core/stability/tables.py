"""Stability traces on disk and in spreadsheets: safetensors with a JSON header, CSV, JSON. Reading one runs no code."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from .run import Sample, StabilityRun, StabilityTrace, Step

HEADER = "stability_trace"
VERSION = 1
LARGEST_FILE = 64 * 2**20


def save_trace(trace: StabilityTrace, path: str | Path) -> None:
    """Write all runs of `trace` to a safetensors file; what is there is replaced.

    Raises:
        ValueError: nothing was measured, so there is nothing to keep.
    """
    from safetensors.torch import save_file

    if trace.is_empty:
        raise ValueError("This trace is empty, so there is nothing to save; let a sampler run first.")
    tensors, runs = {}, []
    for number, run in enumerate(trace.runs):
        layouts = list(dict.fromkeys(step.columns for step in run.steps))
        runs.append(
            {
                **{name: getattr(run, name) for name in ("model", "patterns", "kind", "status", "stride", "gamma")},
                **{name: list(getattr(run, name)) for name in ("sites", "measures", "notes")},
                "layouts": layouts,
                "steps": [
                    [step.sigma, step.progress, step.samples, layouts.index(step.columns), list(step.maps)]
                    for step in run.steps
                ],
            }
        )
        for place, step in enumerate(run.steps):
            tensors[f"{number}.{place}"] = step.values.contiguous().clone()
            tensors |= {f"{number}.{place}.{address}": each.contiguous() for address, each in step.maps.items()}
    save_file(tensors, str(path), metadata={HEADER: json.dumps({"version": VERSION, "runs": runs})})


def load_trace(path: str | Path) -> StabilityTrace:
    """A trace that `save_trace` wrote.

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
    raise ValueError(f"{path.name} has format {content['version']}, but this version reads {VERSION}; update the pack.")


def _read_run(number: int, content: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> StabilityRun:
    layouts = [tuple((str(address), int(heads)) for address, heads in layout) for layout in content["layouts"]]
    measures = tuple(map(str, content["measures"]))
    steps = []
    for place, (sigma, progress, samples, layout, mapped) in enumerate(content["steps"]):
        values, columns = tensors[f"{number}.{place}"], layouts[layout]
        shape = (len(samples), len(measures), sum(heads for _, heads in columns))
        if tuple(values.shape) != shape or values.dtype != torch.float32:
            raise ValueError(f"step {place} has shape {tuple(values.shape)}, not {shape}")
        if any(heads < 1 for _, heads in columns):
            raise ValueError(f"step {place} has a site without heads")
        maps = {str(address): tensors[f"{number}.{place}.{address}"] for address in mapped}
        if any(each.dim() != 3 or len(each) != len(samples) or each.dtype != torch.float16 for each in maps.values()):
            raise ValueError(f"step {place} has a map of another shape")
        names = tuple(Sample(str(chunk), int(index)) for chunk, index in samples)
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


def to_csv(trace: StabilityTrace) -> str:
    """The table of a trace for a spreadsheet: a header line, then a row per run, step, sample and site."""
    rows = trace.to_table()
    names = dict.fromkeys(name for row in rows for name in row)
    out = io.StringIO()
    writer = csv.DictWriter(out, list(names), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _short(value) for name, value in row.items()} for row in rows)
    return out.getvalue()


def to_json(trace: StabilityTrace) -> str:
    """The table of a trace and its summary as JSON; undefined numbers are null."""
    rows = [{name: None if _is_undefined(value) else value for name, value in row.items()} for row in trace.to_table()]
    return json.dumps({"summary": trace.summary(), "table": rows}, ensure_ascii=False)


def _is_undefined(value: str | int | float) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _short(value: str | int | float) -> str | int:
    if isinstance(value, float):
        return "" if _is_undefined(value) else f"{value:.7g}"  # what float32 carries
    return value
