"""Files of baselines, whole and hostile, and what a user can do with one."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from lab.campaign.damage import damaged, join, split
from lab.campaign.file_kinds import DRAW, FileKind
from lab.campaign.hostile_traces import made_run
from sad_core import StabilityBaseline, StabilityTrace
from sad_core.stability.baseline_file import HEADER, load_baseline, save_baseline
from sad_core.stability.feedback import FeedbackSettings
from sad_core.stability.score import StabilityScore
from sad_core.stability.shift import describe_shift


def whole_baselines(folder: Path) -> list[bytes]:
    """A baseline of one run, and one of three."""
    runs = [made_run("SD15", steps=3, seed=seed, mapped=False) for seed in range(3)]
    files = []
    for few in (runs[:1], runs):
        path = folder / "whole.safetensors"
        save_baseline(StabilityBaseline.from_runs(few), path)
        files.append(path.read_bytes())
    return files


def handmade_baselines() -> list[bytes]:
    """Files that ask for much, or count what cannot be counted; the first is right."""
    baseline = StabilityBaseline.from_runs([made_run("SD15", steps=3, seed=0, mapped=False)])
    names = ("model", "patterns", "measures", "sites", "passes", "runs", "samples", "tokens", "steps")
    right: dict[str, Any] = {"version": 1, "parts": 10, **{name: getattr(baseline, name) for name in names}}
    tables = {name: getattr(baseline, name).contiguous() for name in ("count", "mean", "squares")}
    tables |= {"codes": baseline.seen.codes, "counts": baseline.seen.counts}

    def file(changed: dict[str, Any], **other: torch.Tensor) -> bytes:
        return safetensors.torch.save(tables | other, metadata={HEADER: json.dumps(right | changed)})

    lists = {"__metadata__": {HEADER: '{"version": 1, "parts": 10, "sites": [' + "[]," * 15_000_000 + "[]]}"}}
    return [
        file({}),
        file({"samples": -1}),
        file({"samples": 0}),
        file({"steps": []}),
        file({"tokens": [10**300]}),
        file({"version": "9" * 100_000}),
        file({"model": "x" * 100_000}),
        file({"model": "SD\u202e15\n"}),
        file({"passes": ["", "$\\bad$", "positive"]}),
        file({"measures": ["energy", "energy"]}),
        file({"sites": ["", "a\n", "b", "c"]}),
        file({}, mean=torch.full_like(tables["mean"], float("nan"))),
        file({}, squares=torch.full_like(tables["squares"], -1e300)),
        file({}, counts=torch.full_like(tables["counts"], 2**62)),
        join(lists, b""),
    ]


def use_baseline(baseline: StabilityBaseline, content: bytes) -> None:
    """Read all texts, numbers and pictures that a baseline gives, and compare its tables with those of the file."""
    run = made_run(baseline.model, steps=3, seed=9, mapped=False)
    baseline.summary().encode()
    baseline.with_runs([run]).summary().encode()
    describe_shift(baseline, run).encode()
    for measure in baseline.measures:
        for name in (None, *baseline.passes[1:]):
            baseline.curve(measure, name)
    FeedbackSettings(StabilityScore(baseline.measures[0]), baseline=baseline)
    for draw in DRAW:
        for layout in ("curves", "z-scores"):
            draw(StabilityTrace([run]), layout, "both", "", None, baseline=baseline)
    tensors = safetensors.torch.load(content)
    header = json.loads(split(content)[0]["__metadata__"][HEADER])
    assert baseline.samples == header["samples"]
    assert len(baseline.sites) == len(header["sites"])
    for name in ("count", "mean", "squares"):
        assert torch.equal(getattr(baseline, name).nan_to_num(), tensors[name].nan_to_num())


BASELINE = FileKind(whole_baselines, handmade_baselines, partial(damaged, key=HEADER), load_baseline, use_baseline)
