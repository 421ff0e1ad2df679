"""The runs of a trace in the JSON header of its file, which is not trusted."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..file_values import different, number_of, text_of, whole_number_of
from .run import MOST_STEPS, StabilityRun
from .step import Sample, Step

VERSION = 1
LARGEST_HEADER = 8 * 2**20
LONGEST_NOTE = 20_000
MOST_RUNS = 1000
Find = Callable[[str], Tensor]


class OtherVersion(ValueError):
    """The header has a format that this version does not read."""


def write_runs(runs: Iterable[StabilityRun]) -> tuple[str, dict[str, Tensor]]:
    """Return the header of these runs, and their numbers by the names that the header has for them.

    Raises:
        ValueError: there are so many samples and steps that `read_runs` would raise for the header.
    """
    tensors: dict[str, Tensor] = {}
    content = [_write_run(number, run, tensors) for number, run in enumerate(runs)]
    header = json.dumps({"version": VERSION, "runs": content})
    if len(header) > LARGEST_HEADER:
        raise ValueError("This trace has too many samples and steps for one file. Save it as CSV or JSON.")
    return header, tensors


def read_runs(header: str, find: Find) -> list[StabilityRun]:
    """Return the runs of a header.

    Args:
        header: the text.
        find: gives the numbers of a name.

    Raises:
        OtherVersion: the format is another one.
        KeyError, TypeError, ValueError, ArithmeticError, IndexError, AttributeError, RecursionError: the header is not
            as `write_runs` has it.
    """
    if len(header) > LARGEST_HEADER:
        raise ValueError("the header is too large")
    content = json.loads(header)
    version = content["version"]
    if version != VERSION:
        whole_number_of(version, 0, 10**6)
        raise OtherVersion(version)
    if not isinstance(content["runs"], list) or len(content["runs"]) > MOST_RUNS:
        raise ValueError("the runs are not a list, or there are too many")
    return [_read_run(number, run, find) for number, run in enumerate(content["runs"])]


def _write_run(number: int, run: StabilityRun, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Return the header of a run. Its numbers are added to `tensors`, named by the number of the run."""
    steps = run.steps  # once: the run may be growing
    layouts = list(dict.fromkeys(step.columns for step in steps))
    for index, step in enumerate(steps):
        tensors[f"{number}.{index}"] = step.values.contiguous().clone()
        tensors |= {f"{number}.{index}.{address}": each.contiguous() for address, each in step.maps.items()}
    return {
        **{name: getattr(run, name) for name in ("model", "patterns", "kind", "status", "stride", "gamma", "tokens")},
        **{name: list(getattr(run, name)) for name in ("sites", "measures", "notes")},
        "layouts": layouts,
        "steps": [
            [step.sigma, step.progress, step.samples, layouts.index(step.columns), list(step.maps)] for step in steps
        ],
        "gammas": [step.gammas for step in steps],
    }


def _read_run(number: int, content: Mapping[str, Any], find: Find) -> StabilityRun:
    layouts = [_columns(layout) for layout in content["layouts"]]
    measures = different(map(text_of, content["measures"]))
    if len(content["steps"]) > MOST_STEPS:
        raise ValueError("there are too many steps")
    steps = [
        _read_step(f"{number}.{index}", step, layouts, len(measures), find)
        for index, step in enumerate(content["steps"])
    ]
    followed = content.get("gammas", [[]] * len(steps))
    steps = [_followed(step, gammas) for step, gammas in zip(steps, followed, strict=True)]
    run = StabilityRun(
        text_of(content["model"]),
        tuple(map(text_of, content["sites"])),
        measures,
        patterns=text_of(content["patterns"]),
        kind=text_of(content["kind"]),
        status=text_of(content["status"]),
        stride=whole_number_of(content["stride"], 1, 2**31),
        gamma=text_of(content.get("gamma", "")),
        tokens=whole_number_of(content.get("tokens", 0), 0, 2**31),
        notes=[text_of(note, LONGEST_NOTE) for note in content["notes"]],
    )
    run.restore(steps)
    return run


def _read_step(
    name: str, content: Sequence[Any], layouts: Sequence[tuple[tuple[str, int], ...]], measures: int, find: Find
) -> Step:
    sigma, progress, samples, layout, mapped = content
    columns = layouts[whole_number_of(layout, 0, len(layouts) - 1)]
    rows = tuple(Sample(text_of(pass_name), whole_number_of(row, 0, 10**6)) for pass_name, row in samples)
    if not rows:
        raise ValueError(f"step {name} has no samples")
    values = find(name)
    shape = (len(rows), measures, sum(heads for _, heads in columns))
    if tuple(values.shape) != shape or values.dtype != torch.float32:
        raise ValueError(f"step {name} has shape {tuple(values.shape)}, not {shape}")
    maps = {text_of(address): find(f"{name}.{address}") for address in mapped}
    for each in maps.values():
        if each.dim() != 3 or len(each) != len(rows) or not each.numel() or each.dtype != torch.float16:
            raise ValueError(f"step {name} has a map of another shape")
    return Step(number_of(sigma), number_of(progress), rows, columns, values, maps)


def _followed(step: Step, gammas: Iterable[Any]) -> Step:
    """Return the step with the γ that feedback gave its samples; there is none, or one for each."""
    found = tuple(map(number_of, gammas))
    if found and len(found) != len(step.samples):
        raise ValueError("some samples have no γ")
    return replace(step, gammas=found)


def _columns(layout: Iterable[Any]) -> tuple[tuple[str, int], ...]:
    columns = tuple((text_of(address), whole_number_of(heads, 1, 10**6)) for address, heads in layout)
    different(address for address, _ in columns)
    return columns
