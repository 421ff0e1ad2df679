"""Plant every fault of the list in a copy of the tree and run the tests that should notice it.

    python -m lab.mutation                     # all of them, two at a time; about half an hour
    python -m lab.mutation --only sad_core     # those in files whose path holds the word
    python -m lab.mutation --check             # only whether every text to replace is there, and there once

A fault that no test notices has survived. Needs a ComfyUI for the faults in `nodes` (see lab/testing/hosts.py); the
result is printed, and kept as JSON with `--json FILE`.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lab.folders import ROOT
from lab.mutation.mutants import MUTANTS, Mutant
from lab.testing.hosts import find_host

WORKERS = 2
SECONDS = 900  # a test run that takes longer has noticed: the fault made something endless


def problems(mutants: Sequence[Mutant]) -> list[str]:
    """Return a sentence for every fault that cannot be planted as written."""
    found = []
    for mutant in mutants:
        path = ROOT / mutant.path
        count = path.read_text(encoding="utf-8").count(mutant.find) if path.exists() else 0
        if count != 1:
            found.append(f"{mutant.path}: {mutant.find!r} is there {count} times, not once")
        found += [f"{mutant.path}: there is no {test}" for test in mutant.tests if not (ROOT / "tests" / test).exists()]
    return found


def copy_tree(folder: Path) -> None:
    """Copy all files that git tracks, or could, to `folder`."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


def is_noticed(mutant: Mutant, tree: Path, host: Path | None) -> bool:
    """Return whether a test fails with the fault planted in `tree`. The tree is restored afterwards.

    Raises:
        RuntimeError: no test ran, so that nothing can be said.
    """
    path = tree / mutant.path
    before = path.read_text(encoding="utf-8")
    path.write_text(before.replace(mutant.find, mutant.replace), encoding="utf-8")
    tests = [f"tests/{test}" for test in mutant.tests]
    command = [sys.executable, "-m", "pytest", "-c", "tests/pytest.ini", "-x", "-q", "-p", "no:cacheprovider", *tests]
    quiet = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "CI": "true", "SAD_ATTENTION": "pytorch"}
    variables = {**os.environ, **quiet, "COMFYUI_PATH": str(host or "no-ComfyUI")}
    try:
        done = subprocess.run(command, cwd=tree, env=variables, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return True
    finally:
        path.write_text(before, encoding="utf-8")
    if done.returncode not in (0, 1, 2):  # 2: the tests could not even be collected
        raise RuntimeError(f"{mutant.path}: pytest ended with {done.returncode}\n{done.stdout[-2000:]}{done.stderr}")
    return done.returncode != 0


def run(mutants: Sequence[Mutant], workers: int, host: Path | None) -> list[bool]:
    """Return for every fault whether it was noticed, and print each as it is known."""
    with tempfile.TemporaryDirectory() as folder:
        trees: queue.Queue[Path] = queue.Queue()
        for number in range(workers):
            copy_tree(Path(folder) / str(number))
            trees.put(Path(folder) / str(number))

        def tried(numbered: tuple[int, Mutant]) -> bool:
            number, mutant = numbered
            tree, started = trees.get(), time.monotonic()
            try:
                noticed = is_noticed(mutant, tree, host)
            finally:
                trees.put(tree)
            word = "noticed " if noticed else "SURVIVED"
            where = f"{number:2} of {len(mutants)}, {time.monotonic() - started:3.0f} s"
            print(f"{word} {where}: {mutant.path}: {mutant.fault}", flush=True)
            return noticed

        with ThreadPoolExecutor(workers) as pool:
            return list(pool.map(tried, enumerate(mutants, start=1)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="WORD", help="only faults in files whose path holds this word")
    parser.add_argument("--check", action="store_true", help="only check that every fault can be planted")
    parser.add_argument("--workers", type=int, default=WORKERS, help="processes at a time (default: 2)")
    parser.add_argument("--json", type=Path, help="a file for the result")
    arguments = parser.parse_args()
    mutants = [mutant for mutant in MUTANTS if arguments.only in mutant.path]
    wrong = problems(mutants)
    if wrong:
        sys.exit("\n".join(wrong))
    if arguments.check:
        print(f"{len(mutants)} faults can be planted")
        return 0
    started, host = time.monotonic(), find_host()
    noticed = run(mutants, arguments.workers, host)
    survivors = [mutant for mutant, is_seen in zip(mutants, noticed, strict=True) if not is_seen]
    minutes = (time.monotonic() - started) / 60
    print(f"{sum(noticed)} of {len(mutants)} faults were noticed, in {minutes:.1f} min")
    if arguments.json:
        rows = [{"path": mutant.path, "fault": mutant.fault} for mutant in survivors]
        result = {"faults": len(mutants), "noticed": sum(noticed), "minutes": round(minutes, 1), "survived": rows}
        arguments.json.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
