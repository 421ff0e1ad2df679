#!/usr/bin/env python3
"""Run the tests: everything a release needs, or a part of it.

    python3 -m lab.run_tests lint       # style, format, types
    python3 -m lab.run_tests check      # lint, types, the core and the web files: two minutes
    python3 -m lab.run_tests host       # the newest ComfyUI, PyTorch attention: six minutes
    python3 -m lab.run_tests release    # `make test`: all of these, the oldest ComfyUI, server, browser, demo: twenty
    python3 -m lab.run_tests torch --torch 2.8.0   # an older PyTorch: the core and what touches torch.compile
    python3 -m lab.run_tests all        # what a nightly runs: also sub-quadratic attention, older PyTorch, a newer host

ComfyUI keeps its backend and its version for the life of a process, so every combination is a process of its own, and
that of the newest ComfyUI is two, its families and all else. Two run at a time; the times are those of two cores that
do nothing else. Where no host can be had the host tests are still collected, and show up as skipped with the reason.
Needs only the standard library; the environment it makes brings the rest.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from lab.environment import OLDER_TORCH, environment, typescript
from lab.folders import ROOT
from lab.testing.hosts import find_front_end, find_host, find_newer_host, find_oldest_host

COUNTS = re.compile(r"(\d+) (passed|failed|skipped|errors?|xfailed|xpassed)")
NODE_COUNTS = re.compile(r"^[#ℹ] (pass|fail|skipped) (\d+)$")
SHARE = re.compile(r"\[ *(\d+)%\]")
WORKERS = 2
SECONDS_BETWEEN_LINES = 60
# Threads that wait sleep instead of spinning, which matters wherever two processes share the cores.
QUIET_THREADS = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}
PARTS = ("lint", "check", "host", "torch", "release", "all")
# What goes through all families of a host, in a process of its own: a model is built and run once for all of it.
FAMILIES = (
    "host/test_families.py host/test_family_batches.py host/test_family_precisions.py host/test_modal_factors.py "
    "host/test_painted_mask.py::test_every_family_is_painted_or_says_that_it_cannot_be "
    "host/test_painted_mask.py::test_the_tokens_of_every_family_go_along_the_rows_of_the_picture "
    "host/test_unverified.py::test_the_sites_of_known_families_would_be_found_too"
)
# The test bed is drawn in the newest ComfyUI, with nodes that the oldest does not have.
TEST_BED = "host/test_testbed_arms.py host/test_testbed_dit.py host/test_testbed_dit_arms.py"
# Run with every older PyTorch: the method, and what compiles models.
WITH_OLDER_TORCH = (
    "core host/test_compile.py host/test_other_modules.py host/test_attention_calls.py "
    "with_diffusers/test_execution.py::test_a_compiled_model_is_one_graph_and_follows_gamma "
    "with_diffusers/test_execution.py::test_blocks_that_are_compiled_share_their_graphs_and_follow_gamma"
)


@dataclass
class Suite:
    """One process that checks something.

    Attributes:
        title: for people.
        command: the program and its arguments, run from the root.
        variables: added to the environment.
        minutes: about how long it takes; the longest suites start first.
        counts: passed, failed and skipped tests, once it is done; empty for a linter.
        share: percent of its tests that are done, where it says so.
        output: all it printed.
        code: its exit code; None while it runs.
    """

    title: str
    command: list[str]
    variables: dict[str, str] = field(default_factory=dict)
    minutes: float = 0.1
    counts: Counter[str] = field(default_factory=Counter)
    share: str = ""
    output: str = ""
    code: int | None = None
    seconds: float = 0.0

    def run(self) -> Suite:
        """Run it to its end, and count its tests."""
        started = time.monotonic()
        process = subprocess.Popen(
            self.command,
            cwd=ROOT,
            env={**os.environ, **QUIET_THREADS, **self.variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            self._read(line)
        self.output, self.code = "".join(lines), process.wait()
        self.seconds = time.monotonic() - started
        return self

    def _read(self, line: str) -> None:
        """Take progress and counts from one line of pytest or of node."""
        for share in SHARE.findall(line):
            self.share = f" {share} %"
        if " in " in line and COUNTS.search(line):  # pytest's last line
            self.counts.clear()
            for count, kind in COUNTS.findall(line):
                self.counts["failed" if kind.startswith("error") else kind] += int(count)
        for kind, count in NODE_COUNTS.findall(line.rstrip()):
            self.counts[{"pass": "passed", "fail": "failed"}.get(kind, kind)] += int(count)


def lint(python: str) -> Iterator[Suite]:
    """Yield the suites of linters: style, format and types, of Python and of the web files."""
    yield Suite("lint", [python, "-m", "ruff", "check", "."])
    yield Suite("format", [python, "-m", "ruff", "format", "--check", "."])
    if shutil.which("node") is None:
        print("WARNING: no node, so the web files were not tested; install Node.js 20.19 or newer.", flush=True)
        return
    tests = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "tests" / "web").glob("*.mjs"))
    yield Suite("web", ["node", "--test", "--test-reporter=tap", *tests])
    compiler = typescript()
    if compiler is not None:
        yield Suite("web types", [str(compiler), "-p", "lab/tsconfig.json"])


@contextmanager
def type_check(python: str) -> Iterator[Suite]:
    """Give the suite of mypy, which sees the pack as the package that it is inside ComfyUI."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "symmetric_attention").symlink_to(ROOT, target_is_directory=True)
        command = [python, "-m", "mypy", "--config-file", "pyproject.toml"]
        for package in ("sad_core", "demo_model", "nodes", "tests"):
            command += ["-p", f"symmetric_attention.{package}"]
        command += ["-p", "lab"]
        yield Suite("types", command, {"MYPYPATH": folder}, minutes=1.3)


