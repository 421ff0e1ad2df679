"""Measure the cost of the pack on a graphics card: attention, whole sampling steps, memory, and the better kernel.

    python -m lab.benchmarks.gpu --comfyui ~/ComfyUI                 # on a card, 4 minutes
    python -m lab.benchmarks.gpu --comfyui ~/ComfyUI --tiny          # on the CPU, to see that it runs

It prints the tables of docs/speed.md and writes all numbers as one JSON file. With `--write` it puts the tables into
docs/speed.md and the quicker way for each head dim and mode of this card into the table of the fused kernel.

Attention is device time over captured CUDA graphs, so that the launches of Python do not count. Steps are wall time.
Everything that is compared is timed in turn. Only torch and a ComfyUI folder are needed.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from lab.benchmarks.gpu.attention_calls import SHAPES, TINY_SHAPES, measure_attention, warm_up
from lab.benchmarks.gpu.clock import Clock
from lab.benchmarks.gpu.pages import SPEED, choose, tables, write_between, write_choices
from lab.benchmarks.gpu.whole_steps import Run, measure_steps, runs_of
from lab.folders import expand_path
from lab.testing.in_process_host import load_pack, start_host
from sad_core.kernels import choice

SECONDS = 240  # what the whole may take


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Time the pack on a graphics card.")
    parser.add_argument("--comfyui", type=expand_path, required=True, help="a ComfyUI folder")
    parser.add_argument("--output", type=expand_path, default=Path("gpu.json"), help="the JSON file to write")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tiny", action="store_true", help="tiny sizes on the CPU, only to see that it runs")
    parser.add_argument("--write", action="store_true", help="write docs/speed.md and the choices of the kernel")
    options = parser.parse_args(arguments)
    if not options.tiny and not torch.cuda.is_available():
        parser.error("there is no card that PyTorch can use; --tiny runs on the CPU")
    started = time.monotonic()
    device = torch.device("cpu" if options.tiny else "cuda")
    start_host(options.comfyui, "pytorch", on_cpu=options.tiny)
    load_pack()
    torch.set_grad_enabled(False)
    clock = Clock(device, 1 if options.tiny else options.rounds)
    dtype = torch.float32 if options.tiny else torch.bfloat16
    shapes = TINY_SHAPES if options.tiny else SHAPES
    name = "CPU, tiny sizes: no measurement" if options.tiny else torch.cuda.get_device_name(device)
    found: dict[str, Any] = {"device": name, "torch": torch.__version__, "attention": [], "steps": {}}

    def done(what: str, function: Callable[[], None]) -> None:
        """Do a part; what goes wrong in it costs no other part, and what is there is written at once."""
        try:
            function()
        except Exception as error:
            if options.tiny:
                raise
            found.setdefault("failed", {})[what] = f"{type(error).__name__}: {error}"
        found["seconds"] = time.monotonic() - started
        options.output.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"{what}: {found['seconds']:.0f} s so far", flush=True)

    def attention() -> None:
        warm_up(shapes, device, dtype)
        for shape, seconds, memory in measure_attention(shapes, clock, dtype):
            row = {"shape": str(shape), "tokens": shape.tokens, "head_dim": shape.head_dim}
            found["attention"].append({**row, "seconds": seconds, "memory": memory})

    done("attention", attention)
    for run in runs_of(options.tiny):
        if time.monotonic() - started > SECONDS:
            print(f"{run.title}: left out, {SECONDS} s are over", flush=True)
            continue

        def steps(run: Run = run) -> None:
            found["steps"][run.title] = measure_steps(run, clock, 1 if options.tiny else 2, options.tiny)

        done(run.title, steps)
    text = tables(found)
    print(f"\n{text}")
    if options.write and not options.tiny:
        write_between(SPEED, text)
        write_choices(choice.architecture_of(torch.cuda.current_device()), choose(found["attention"]))


if __name__ == "__main__":
    main()
