"""Everything behind docs/evidence.md, from the committed weights.

    python -m lab.testbed.evidence              # the headline: twelve settings of the UNet, 2,000 seeds; an hour
    python -m lab.testbed.evidence --all        # all settings of all networks; thirty hours of two cores
    python -m lab.testbed.evidence --short      # a minute: forty seeds of four settings against the committed numbers

Every form may be stopped and goes on from there. The headline says how far each setting is from the committed numbers
and writes nothing but samples. `--all` writes the numbers and the pages.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from lab.evidence.bootstrap import Estimate
from lab.folders import ROOT, expand_path
from lab.testbed.arms import Arm
from lab.testbed.data import add_data_option, download
from lab.testbed.draw import COUNT, FOLDER, Source, draw
from lab.testbed.features import Eyes
from lab.testbed.gates import CHOICE_COUNT, FIRST_CHOICE_SEED
from lab.testbed.measured import Reference, measure_arms
from lab.testbed.networks import NETWORKS, weights_of
from lab.testbed.scores import DIVERSITY, FIDELITY
from lab.testbed.slices import LARGEST_DIFFERENCE, SLICE_SEEDS, SLICED, difference, slice_of
from lab.testing.hosts import find_host

HEADLINE = (
    *("plain model", "γ 0.5", "γ 0.8", "γ 1.2", "γ 1.5", "γ 2", "γ, β 3 1.05", "γ, β 3 1.5"),
    *("CFG 2", "CFG 3", "CFG off at first 0.2", "temperature of attention 1.2"),
)


def named(names: Sequence[str]) -> list[Arm]:
    """Arms of the UNet by name."""
    by_name = {arm.name: arm for arm in NETWORKS["unet"].arms}
    return [by_name[name] for name in names]


def host_folder() -> Path:
    """The ComfyUI that arms are drawn in; ends the command where there is none."""
    host = find_host()
    if host is None:
        raise SystemExit("The arms are drawn in a ComfyUI, and none was found. Name its folder in COMFYUI_PATH.")
    return host


def committed() -> dict[str, Any]:
    """The numbers of the UNet in the repository; ends the command where there are none."""
    path = NETWORKS["unet"].numbers
    if not path.exists():
        raise SystemExit(f"{path.name} is not there. Write it with lab.testbed.results.")
    numbers: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return numbers


def drawn_slice(folder: Path, processes: int) -> dict[str, Tensor]:
    """The pixels of the first seeds of some arms, drawn now."""
    source = Source(folder=folder)
    draw(source, named(SLICED), SLICE_SEEDS, host_folder(), processes)
    return {arm.name: load_file(source.file(arm))["pixels"] for arm in named(SLICED)}


def check_slice(processes: int = 1) -> int:
    """Draw the slice anew and say how far it is from the committed one; the exit code."""
    numbers = committed()
    with tempfile.TemporaryDirectory() as folder:
        found = difference(slice_of(drawn_slice(Path(folder), processes), Eyes()), numbers["slice"])
    agrees = found <= LARGEST_DIFFERENCE
    print(f"The slice differs from the committed numbers by {found:.2%}: {'it agrees' if agrees else 'TOO FAR'}.")
    return 0 if agrees else 1


def check_headline(data: Path, folder: Path, processes: int) -> int:
    """Draw and measure the headline, and say how far it is from the committed numbers; the exit code."""
    numbers, arms, source = committed(), named(HEADLINE), Source(folder=folder)
    draw(source, arms, COUNT, host_folder(), processes)
    found = measure_arms(source, arms, Reference(data, "test", COUNT, folder, Eyes()), processes)
    far = [name for name in HEADLINE if not agrees(found[name], numbers["arms"][name]["measures"])]
    print(f"{len(arms) - len(far)} of {len(arms)} settings agree with the committed numbers.")
    return 1 if far else 0


def agrees(found: Mapping[str, Estimate], known: Mapping[str, list[float]]) -> bool:
    """Return whether the leading measures lie in the committed intervals."""
    return all(known[each][1] <= found[each].value <= known[each][2] for each in (FIDELITY, DIVERSITY))


def draw_and_measure_all(data: Path, folder: Path, early: Path | None, processes: int) -> int:
    """Draw and measure every arm of every network that has weights, then write the pages."""
    for network, known in NETWORKS.items():
        if not weights_of(known).exists():
            continue
        given = ["--folder", str(folder), *(["--early", str(early)] if early and network == "unet" else [])]
        for _ in ("first pass", "γ on top of the best rival"):
            for first, count in ((FIRST_CHOICE_SEED, CHOICE_COUNT), (0, COUNT)):
                seeds = ["--first-seed", str(first), "--count", str(count), "--processes", str(processes)]
                run("draw", "--network", network, *given, *seeds)
            run("results", "--network", network, *given, "--data", str(data), "--processes", str(processes))
        run("calls", "--network", network)
    run("pages", *(["--early", str(early)] if early else []))
    return 0


def run(module: str, *options: str) -> None:
    """Run a command of the test bed in a process of its own, so that it reads what the one before has written."""
    subprocess.run([sys.executable, "-m", f"lab.testbed.{module}", *options], cwd=ROOT, check=True)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data_option(parser)
    parser.add_argument("--all", action="store_true", help="every setting of every network, and the pages")
    parser.add_argument("--short", action="store_true", help="only compare a slice with the committed numbers")
    parser.add_argument("--early", type=expand_path, help="an early checkpoint of the UNet, for autoguidance")
    parser.add_argument("--folder", type=expand_path, default=FOLDER, help="where the samples are kept")
    parser.add_argument("--processes", type=int, default=2, help="of one thread each (default 2)")
    options = parser.parse_args(arguments)
    if options.short:
        return check_slice()
    data = options.data or download()
    if options.all:
        return draw_and_measure_all(data, options.folder, options.early, options.processes)
    return check_headline(data, options.folder, options.processes)


if __name__ == "__main__":
    sys.exit(main())
