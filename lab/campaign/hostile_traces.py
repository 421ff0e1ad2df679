"""Trace files, whole and hostile, and what a user can do with one."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from lab.campaign.damage import damaged, join, split
from lab.campaign.file_kinds import DRAW, FileKind
from sad_core import StabilityTrace, difference
from sad_core.stability.run import StabilityRun
from sad_core.stability.step import Sample
from sad_core.stability.tables import to_csv, to_json
from sad_core.stability.trace import HEADER

MAPPED = "input.1.0"
LAYOUTS = ("heat map", "curves", "heads", "difference", "map")


def whole_traces(folder: Path) -> list[bytes]:
    """Traces with one run and with two, with maps, with sites that one pass did not reach."""
    first, second = made_run("SD15", steps=3, seed=0, mapped=False), made_run("SD15", steps=2, seed=9, mapped=True)
    files = []
    for runs in ([first], [first, second]):
        path = folder / "whole.safetensors"
        StabilityTrace(runs).save(path)
        files.append(path.read_bytes())
    return files


def made_run(model: str, steps: int, seed: int, mapped: bool) -> StabilityRun:
    """A run of drawn numbers."""
    generator = torch.Generator().manual_seed(seed)
    made = StabilityRun(model, (MAPPED, "middle.0.0", "output.2.0"), ("energy", "alignment"), gamma="γ 1.5")
    for step in range(steps):
        for number, name in enumerate(("positive", "negative")):
            sites = ((MAPPED, 2), ("middle.0.0", 3))[: 2 - number * (step % 2)]
            values = {address: torch.randn(2, 2, heads, generator=generator) for address, heads in sites}
            maps = {MAPPED: torch.rand(2, 4, 6, generator=generator)} if mapped else {}
            samples = [Sample(name, row) for row in range(2)]
            made.record(10.0 - step, step / steps, samples, values, maps)
    made.status = "finished"
    made.note("One thing could not be measured.")
    return made


def handmade_traces() -> list[bytes]:
    """Files that ask for much: of memory, of time, of the checks."""
    run = {"model": "SD15", "patterns": "value", "kind": "measured", "status": "finished", "stride": 1, "gamma": ""}
    run |= {"sites": ["a"], "measures": ["energy"], "notes": [], "layouts": [[["a", 1]]], "steps": []}
    one = [1.0, 0.5, [["positive", 0]], 0, []]

    def file(changed: dict[str, Any], tensors: dict[str, tuple[str, list[int], int]]) -> bytes:
        header: dict[str, Any] = {"__metadata__": {HEADER: json.dumps({"version": 1, "runs": [run | changed]})}}
        end = 0
        for name, (dtype, shape, size) in tensors.items():
            header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
            end += size
        return join(header, bytes(end))

    value = {"0.0": ("F32", [1, 1, 1], 4)}
    many = {f"0.{index}": ("F32", [1, 1, 1], 4) for index in range(30_000)}
    mapped = [1.0, 0.5, [["positive", 0]], 0, ["a"]]
    version = {"__metadata__": {HEADER: '{"version": "' + "9" * 100_000 + '", "runs": []}'}}
    lists = {"__metadata__": {HEADER: '{"version": 1, "runs": [' + "[]," * 15_000_000 + "[]]}"}}
    return [
        file({"steps": [one]}, value),
        file({"steps": []}, {}),
        file({"steps": [[1.0, 0.5, [], 0, []]]}, {"0.0": ("F32", [0, 1, 1], 0)}),
        file({"steps": [one], "measures": []}, {"0.0": ("F32", [1, 0, 1], 0)}),
        file({"steps": [one], "layouts": [[]]}, {"0.0": ("F32", [1, 1, 0], 0)}),
        file({"steps": [one], "layouts": [[["a", 10**12], ["a", 1 - 10**12]]]}, value),
        file({"steps": [mapped]}, value | {"0.0.a": ("F16", [1, 0, 2**40], 0)}),
        file({"steps": [mapped]}, value | {"0.0.a": ("F16", [1, 2**40, 0], 0)}),
        file({"steps": [mapped]}, value | {"0.0.a": ("F16", [1, 4_000_000, 1], 8_000_000)}),
        file({"steps": [mapped]}, value | {"0.0.a": ("F16", [1, 1, 4_000_000], 8_000_000)}),
        file({"steps": [one], "stride": 10**4000}, value),
        file({"steps": [one], "sites": ["a"] * 100_000}, value),
        file({"steps": [one], "notes": ["x\n"] * 100_000}, value),
        file({"steps": [one], "model": "$\\frac{$"}, value),
        file({"steps": [one], "model": "=cmd|'/c calc'!A1", "gamma": "\u202e$"}, value),
        file({"steps": [[1.0, 0.5, [["$\\bad$", 0]], 0, []]]}, value),
        file({"steps": [[1.0, index / 30_000, [["positive", 0]], 0, []] for index in range(30_000)]}, many),
        file({"steps": [[1e308, -1e308, [["positive", 10**300]], 0, []]]}, value),
        file({"steps": [[float("nan"), float("nan"), [["positive", 0]], 0, []]]}, value),
        file({"steps": [[1.0, 0.5, [["positive", 0]] * 2, 0, []]]}, {"0.0": ("F32", [2, 1, 1], 8)}),
        join(version, b""),
        join(lists, b""),
    ]


def use_trace(trace: StabilityTrace, content: bytes) -> None:
    """Read all texts, tables and pictures of a trace, and compare its numbers with those of the file."""
    summary, table, as_json = trace.summary(), to_csv(trace), to_json(trace)
    for text in (summary, table, as_json):
        text.encode()  # as it is written to a file and sent to the browser
    json.loads(as_json)
    for each in trace.runs:
        if len(trace.runs) > 1 and each.model == trace.runs[0].model:
            difference(each, trace.runs[0])
        for measure in each.measures:
            each.matrix(measure, "cond")
    is_mapped = bool(trace.runs) and any(step.maps for step in trace.runs[-1].steps)
    for draw in DRAW:
        for layout in LAYOUTS[: None if is_mapped else -1]:
            draw(trace, layout, "both", "", None)
    assert_as_in_file(trace, content)


def assert_as_in_file(trace: StabilityTrace, content: bytes) -> None:
    """The numbers of a trace are those that the file has for its steps, read only by their names."""
    tensors = safetensors.torch.load(content)
    header = json.loads(split(content)[0]["__metadata__"][HEADER])
    assert len(header["runs"]) == len(trace.runs)
    for number, each in enumerate(trace.runs):
        assert len(header["runs"][number]["steps"]) == len(each.steps)
        for index, step in enumerate(each.steps):
            assert step.values.equal(tensors[f"{number}.{index}"]) or step.values.isnan().any()
            for address, picture in step.maps.items():
                assert picture.shape == tensors[f"{number}.{index}.{address}"].shape


TRACE = FileKind(whole_traces, handmade_traces, partial(damaged, key=HEADER), StabilityTrace.load, use_trace)
