"""A small judge: tells smileys, animals and food apart, having seen only real pictures.

It learns from every picture of the three categories in the package, nine times as many as the demo model knows.

    python -m lab.demo.classifier train        # trains it, writes demo/classifier.safetensors
    python -m lab.demo.classifier judge        # accuracy on held-out pictures and on 500 samples of the demo model

How often it recognises the category that a sample was asked for says how recognisable the samples are.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lab.demo.data import Pictures, add_data_option, download, held_out_by_category, load_pictures
from lab.demo.model import CATEGORIES, MODEL_FILE, load_model
from lab.demo.sampling import sample
from lab.folders import expand_path

CLASSIFIER_FILE = Path(__file__).with_name("classifier.safetensors")
EPOCHS = 150
BATCH = 64
LARGEST_SHIFT = 0.15  # of half the picture
LARGEST_TURN = 15.0  # degrees
LARGEST_ZOOM = 0.15
COLOUR_JITTER = 0.15
LARGEST_NOISE = 0.06


class Classifier(nn.Module):
    """Pictures (N, C, H, W) in [0, 1] to scores (N, categories); the first of `widths` is C."""

    def __init__(self, widths: Sequence[int] = (3, 32, 64, 96, 128), categories: int = len(CATEGORIES)) -> None:
        super().__init__()
        self.stages = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(narrow, wide, 3, padding=1, bias=False), nn.BatchNorm2d(wide), nn.ReLU(), nn.MaxPool2d(2)
                )
                for narrow, wide in pairwise(widths)
            )
        )
        self.dropout = nn.Dropout(0.3)
        self.scores = nn.Linear(widths[-1], categories)

    def features(self, pictures: Tensor) -> Tensor:
        """(N, widths[-1]), what the scores are made of: the last stage, averaged over the picture."""
        last: Tensor = self.stages(pictures * 2 - 1)
        return last.mean(dim=(2, 3))

    def forward(self, pictures: Tensor) -> Tensor:
        """Scores before the softmax."""
        scores: Tensor = self.scores(self.dropout(self.features(pictures)))
        return scores


def move(pictures: Tensor) -> Tensor:
    """Each picture flipped or not, turned, zoomed and shifted a little by chance; what enters at the edges is white."""
    count = len(pictures)
    turn = (torch.rand(count) * 2 - 1) * math.radians(LARGEST_TURN)
    zoom = 1 + (torch.rand(count) * 2 - 1) * LARGEST_ZOOM
    flip = torch.where(torch.rand(count) < 0.5, -1.0, 1.0)
    shift = (torch.rand(count, 2, 1) * 2 - 1) * LARGEST_SHIFT
    rows = [torch.stack([turn.cos() * flip, -turn.sin()], dim=-1), torch.stack([turn.sin() * flip, turn.cos()], dim=-1)]
    matrix = torch.cat([torch.stack(rows, dim=1) * zoom[:, None, None], shift], dim=-1)
    grid = F.affine_grid(matrix, list(pictures.shape), align_corners=False)
    return 1 - F.grid_sample(1 - pictures, grid, align_corners=False)


def spoil(pictures: Tensor) -> Tensor:
    """Each picture with its colours shifted, and by chance blurred and made noisy, as an imperfect sample may be."""
    count = len(pictures)
    contrast = 1 + (torch.rand(count, 3, 1, 1) * 2 - 1) * COLOUR_JITTER
    coloured = 1 - (1 - pictures) * contrast
    blurred = F.avg_pool2d(F.pad(coloured, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    strength = torch.rand(count, 1, 1, 1) * (torch.rand(count, 1, 1, 1) < 0.5)
    noise = torch.randn_like(pictures) * LARGEST_NOISE * torch.rand(count, 1, 1, 1)
    return (coloured.lerp(blurred, strength) + noise).clamp(0, 1)


def train_classifier(pictures: Pictures) -> Classifier:
    """A classifier of these pictures, the same one for the same pictures."""
    torch.manual_seed(0)
    model = Classifier()
    fit(model, pictures.images, pictures.labels, lambda images: spoil(move(images)), EPOCHS, BATCH)
    return model


def fit(
    model: Classifier,
    images: Tensor,
    labels: Tensor,
    augment: Callable[[Tensor], Tensor],
    epochs: int,
    batch: int,
    report: Callable[[int, float], None] = lambda epoch, loss: None,
) -> None:
    """Train a classifier and leave it ready to judge. `report` is called after each epoch with its last loss."""
    model.train()
    steps_an_epoch = math.ceil(len(labels) / batch)
    optimiser = torch.optim.AdamW(model.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=4e-3, total_steps=epochs * steps_an_epoch)
    for epoch in range(epochs):
        for rows in torch.randperm(len(labels)).chunk(steps_an_epoch):
            loss = F.cross_entropy(model(augment(images[rows])), labels[rows], label_smoothing=0.05)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
        report(epoch, loss.item())
    model.eval().requires_grad_(False)


def save_classifier(model: Classifier, path: Path) -> None:
    """Writes the weights in half precision, the counters as they are."""
    tensors = model.state_dict().items()
    save_file({name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in tensors}, path)


def load_classifier(path: Path = CLASSIFIER_FILE, network: Callable[[], Classifier] = Classifier) -> Classifier:
    """The classifier of a file in float32, ready to judge."""
    model = network()
    model.load_state_dict(load_file(path))
    return model.eval().requires_grad_(False)


def hits(model: Classifier, pictures: Tensor, labels: Tensor) -> Tensor:
    """(N,) booleans: whether the category with the highest score is the labelled one."""
    scores: Tensor = model(pictures)
    return scores.argmax(dim=-1) == labels


def summary(title: str, correct: Tensor, labels: Tensor) -> str:
    """One line: the share of hits overall and in each category."""
    parts = [f"{name} {correct[labels == place].float().mean():.1%}" for place, name in enumerate(CATEGORIES)]
    return f"{title}: {correct.float().mean():.1%} of {len(labels)} ({', '.join(parts)})"


def judge(options: argparse.Namespace) -> None:
    """Prints the accuracy on real pictures and on samples of the demo model."""
    classifier = load_classifier()
    for title, pictures in zip(("learned from", "held out"), real_pictures(options), strict=True):
        print(summary(title, hits(classifier, pictures.images, pictures.labels), pictures.labels))
    labels = torch.arange(options.samples) % len(CATEGORIES)
    samples = sample(load_model(options.model), labels, range(options.samples), options.steps, options.guidance)
    title = f"samples ({options.steps} steps, guidance {options.guidance})"
    print(summary(title, hits(classifier, samples, labels), labels))


def real_pictures(options: argparse.Namespace) -> tuple[Pictures, Pictures]:
    """(to learn from, a tenth of each category held out) of all pictures, named by `--data` or downloaded."""
    pictures = load_pictures(options.data or download(), every=True)
    held_out = {name for names in held_out_by_category(pictures).values() for name in names}
    return pictures.only(set(pictures.names) - held_out), pictures.only(held_out)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the judge of the demo model, or let it judge.")
    parser.add_argument("action", choices=["train", "judge"])
    add_data_option(parser)
    parser.add_argument("--model", type=expand_path, default=MODEL_FILE)
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--guidance", type=float, default=2.0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.action == "train":
        save_classifier(train_classifier(real_pictures(options)[0]), CLASSIFIER_FILE)
    else:
        judge(options)


if __name__ == "__main__":
    main()
