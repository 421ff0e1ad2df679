"""Measure the time that the pack adds to a start of ComfyUI, torch and ComfyUI itself not counted."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from lab.folders import ROOT

GOAL = 0.1  # seconds
PROGRAM = """
import sys, time
from pathlib import Path
from lab.testing.in_process_host import load_pack, start_host
start_host(Path(sys.argv[1]), "pytorch")
import comfy.sample, comfy.sd, comfy_api.latest, nodes
sys.pycache_prefix, sys.dont_write_bytecode = sys.argv[2], False  # only now: torch is not what is compiled here
started = time.perf_counter()
load_pack()
print(time.perf_counter() - started)
"""


def measure_import(comfyui: Path, starts: int) -> Iterator[float]:
    """Seconds of one start after the other, each in a process of its own; the first one compiles the pack."""
    with tempfile.TemporaryDirectory() as bytecode:
        command = [sys.executable, "-c", PROGRAM, str(comfyui), bytecode]
        for _ in range(starts):
            answer = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
            if answer.returncode:
                sys.exit(f"ComfyUI with the pack could not be imported:\n{answer.stderr}")
            yield float(answer.stdout.splitlines()[-1])
