#!/usr/bin/env python3
"""Make (or find) the virtual environment a command needs and print the path of its Python.

    python3 -m lab.environment demo
    python3 -m lab.environment evidence
    python3 -m lab.environment test
    python3 -m lab.environment test --host ~/ComfyUI --torch 2.8.0

The tests' environment also holds what the ComfyUI requires that they will run in (lab/testing/hosts.py finds it).

An environment is kept under the user's cache folder, named by a hash of this Python's version and of every requirement
that goes into it: unchanged requirements reuse it, changed ones make a new one, an interrupted install is made again.
Needs only the standard library.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

from lab.folders import ROOT, cache_folder, expand_path
from lab.installing import install
from lab.testing.hosts import find_host

REQUIREMENTS = ROOT / "lab" / "requirements"
PINNED_BY_US = {"torch", "torchvision", "torchaudio"}
# Older PyTorch that users have, with the torchvision and the torchaudio that belong to it.
OLDER_TORCH = {"2.11.0": ("0.26.0", "2.11.0"), "2.8.0": ("0.23.0", "2.8.0")}
TYPESCRIPT = "5.9.3"
SECONDS_FOR_NPM = 120


def host_requirements(host: Path) -> list[str]:
    """The lines of a ComfyUI's requirements.txt that we do not already pin: all but the torch family."""
    return lines_without_torch(host / "requirements.txt")


def lines_without_torch(file: Path) -> list[str]:
    """The requirements in a file, all but the torch family."""
    lines = file.read_text(encoding="utf-8").splitlines()
    wanted = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    return [line for line in wanted if re.split(r"[^\w-]", line, maxsplit=1)[0].lower() not in PINNED_BY_US]


def install_steps(name: str, host: Path | None, torch: str | None = None) -> list[list[str]]:
    """The pip arguments, one list per call, that turn an empty environment into the one called `name`.

    Args:
        torch: one of `OLDER_TORCH`, in place of the PyTorch that the requirements name.
    """
    if torch is not None:
        torchvision, torchaudio = OLDER_TORCH[torch]
        family = [f"torch=={torch}", f"torchvision=={torchvision}"]
        steps = [family + lines_without_torch(REQUIREMENTS / f"{name}.txt"), ["--no-deps", f"torchaudio=={torchaudio}"]]
    else:
        steps = [["-r", str(REQUIREMENTS / f"{name}.txt")]]
        if (REQUIREMENTS / f"{name}-no-deps.txt").exists():
            steps.append(["--no-deps", "-r", str(REQUIREMENTS / f"{name}-no-deps.txt")])
    if host is not None:
        steps.append(host_requirements(host))
    return steps


def fingerprint(steps: list[list[str]]) -> str:
    """A short hash of the Python version and of everything the steps install."""
    digest = hashlib.sha256(sys.version.encode())
    for step in steps:
        for word in step:
            is_file = word.startswith(str(REQUIREMENTS))
            digest.update(Path(word).read_bytes() if is_file else word.encode())
    return digest.hexdigest()[:12]


def environment(name: str, host: Path | None = None, torch: str | None = None) -> Path:
    """The Python of the environment called `name`, made first when it is not there yet.

    Args:
        host: a ComfyUI whose requirements are installed too.
        torch: one of `OLDER_TORCH`, in place of the PyTorch that the requirements name.
    """
    steps = install_steps(name, host, torch)
    folder = cache_folder() / f"{name}-{fingerprint(steps)}"
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    finished = folder / ".finished"
    if finished.exists():
        return python
    print(f"Making the environment {folder}, once: 1 to 8 GB, a few minutes.", file=sys.stderr)
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=True)
    for step in steps:
        install([str(python), "-m", "pip", "install", *step])
    finished.touch()
    return python


def typescript() -> Path | None:
    """Return TypeScript's compiler, installed with npm the first time; None where that fails, with a reason."""
    folder = cache_folder() / f"typescript-{TYPESCRIPT}"
    compiler = folder / "node_modules" / ".bin" / ("tsc.cmd" if os.name == "nt" else "tsc")
    if compiler.exists():
        return compiler
    npm = shutil.which("npm")
    if npm is None:
        print("WARNING: no npm, so the types of the web files were not checked.", file=sys.stderr)
        return None
    folder.mkdir(parents=True, exist_ok=True)
    quiet = ["--silent", "--no-audit", "--no-fund"]
    command = [npm, "install", *quiet, "--prefix", str(folder), f"typescript@{TYPESCRIPT}"]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=SECONDS_FOR_NPM)
    except (OSError, subprocess.SubprocessError) as error:
        print(f"WARNING: npm could not install TypeScript ({error}), so no types of web files.", file=sys.stderr)
        return None
    return compiler


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=["demo", "evidence", "test"])
    parser.add_argument(
        "--host", type=expand_path, help="a ComfyUI folder whose requirements are installed too; found for the tests"
    )
    parser.add_argument("--torch", choices=OLDER_TORCH, help="an older PyTorch in place of the one that is pinned")
    arguments = parser.parse_args()
    host = find_host() if arguments.name == "test" and arguments.host is None else arguments.host
    print(environment(arguments.name, host, arguments.torch))


if __name__ == "__main__":
    main()
