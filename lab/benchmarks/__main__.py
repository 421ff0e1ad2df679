"""Measure the cost of the pack.

    python -m lab.benchmarks                             # attention calls and memory, some minutes
    python -m lab.benchmarks --comfyui ~/ComfyUI    # and what needs a host: the import, whole sampling steps (12 GB)

Run it on a quiet machine. Ratios of times are taken round by round between things timed in turn in one process; memory
is measured once, in a process for each way.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch

from lab.benchmarks.attention import LENGTHS, SHAPES, measure_attention, measure_extras, measure_growth
from lab.benchmarks.import_time import GOAL, measure_import
from lab.benchmarks.memory import measure_memory
from lab.benchmarks.rows import Row, table
from lab.benchmarks.sampling_step import MODELS, measure_steps
from lab.folders import expand_path

STARTS = 6
PARTS = ("attention", "extras", "growth", "memory", "import", "step")


def measured(parts: list[str], models: list[str], rounds: int, comfyui: Path | None) -> Iterator[Row]:
    """The rows of all parts but the growth, each as soon as it is there."""
    for shape in SHAPES:
        if "attention" in parts:
            yield from measure_attention(shape, rounds)
        if "extras" in parts:
            yield from measure_extras(shape, rounds)
    if "memory" in parts:
        yield from measure_memory()
    if "step" in parts:
        if comfyui is None:
            print("whole steps: not measured, they need --comfyui", flush=True)
            return
        for name in models:
            yield from measure_steps(comfyui, name, max(3, rounds // 2))


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the pack against plain attention.")
    parser.add_argument("--comfyui", type=expand_path, help="a ComfyUI folder, for the import and whole sampling steps")
    parser.add_argument("--rounds", type=int, default=21, help="how often each thing is timed")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), help="whose whole steps to time")
    parser.add_argument("--output", type=expand_path, help="a JSON file to write everything to")
    options = parser.parse_args()
    torch.set_grad_enabled(False)
    starts = []
    if "import" in options.parts and options.comfyui is None:
        print("import: not measured, it needs --comfyui", flush=True)
    elif "import" in options.parts:
        starts = list(measure_import(options.comfyui, STARTS))
        later = ", ".join(f"{seconds:.3f}" for seconds in starts[1:])
        print(f"importing the pack: {starts[0]:.3f} s the first time, then {later} s; goal {GOAL} s", flush=True)
    rows = []
    for row in measured(options.parts, options.models, options.rounds, options.comfyui):
        print(table([row]).splitlines()[-1], flush=True)
        rows.append(row)
    growth = list(measure_growth(max(3, options.rounds // 4))) if "growth" in options.parts else []
    print(f"\n{table(rows)}\n")
    for name, seconds, power in growth:
        times = ", ".join(f"L {n}: {1000 * t:.2f} ms" for n, t in zip(LENGTHS, seconds, strict=True))
        print(f"{name}: grows with L^{power:.2f} ({times})")
    if options.output:
        machine = f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
        content = {"machine": machine, "rows": [asdict(row) for row in rows], "growth": growth, "import": starts}
        options.output.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
