"""Two classifiers of the ten classes, of other widths and seeds, that learned from the training part.

    python -m lab.testbed.judges train                  # train both, about ten minutes on one core
    python -m lab.testbed.judges train --only judge     # train one of them
    python -m lab.testbed.judges test                   # accuracy on the validation and the test part

The *guide* gives the feature space and makes choices. The *judge* gives no features and makes no choice, so nothing
was ever tuned to please it.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from lab.demo.classifier import Classifier, fit, load_classifier, save_classifier
from lab.folders import expand_path
from lab.testbed.data import Garments, add_data_option, divide, download, load_split
from lab.testbed.shape import CLASSES

BATCH = 128
LARGEST_SHIFT = 2  # pixels
CHUNK = 500


@dataclass(frozen=True)
class Design:
    """A classifier's channels after each convolution, the picture's own first, and how it is trained."""

    widths: tuple[int, ...]
    seed: int
    epochs: int

    def build(self) -> Classifier:
        """The classifier with random weights."""
        return Classifier(self.widths, len(CLASSES))


DESIGNS = {
    "guide": Design(widths=(1, 32, 64, 128, 128), seed=1, epochs=7),
    "judge": Design(widths=(1, 24, 48, 96, 192), seed=2, epochs=12),
}


def augment(images: Tensor) -> Tensor:
    """Each picture (N, 1, H, W) mirrored or not by chance, and the batch shifted by up to two pixels."""
    down, right = torch.randint(2 * LARGEST_SHIFT + 1, (2,)).tolist()
    mirrored = images.flip(-1).where(torch.rand(len(images), 1, 1, 1) < 0.5, images)
    height, width = images.shape[-2:]
    return F.pad(mirrored, (LARGEST_SHIFT,) * 4)[..., down : down + height, right : right + width]


def train_judge(name: str, training: Garments, epochs: int | None = None) -> Classifier:
    """The classifier of a design, the same one for the same pictures; `epochs` if not as designed."""
    design = DESIGNS[name]
    epochs = design.epochs if epochs is None else epochs
    torch.manual_seed(design.seed)
    model = design.build()

    def report(epoch: int, loss: float) -> None:
        print(f"{name}: epoch {epoch + 1} of {epochs}, loss {loss:.3f}", flush=True)

    fit(model, training.images(), training.labels, augment, epochs, BATCH, report)
    return model


def judge_file(folder: Path, name: str) -> Path:
    """Return the file of a classifier."""
    return folder / f"{name}.safetensors"


def load_judge(name: str, folder: Path = Path(__file__).parent) -> Classifier:
    """One of DESIGNS, trained."""
    return load_classifier(judge_file(folder, name), DESIGNS[name].build)


@torch.no_grad()
def features_of(model: Classifier, images: Tensor) -> Tensor:
    """Features (N, d) float64, none of them negative, of pictures (N, 1, 28, 28) in [0, 1]."""
    return torch.cat([model.features(chunk) for chunk in images.split(CHUNK)]).double()


@torch.no_grad()
def accuracy(model: Classifier, images: Tensor, labels: Tensor) -> float:
    """The share of pictures (N, 1, 28, 28) whose class (N,) has the highest score."""
    guesses = torch.cat([model(chunk).argmax(dim=-1) for chunk in images.split(CHUNK)])
    return float((guesses == labels).double().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the two classifiers, or test them.")
    parser.add_argument("action", choices=["train", "test"])
    add_data_option(parser)
    parser.add_argument(
        "--folder", type=expand_path, default=Path(__file__).parent, help="where the classifiers' files lie"
    )
    parser.add_argument("--only", choices=list(DESIGNS), help="one of the two (default: both)")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    names = [options.only] if options.only else list(DESIGNS)
    data = options.data or download()
    parts = divide(load_split(data, "training"))
    if options.action == "train":
        for name in names:
            save_classifier(train_judge(name, parts.training), judge_file(options.folder, name))
    for name in names:
        score = partial(accuracy, load_judge(name, options.folder))
        for part, pictures in {"validation": parts.validation, "test": load_split(data, "test")}.items():
            print(f"{name}: {score(pictures.images(), pictures.labels):.2%} of {len(pictures)} {part} pictures")


if __name__ == "__main__":
    main()