@dataclass(frozen=True)
class Hosts:
    """Folders of what the tests run in; None where it is not to be had or not wanted.

    Attributes:
        newest: the ComfyUI that the pack is made for.
        oldest: the oldest that it supports.
        newer: one after the newest, which calls itself by the same version.
        front_end: a front end newer than that of the newest.
    """

    newest: Path | None
    oldest: Path | None = None
    newer: Path | None = None
    front_end: Path | None = None


def tests(python: str, part: str, hosts: Hosts) -> Iterator[Suite]:
    """Yield the suites of pytest that belong to a part."""

    def suite(
        title: str, minutes: float, paths: str, without: str = "", but: str = "long", in_all: str = "", **variables: str
    ) -> Suite:
        """Leave out what is marked by `but`, in the part "all" by `in_all`."""
        marked = in_all if part == "all" else but
        chosen = ["-m", f"not ({marked})"] if marked else []
        chosen += [f"--deselect={path}" if "::" in path else f"--ignore=tests/{path}" for path in without.split()]
        chosen += [f"tests/{path}" for path in paths.split()]
        return Suite(title, [python, "-m", "pytest", "-c", "tests/pytest.ini", *chosen], variables, minutes)

    # A path where no ComfyUI is makes the tests of a missing host show up as skipped.
    on_newest, on_oldest, on_newer = (
        {"COMFYUI_PATH": str(getattr(hosts, name) or f"no-{name}-ComfyUI"), "SAD_ATTENTION": "pytorch"}
        for name in ("newest", "oldest", "newer")
    )
    if part in ("lint", "torch"):
        return
    if part != "host":
        yield suite("core", 1, "core")
        yield suite("stability, evaluation, release", 0.6, "stability evaluation release")
        yield suite("fused kernel", 0.6, "kernels")  # by itself, because Triton is interpreted there
    if part != "check":
        yield suite("newest host: the families", 3, FAMILIES, **on_newest)
        yield suite("newest host: all else", 6, "host", FAMILIES, **on_newest)
    if part in ("release", "all"):
        yield suite("demo, evidence and test bed", 2, "demo evidence testbed")
        yield suite("diffusers", 1, "with_diffusers")
        yield suite("server, newest", 2, "server", **on_newest)
        yield suite("browser", 10, "browser", **on_newest)
        yield suite("oldest host", 5, "host", TEST_BED, but="long or newest", **on_oldest)
        yield suite("server, oldest", 2, "server", but="long or newest", **on_oldest)
    if part == "all":
        yield suite("newest host, sub-quadratic attention", 10, "host", **{**on_newest, "SAD_ATTENTION": "sub_quad"})
        # Its requirements are those of the newest, but for the front end.
        yield suite("newer host", 5, "host", in_all="long or newest", **on_newer)
        yield suite("server, newer", 2, "server", in_all="long or newest", **on_newer)
        front_end = str(hosts.front_end or "no-newer-front-end")
        yield suite("browser, newer host and front end", 10, "browser", **on_newer, COMFYUI_FRONT_END_PATH=front_end)


