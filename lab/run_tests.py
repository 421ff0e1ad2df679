#!/usr/bin/env python3
"""Everything `make test` runs: lint, types, then all tests, the host ones once for each host and attention backend.

ComfyUI keeps its backend and its version for the life of a process, so every combination is a pytest of its own. Where
no host can be had the host tests are still collected, and show up as skipped with the reason. Needs only the standard
library; the environment it makes brings the rest.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from lab.environment import environment
from lab.folders import ROOT
from lab.testing.hosts import find_host, find_oldest_host

COUNTS = re.compile(r"(\d+) (passed|failed|skipped|errors?|xfailed|xpassed)")
# Threads that wait sleep instead of spinning, which matters wherever two processes share the cores.
QUIET_THREADS = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}


def run(title: str, command: list[str], **variables: str) -> tuple[int, str]:
    """Run a command from the root, showing its output; its exit code and its last line that counts tests."""
    print(f"\n=== {title}", flush=True)
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **QUIET_THREADS, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    assert process.stdout is not None
    summary = ""
    for line in process.stdout:
        print(line, end="", flush=True)
        if COUNTS.search(line) and " in " in line:
            summary = line
    return process.wait(), summary


def check_types(python: str) -> int:
    """mypy on sad_core and nodes, seen as the package they are inside ComfyUI, whatever this folder is called."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "symmetric_attention").symlink_to(ROOT, target_is_directory=True)
        command = [python, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml")]
        command += ["-p", "symmetric_attention.sad_core", "-p", "symmetric_attention.nodes"]
        return run("types", command, MYPYPATH=folder)[0]


def main() -> int:
    main_host, oldest_host = find_host(), find_oldest_host()
    python = str(environment("test", main_host))
    pytest = [python, "-m", "pytest"]
    # A path where no ComfyUI is makes the tests of a missing host show up as skipped.
    main_path = {"COMFYUI_PATH": str(main_host or "no-newest-ComfyUI")}
    oldest_path = {"COMFYUI_PATH": str(oldest_host or "no-oldest-ComfyUI")}

    failures = []
    if run("lint", [python, "-m", "ruff", "check", "."])[0]:
        failures.append("lint")
    if check_types(python):
        failures.append("types")
    pytorch, sub_quad = {"SAD_ATTENTION": "pytorch"}, {"SAD_ATTENTION": "sub_quad"}
    suites: list[tuple[str, str, dict[str, str]]] = [
        ("core", "tests/core tests/stability tests/evaluation tests/release", {}),
        ("demo and evidence", "tests/demo tests/evidence", {}),
        ("host, newest, PyTorch attention", "tests/host", main_path | pytorch),
        ("server, newest", "tests/server", main_path),
        ("browser", "tests/browser", main_path),
        ("host, newest, sub-quadratic attention", "tests/host", main_path | sub_quad),
        ("host, oldest, PyTorch attention", "tests/host", oldest_path | pytorch),
        ("server, oldest", "tests/server", oldest_path),
    ]

    totals: Counter[str] = Counter()
    for title, folders, variables in suites:
        code, summary = run(title, [*pytest, *folders.split()], **variables)
        for count, kind in COUNTS.findall(summary):
            totals["failed" if kind.startswith("error") else kind] += int(count)
        if code:
            failures.append(title)
    for name, host, place in (
        ("newest", main_host, "COMFYUI_PATH"),
        ("oldest", oldest_host, "COMFYUI_OLDEST_PATH"),
    ):
        if host is None:
            print(f"\nWARNING: no ComfyUI to be had as the {name} host; its tests were skipped and prove nothing.")
            print(f"Set {place} to the folder of one.")
    if failures:
        print(f"\nfailed: {', '.join(failures)}")
    share = (totals["passed"] + totals["failed"]) / max(1, totals.total())
    counts = f"{totals['passed']} passed, {totals['failed']} failed, {totals['skipped']} skipped"
    print(f"{counts}: {share:.0%} of the tests ran")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
