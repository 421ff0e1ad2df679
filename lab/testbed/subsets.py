"""Where does γ act on the way from copying to generalising? The same UNet, trained on 500, 5,000 and 55,000 images.

    python -m lab.testbed.train --subset 500 --minutes 70     # and 5000; these weights are made here, not committed
    python -m lab.testbed.subsets                             # draws what is missing, measures, writes subsets.json

A model of few images gives them back. With more it mixes them: new minima that no image was stored in, and that many
seeds fall into (the *spurious states* of arXiv 2505.21777). With enough it draws new images. A sample is called

    a copy      if it lies nearer to one of the model's training images than 99 % of the test images do
    a repeat    if it is no copy, and lies nearer to the sample of another seed than 99 % of the test images lie to
                another test image, among as many of them as there are samples
    new         otherwise

Distances are those of pixels. Shares and all other measures are compared with the unpatched model, seed by seed.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from lab.demo.model import read_metadata
from lab.evidence.bootstrap import Estimate, mean
from lab.folders import cache_folder, expand_path
from lab.testbed.arms import PLAIN, Arm, all_arms
from lab.testbed.data import add_data_option, divide, download, load_split
from lab.testbed.draw import Source, draw
from lab.testbed.evidence import host_folder
from lab.testbed.features import Eyes
from lab.testbed.gates import nearest
from lab.testbed.measured import Reference, measure_arms, real_of
from lab.testbed.model import classes_of
from lab.testbed.results import changes_of, write_numbers
from lab.testbed.scores import as_changes, as_numbers
from lab.testbed.shape import MODEL_FILE
from lab.testbed.train import NETWORKS

SIZES = (500, 5000, None)
ARMS = (
    PLAIN.name,
    *("γ 0", "γ 0.5", "γ 1.5", "γ 2", "γ 3", "γ, first third 0.5"),
    *("temperature of attention 1.5", "CFG 2"),
)
NUMBERS = MODEL_FILE.with_name("subsets.json")
FOLDER = cache_folder() / "testbed-samples"
COUNT = 500
FEW = 0.01  # of the test images lie nearer than a copy or a repeat has to
BATCH = 32  # of the training, for the number of images it saw


def arms() -> tuple[Arm, ...]:
    """The settings that are drawn, the unpatched model first."""
    by_name = {arm.name: arm for arm in all_arms()}
    return tuple(by_name[name] for name in ARMS)


def weights_of(size: int | None, folder: Path) -> Path:
    """The file of the model of so many training images; that of all of them is committed."""
    return MODEL_FILE if size is None else folder / NETWORKS["unet"].places(size)[0].name


def nearest_other(points: Tensor) -> Tensor:
    """Distance of each point (N, d) to the nearest of the others: (N,) float64."""
    apart = torch.cdist(points, points)
    return apart.fill_diagonal_(torch.inf).amin(dim=1).double()


def kinds(samples: Tensor, test: Tensor, training: Tensor) -> dict[str, Tensor]:
    """Which samples are copies and which are repeats: (N,) of 0 and 1 each. No sample is both.

    Args:
        samples: (N, d) pixels.
        test: (N, d) test images, as many.
        training: (M, d) the images that the model has learned from.
    """
    near, among = nearest(samples, training), nearest_other(samples)
    copies = near < nearest(test, training).quantile(FEW)
    repeats = (among < nearest_other(test).quantile(FEW)) & ~copies
    return {"copies": copies.double(), "repeats": repeats.double()}


def shares(samples: Tensor, test: Tensor, training: Tensor, labels: Tensor) -> dict[str, Estimate]:
    """The shares of copies and of repeats among samples (N, d) of classes (N,), with their resamples."""
    return {name: mean(which, labels) for name, which in kinds(samples, test, training).items()}


def numbers_of(source: Source, reference: Reference, training: Tensor, processes: int) -> dict[str, Any]:
    """The rows of one model's settings: its measures, and all changes from the unpatched model.

    Args:
        source: of its samples.
        reference: test images, as many as samples.
        training: (M, d) pixels of what it has learned from.
        processes: for the measures.
    """
    found = measure_arms(source, arms(), reference, processes)
    seeds = source.seeds(reference.count)
    test = real_of(reference).only(slice(reference.count)).images().flatten(1)
    for arm in arms():
        pixels = load_file(source.file(arm))["pixels"][: reference.count].float().flatten(1) / 255
        found[arm.name] = found[arm.name] | shares(pixels, test, training, classes_of(seeds))
    rows: dict[str, Any] = {}
    for arm in arms():
        rows[arm.name] = {"measures": as_numbers(found[arm.name])}
        if arm.name != PLAIN.name:
            changes = changes_of(found[arm.name], found[PLAIN.name])
            rows[arm.name]["changes"] = as_changes(changes, (len(ARMS) - 1) * len(SIZES))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data_option(parser)
    parser.add_argument("--weights", type=expand_path, default=MODEL_FILE.parent, help="folder of the trained subsets")
    parser.add_argument("--folder", type=expand_path, default=FOLDER, help="where samples are kept")
    parser.add_argument("--count", type=int, default=COUNT, help=f"samples of each setting (default {COUNT})")
    parser.add_argument("--processes", type=int, default=2, help="of one thread each (default 2)")
    parser.add_argument("--output", type=expand_path, default=NUMBERS)
    options = parser.parse_args()
    missing = [size for size in SIZES if not weights_of(size, options.weights).exists()]
    if missing:
        names = " and ".join(f"--subset {size}" for size in missing)
        parser.error(f"The model of {missing[0]} images is not there. Train it first: lab.testbed.train {names}.")
    data = options.data or download()
    reference = Reference(data, "test", options.count, options.folder, Eyes())
    sizes = {}
    for size in SIZES:
        file = weights_of(size, options.weights)
        source = Source(file, folder=options.folder)
        draw(source, arms(), options.count, host_folder(), options.processes)
        training = divide(load_split(data, "training"), size).training.images().flatten(1)
        rows = numbers_of(source, reference, training, options.processes)
        seen = int(read_metadata(file)["steps"]) * BATCH
        sizes[str(len(training))] = {"images seen in training": seen, "arms": rows}
    write_numbers(options.output, {"count": options.count, "sizes": sizes})
    print(f"Written: {options.output}")


if __name__ == "__main__":
    main()
