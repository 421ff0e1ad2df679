"""Everything behind docs/evidence.md, from the committed weights.

    python -m lab.testbed.evidence              # the headline: twelve settings of the UNet, 2,000 seeds; an hour
    python -m lab.testbed.evidence --all        # all of it; forty hours of two cores
    python -m lab.testbed.evidence --short      # a minute: forty seeds of four settings against the committed numbers

Every form may be stopped and goes on from there. The headline says how far each setting is from the committed numbers,
prints those of all other settings, and writes nothing but samples. `--all` draws and measures the gates, every setting
of every network, what acting on stability is worth, and the models of fewer images, which it trains. It trains an early
checkpoint too where autoguidance has none. It writes the numbers and the pages.
"""

from __future__ import annotations

import argparse
import json
import shutil
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
from lab.testbed import subsets
from lab.testbed.acting.__main__ import ACTING
from lab.testbed.data import add_data_option, download
from lab.testbed.draw import COUNT, FOLDER, Source, draw, host_folder
from lab.testbed.features import Eyes
from lab.testbed.gates import CHOICE_COUNT, FIRST_CHOICE_SEED
from lab.testbed.measured import Reference, measure_arms
from lab.testbed.networks import NETWORKS, named, weights_of
from lab.testbed.scores import DIVERSITY, FIDELITY
from lab.testbed.shape import MODEL_FILE
from lab.testbed.slices import LARGEST_DIFFERENCE, SLICE_SEEDS, SLICED, difference, slice_of

GATES = {"unet": "gates.json", "dit": "gates-dit.json"}
EARLY_MINUTES = {"unet": 25, "dit": 10}  # of a core: autoguidance needs a checkpoint that is clearly worse
HEADLINE = (
    *("plain model", "γ 0.5", "γ 0.8", "γ 1.2", "γ 1.5", "γ 2", "γ, β 3 1.05", "γ, β 3 1.5"),
    *("CFG 2", "CFG 3", "CFG off at first 0.2", "temperature of attention 1.2"),
)


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
    print(row_by_row(found, numbers["arms"]))
    far = [name for name in HEADLINE if not agrees(found[name], numbers["arms"][name]["measures"])]
    print(f"{len(arms) - len(far)} of {len(arms)} settings agree with the committed numbers.")
    return 1 if far else 0


def row_by_row(found: Mapping[str, Mapping[str, Estimate]], known: Mapping[str, Any]) -> str:
    """A line for each committed setting: its leading measures, after what was found now where that was done."""
    lines = [f"{'':44}{FIDELITY:>34}{DIVERSITY:>34}"]
    for name, row in known.items():
        cells = []
        for measure in (FIDELITY, DIVERSITY):
            value, low, high = row["measures"][measure]
            now = f"{found[name][measure].value:.3f} now, " if name in found else ""
            cells.append(f"{now}{value:.3f} [{low:.3f}, {high:.3f}]")
        lines.append(f"{name:44}" + "".join(f"{cell:>34}" for cell in cells))
    return "\n".join(lines)


def agrees(found: Mapping[str, Estimate], known: Mapping[str, list[float]]) -> bool:
    """Return whether the leading measures lie in the committed intervals."""
    return all(known[each][1] <= found[each].value <= known[each][2] for each in (FIDELITY, DIVERSITY))


def draw_and_measure_all(data: Path, folder: Path, early: Path | None, processes: int) -> int:
    """Draw and measure everything that the pages say, then write them."""
    given = ["--folder", str(folder), "--processes", str(processes)]
    measured = ["--data", str(data)]
    weights: dict[str, list[str]] = {network: [] for network in NETWORKS}
    for network, known in NETWORKS.items():
        if not weights_of(known).exists():
            continue
        if any(arm.away_from_early for arm in known.arms):
            checkpoint = early if early and network == "unet" else folder / f"early-{network}.safetensors"
            if checkpoint != early:  # a training that is finished ends at once
                kept = ["--model", str(checkpoint), "--private", str(folder / f"early-{network}")]
                run("train", "--network", network, "--minutes", str(EARLY_MINUTES[network]), *kept, *measured)
            weights[network] = ["--early", str(checkpoint)]
        if network in GATES:
            gates = ["--model", str(known.file), "--output", str(MODEL_FILE.with_name(GATES[network]))]
            gates += ["--samples", str(folder)]
            run("gates", "--count", "1000", *gates, *measured)
        for _ in ("first pass", "γ on top of the best rival"):
            for first, count in ((FIRST_CHOICE_SEED, CHOICE_COUNT), (0, COUNT)):
                seeds = ["--first-seed", str(first), "--count", str(count)]
                run("draw", "--network", network, *given, *weights[network], *seeds)
            run("results", "--network", network, "--imagenet", "all", *given, *weights[network], *measured)
        run("cost", "--network", network)
    drawn = ["--folder", str(folder / "acting")]
    run("acting", "draw", *drawn)
    run("acting", "measure", *drawn, *measured, "--output", str(folder / ACTING.name))
    shutil.copyfile(folder / ACTING.name, ACTING)
    for size in filter(None, subsets.SIZES):
        run("train", "--subset", str(size), "--minutes", str(subsets.MINUTES), *measured)
    run("subsets", *given, *measured)
    run("pages", *weights["unet"])
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
