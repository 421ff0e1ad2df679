"""γ on the way from copying to generalising: the same UNet, trained on 100, 500, 5,000 and 55,000 images.

    python -m lab.testbed.train --subset 100 --minutes 70     # and 500, 5000; these weights are made, not committed
    python -m lab.testbed.subsets                             # draws what is missing, measures, writes subsets.json

A model of few images gives them back. With more it mixes them: new minima that no image was stored in, and that many
seeds fall into (the *spurious states* of arXiv 2505.21777). With enough it draws new images. The model of 100 images
was added later, because that of 500 copies hardly any. Distances are those of pixels, and each class has limits of its
own, because trousers are alike and bags are not:

    copy      a sample nearer to one of the model's training images than 99 % of the test images of its class are
    repeat    a sample nearer to that of another seed than 99 % of the test images of its class lie to another test
              image, among as many of them as there are samples. It may be a copy too

Whether a sample is a copy is a number of that sample. A change of the share is judged by the seeds that became copies
and those that ceased to be (McNemar's exact test as an interval). Repeats are a property of the set, so they are
counted on random halves (lab/evidence/bootstrap.py).
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from scipy.stats import binomtest
from torch import Tensor

from lab.demo.model import read_metadata
from lab.evidence.bootstrap import CONFIDENCE, Estimate, of_set
from lab.folders import expand_path
from lab.testbed.arms import PLAIN, Arm
from lab.testbed.data import Garments, add_data_option, divide, download, load_split
from lab.testbed.draw import FOLDER, Source, draw, host_folder
from lab.testbed.features import Eyes
from lab.testbed.gates import nearest
from lab.testbed.measured import Reference, measure_arms, real_of
from lab.testbed.model import classes_of
from lab.testbed.networks import named
from lab.testbed.results import changes_of, write_numbers
from lab.testbed.scores import as_changes, as_numbers
from lab.testbed.shape import CLASSES, MODEL_FILE
from lab.testbed.train import NETWORKS

SIZES = (100, 500, 5000, None)
ARMS = (
    PLAIN.name,
    *("γ 0", "γ 0.5", "γ 1.5", "γ 2", "γ 3", "γ, first third 0.5"),
    *("temperature of attention 0.7", "temperature of attention 1.5", "CFG 2"),
)
MANY = 2 * (len(ARMS) - 1) * len(SIZES)  # changes that the answer looks at: of copies and of repeats
NUMBERS = MODEL_FILE.with_name("subsets.json")
COUNT = 500
MINUTES = 70  # of a training
FEW = 0.01  # of the test images lie nearer than a copy or a repeat has to


def arms() -> list[Arm]:
    """The settings that are drawn, the unpatched model first."""
    return named(ARMS)


def weights_of(size: int | None, folder: Path) -> Path:
    """The file of the model of so many training images; that of all of them is committed."""
    return MODEL_FILE if size is None else folder / NETWORKS["unet"].places(size)[0].name


def nearest_other(points: Tensor) -> Tensor:
    """Distance of each point (N, d) to the nearest of the others: (N,) float64."""
    apart = torch.cdist(points, points)
    return apart.fill_diagonal_(torch.inf).amin(dim=1).double()


def limits(distances: Tensor, labels: Tensor) -> Tensor:
    """For each class the distance (10,) below which lies a share of FEW of its test images; distances (M,)."""
    return torch.stack([distances[labels == label].quantile(FEW) for label in range(len(CLASSES))])


def copies(samples: Tensor, labels: Tensor, training: Tensor, limit: Tensor) -> Tensor:
    """Return (N,) bool: samples (N, d) of classes (N,) nearer to a training image (M, d) than the limit (10,)."""
    return nearest(samples, training) < limit[labels]


def repeats(samples: Tensor, labels: Tensor, limit: Tensor) -> Estimate:
    """The share of samples (N, d) of classes (N,) that lie nearer to another one than the limit (10,), on halves."""
    apart = torch.cdist(samples, samples).fill_diagonal_(torch.inf)

    def share(rows: Tensor) -> float:
        return float((apart[rows][:, rows].amin(dim=1) < limit[labels[rows]]).double().mean())

    return of_set(share, labels)


def distances_within_blocks(test: Tensor, size: int) -> Tensor:
    """Distance of each test image (M, d) to the nearest other one of its block of `size` images in a row."""
    return torch.cat([nearest_other(block) for block in test.split(size)])


def share_of(which: Tensor) -> list[float]:
    """[share, low, high] of (N,) bool, with the exact interval of Clopper and Pearson."""
    found = binomtest(int(which.sum()), len(which))
    interval = found.proportion_ci(CONFIDENCE)
    return [float(f"{number:.5g}") for number in (found.statistic, interval.low, interval.high)]


def change_of(which: Tensor, before: Tensor, many: int) -> list[float]:
    """[change, low, high, low of many, high of many] of a share, paired by seed; both (N,) bool.

    Given the number of seeds that changed, how many of them came and how many went is a coin's matter where nothing
    happened. The intervals are those of that coin, so they leave out 0 where McNemar's exact test says so.
    """
    came, went = int((which & ~before).sum()), int((before & ~which).sum())
    numbers = [(came - went) / len(which)]
    for confidence in (CONFIDENCE, 1 - (1 - CONFIDENCE) / many):
        low, high = (0.0, 1.0) if came + went == 0 else binomtest(came, came + went).proportion_ci(confidence)
        numbers += [(2 * end - 1) * (came + went) / len(which) for end in (low, high)]
    return [float(f"{number:.5g}") for number in numbers]


@dataclass(frozen=True)
class Model:
    """The samples of one model, what it has learned from, and what decides on copies and repeats.

    Attributes:
        source: of the samples.
        training: (M, d) pixels of its training images.
        copy_limit: (10,) see `limits`.
        repeat_limit: (10,) the same for repeats.
    """

    source: Source
    training: Tensor
    copy_limit: Tensor
    repeat_limit: Tensor


def model_of(source: Source, training: Tensor, test: Garments, count: int) -> Model:
    """The limits for a model whose settings have `count` samples each, from all test images."""
    pixels = test.images().flatten(1)
    of_copies = limits(nearest(pixels, training), test.labels)
    return Model(source, training, of_copies, limits(distances_within_blocks(pixels, count // 2), test.labels))


def numbers_of(model: Model, reference: Reference, processes: int) -> dict[str, Any]:
    """The rows of one model's settings: measures, copies that were kept, lost and new, and all changes.

    Changes are those from the unpatched model, seed by seed, corrected for all settings of all models.
    """
    found = measure_arms(model.source, arms(), reference, processes)
    labels, rows = classes_of(model.source.seeds(reference.count)), {}
    copied: dict[str, Tensor] = {}
    for arm in arms():
        pixels = load_file(model.source.file(arm))["pixels"][: reference.count].float().flatten(1) / 255
        copied[arm.name] = which = copies(pixels, labels, model.training, model.copy_limit)
        measures = dict(found[arm.name]) | {"repeats": repeats(pixels, labels, model.repeat_limit)}
        found[arm.name] = measures
        row: dict[str, Any] = {"measures": as_numbers(measures) | {"copies": share_of(which)}}
        rows[arm.name] = row
        if arm.name != PLAIN.name:
            before = copied[PLAIN.name]
            row["changes"] = as_changes(changes_of(measures, found[PLAIN.name]), MANY)
            row["changes"]["copies"] = change_of(which, before, MANY)
            pairs = {"kept": which & before, "lost": before & ~which, "new": which & ~before}
            row["copies"] = {name: int(each.sum()) for name, each in pairs.items()}
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
        commands = " and ".join(f"lab.testbed.train --subset {size} --minutes {MINUTES}" for size in missing)
        parser.error(f"The models of {', '.join(map(str, missing))} images are not there. Run {commands}.")
    data = options.data or download()
    reference = Reference(data, "test", options.count, options.folder, Eyes())
    sizes = {}
    for size in SIZES:
        file = weights_of(size, options.weights)
        source = Source(file, folder=options.folder)
        draw(source, arms(), options.count, host_folder(), options.processes)
        training = divide(load_split(data, "training"), size).training.images().flatten(1)
        rows = numbers_of(model_of(source, training, real_of(reference), options.count), reference, options.processes)
        sizes[str(len(training))] = {"training steps": int(read_metadata(file)["steps"]), "arms": rows}
    write_numbers(options.output, {"count": options.count, "sizes": sizes})
    print(f"Written: {options.output}")


if __name__ == "__main__":
    main()
