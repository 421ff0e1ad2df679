"""Peak memory of one attention call, measured from outside: a process of its own for each way (Linux only)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from lab.benchmarks.rows import Row
from lab.folders import ROOT

CASE = "B1 H10 L4096 d64"
PROGRAM = """
import json, sys, torch
from lab.benchmarks.attention import Call, Shape
torch.set_grad_enabled(False)
way, shape = sys.argv[1], Shape(1, 10, 4096, 64)
small, call = Call(Shape(1, 10, 64, 64)), Call(shape)
del call.x, call.query_weight, call.key_weight, call.value_weight
ways = {
    "plain": lambda call: torch.nn.functional.scaled_dot_product_attention(call.q, call.k, call.v),
    "gamma": lambda call: call.skewed(beta=1.0),
    "both": lambda call: call.skewed(),
}
ways[way](small)
def held(name):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(name))
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")
before = held("VmRSS:")
kept = ways[way](call)
inputs = sum(x.numel() * 4 for x in (call.q, call.k, call.v)) / 1024
print(json.dumps({"inputs": inputs, "extra": held("VmHWM:") - before}))
"""


def peak(way: str) -> dict[str, float]:
    """KiB of q, k and v, and KiB that the call took above what was there before."""
    command = [sys.executable, "-c", PROGRAM, way]
    # Every large tensor a mapping of its own, so that what was freed before the call does not hide what it takes.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    answer = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT, env=environment)
    found: dict[str, float] = json.loads(answer.stdout.splitlines()[-1])
    return found


def measure_memory() -> Iterator[Row]:
    """Peak of the skewed call over peak of the plain one: its q, k and v, its result and all between."""
    if not Path("/proc/self/clear_refs").exists():
        print("memory: not measured, /proc is needed")
        return
    plain = peak("plain")
    for way, name in (("gamma", "γ"), ("both", "γ and β, value norm")):
        found = peak(way)
        ratio = (found["inputs"] + found["extra"]) / (plain["inputs"] + plain["extra"])
        note = f"above q, k and v: {found['extra'] / 1024:.0f} MiB, plain {plain['extra'] / 1024:.0f} MiB"
        yield Row(f"peak memory, {name}", CASE, ratio, ratio, ratio, "plain attention's peak", 1.3, note)