def tests_with_torch(torch: str, newest: Path | None) -> Suite:
    """Give the suite of pytest for an older PyTorch, whose environment is made first where it is missing."""
    python = str(environment("test", newest, torch))
    variables = {"SAD_ATTENTION": "pytorch", "COMFYUI_PATH": str(newest or "no-newest-ComfyUI")}
    paths = [f"tests/{each}" for each in WITH_OLDER_TORCH.split()]
    return Suite(f"PyTorch {torch}", [python, "-m", "pytest", "-c", "tests/pytest.ini", *paths], variables, 6)


def run_all(suites: Sequence[Suite], workers: int) -> None:
    """Run the suites, the longest first, and print the output of each when it is done."""
    running: list[Suite] = []

    def started(suite: Suite) -> Suite:
        running.append(suite)
        try:
            return suite.run()
        finally:
            running.remove(suite)

    with ThreadPoolExecutor(workers) as pool, say_every(SECONDS_BETWEEN_LINES, lambda: progress(running)):
        ordered = sorted(suites, key=lambda suite: -suite.minutes)
        for done in as_completed([pool.submit(started, suite) for suite in ordered]):
            suite = done.result()
            state = "ok" if suite.code == 0 else f"FAILED ({suite.code})"
            print(f"\n=== {suite.title}: {state}, {suite.seconds:.0f} s\n{suite.output}", flush=True)


def progress(running: Sequence[Suite]) -> str:
    """Return which suites are running, and how far they are."""
    return "running: " + "; ".join(f"{suite.title}{suite.share}" for suite in running)


@contextmanager
def say_every(seconds: float, words: Callable[[], str]) -> Iterator[None]:
    """Print `words` every so many seconds while the block runs."""
    done = threading.Event()

    def talk() -> None:
        while not done.wait(seconds):
            print(words(), flush=True)

    thread = threading.Thread(target=talk, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", choices=PARTS, default="release", help="what to run (default: release)")
    parser.add_argument("--torch", choices=OLDER_TORCH, help="the PyTorch of the part torch (default: all of them)")
    parser.add_argument("--workers", type=int, default=WORKERS, help="processes at a time (default: 2)")
    arguments = parser.parse_args()
    started = time.monotonic()
    hosts = hosts_for(arguments.part)
    wanted = [arguments.torch] if arguments.torch else list(OLDER_TORCH)
    older = [tests_with_torch(each, hosts.newest) for each in wanted] if arguments.part in ("torch", "all") else []
    python = str(environment("test", hosts.newest))
    suites = [*tests(python, arguments.part, hosts), *older]
    if arguments.part in ("host", "torch"):
        run_all(suites, arguments.workers)
    else:
        with type_check(python) as types:
            suites += [*lint(python), types]
            run_all(suites, arguments.workers)
    for what, variable in missing(arguments.part, hosts):
        print(f"\nWARNING: no {what} to be had; its tests were skipped and prove nothing.")
        print(f"Set {variable} to the folder of one.")
    return summarise(suites, time.monotonic() - started)


def hosts_for(part: str) -> Hosts:
    """Find what the tests of a part run in."""
    return Hosts(
        find_host(),
        find_oldest_host() if part in ("release", "all") else None,
        find_newer_host() if part == "all" else None,
        find_front_end() if part == "all" else None,
    )


def missing(part: str, hosts: Hosts) -> Iterator[tuple[str, str]]:
    """Yield each thing that the tests of a part need and that is not there, and the variable that names it."""
    needed = {
        "newest": ("ComfyUI as the newest host", "COMFYUI_PATH"),
        "oldest": ("ComfyUI as the oldest host", "COMFYUI_OLDEST_PATH"),
        "newer": ("ComfyUI after the newest host", "COMFYUI_NEWER_PATH"),
        "front_end": ("newer front end", "COMFYUI_FRONT_END_PATH"),
    }
    of_part = {"lint": 0, "check": 0, "host": 1, "torch": 1, "release": 2, "all": 4}[part]
    yield from (told for name, told in list(needed.items())[:of_part] if getattr(hosts, name) is None)


def summarise(suites: Sequence[Suite], seconds: float) -> int:
    """Print what failed and how many tests ran; return the exit code."""
    failures = [suite.title for suite in suites if suite.code]
    if failures:
        print(f"\nfailed: {', '.join(failures)}")
    totals = sum((suite.counts for suite in suites), Counter[str]())
    share = (totals["passed"] + totals["failed"]) / max(1, totals.total())
    print(f"{share:.0%} of the tests ran, in {seconds / 60:.1f} min")
    print(f"{totals['passed']} passed, {totals['failed']} failed, {totals['skipped']} skipped")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
