"""The commands; see the package. A part whose file is there is not drawn again."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file

from lab.folders import cache_folder, expand_path
from lab.testbed.acting.seeds import BLOCK, PARTS
from lab.testbed.data import add_data_option
from lab.testbed.draw import host_folder
from lab.testbed.shape import MODEL_FILE
from lab.testbed.twin_file import restore
from lab.testing.in_process_host import load_pack, start_host

FOLDER = cache_folder() / "testbed-acting"
LAST_FILES = {"candidates": "candidates", "feedback": "feedback", "slider": "slider", "shift": "shift-altered"}
ACTING = Path(__file__).parents[1] / "acting.json"


def draw(options: argparse.Namespace) -> None:
    """Draw the parts that are missing."""
    start_host(host_folder(), "pytorch", on_cpu=options.device == "cpu")
    load_pack()
    from lab.testbed.acting import parts
    from lab.testbed.acting.batches import Bench, Network, lift_limits

    lift_limits()
    weights = load_file(options.model)
    bench = Bench(Network.of(weights), options.batch)
    options.folder.mkdir(parents=True, exist_ok=True)
    for name in options.parts:
        seeds = PARTS[name].scaled(options.share)
        if (options.folder / f"{LAST_FILES[name]}.npz").exists():
            print(f"{name}: is there", flush=True)
        elif name == "shift":
            twin = load_file(restore())
            parts.timed(name, partial(parts.shift, bench, seeds, options.folder, weights, twin))
        else:
            parts.timed(name, partial(getattr(parts, name), bench, seeds, options.folder))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("action", choices=["draw", "measure"])
    parser.add_argument("--folder", type=expand_path, default=FOLDER, help="where what is drawn is kept")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    drawing = parser.add_argument_group("draw")
    drawing.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    drawing.add_argument("--batch", type=int, default=1600, help=f"samples at a time, a multiple of {BLOCK}")
    drawing.add_argument("--share", type=float, default=1.0, help="of the seeds of each part")
    drawing.add_argument("--model", type=expand_path, default=MODEL_FILE)
    measuring = parser.add_argument_group("measure")
    add_data_option(parser)
    measuring.add_argument("--judges", type=expand_path, default=MODEL_FILE.parent, help="folder of the classifiers")
    measuring.add_argument("--output", type=expand_path, default=ACTING)
    options = parser.parse_args()
    if options.batch % BLOCK or options.batch < BLOCK:
        parser.error(f"--batch: {options.batch} is no multiple of {BLOCK}.")
    torch.set_grad_enabled(False)
    if options.action == "draw":
        draw(options)
    else:
        from lab.testbed.acting.measure import measure

        measure(options.folder, options.parts, options.data, options.judges, options.output)


if __name__ == "__main__":
    main()
