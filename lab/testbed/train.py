"""Train one of the test bed's models. Training may be stopped and resumed at any moment.

    python -m lab.testbed.train --minutes 150 --threads 2 --compile     # on a machine of its own
    python -m lab.testbed.train --until 11:50 --threads 2 --compile     # ends at that time of day, however busy it is
    python -m lab.testbed.train --network dit --minutes 240             # the second architecture, dit.safetensors
    python -m lab.testbed.train --subset 500                            # subset-500.safetensors

Fewer pictures, the same rule: a subset of 500 lies within that of 5,000, which lies within all 55,000.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import torch

from lab.demo.model import LatentModel
from lab.demo.train import Trainer, parse_training_options, train
from lab.demo.whitening import LATENT_DEVIATION, measure_whitening
from lab.testbed.data import add_data_option, divide, download, load_split, pad
from lab.testbed.flow import DEVIATION, FlowModel, FlowTrainer
from lab.testbed.model import STEPS, build_model
from lab.testbed.shape import DIT_FILE, LATENT_CHANNELS, MODEL_FILE

PRIVATE_FOLDER = Path(__file__).with_name(".training")


@dataclass(frozen=True)
class Network:
    """A trained network, the deviation of its latents, and its files."""

    trainer: type[Trainer]
    build: Callable[[], LatentModel]
    deviation: float
    file: Path
    private: Path

    def places(self, subset: int | None) -> tuple[Path, Path]:
        """The file and the folder; what learns from a subset has its own."""
        if subset is None:
            return self.file, self.private
        name = "" if self.file == MODEL_FILE else f"{self.file.stem}-"
        return self.file.with_name(f"{name}subset-{subset}.safetensors"), Path(f"{self.private}-{name}{subset}")


class GarmentTrainer(Trainer):
    """The demo's trainer with small sheets, because a sample of this model takes a while."""

    def draw(self, per_category: int = 4, steps: int = STEPS) -> None:
        super().draw(per_category, steps)


NETWORKS = {
    "unet": Network(GarmentTrainer, build_model, LATENT_DEVIATION, MODEL_FILE, PRIVATE_FOLDER),
    "dit": Network(FlowTrainer, FlowModel, DEVIATION, DIT_FILE, PRIVATE_FOLDER.with_name(".training-dit")),
}


def next_time(clock: str, now: datetime) -> datetime:
    """The next moment at which a clock shows "HH:MM"."""
    wanted = datetime.strptime(clock, "%H:%M")
    today = now.replace(hour=wanted.hour, minute=wanted.minute, second=0, microsecond=0)
    return today if today > now else today + timedelta(days=1)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a model of the test bed, or go on training it.")
    add_data_option(parser)
    parser.add_argument("--network", choices=list(NETWORKS), default="unet")
    parser.add_argument("--minutes", type=float, default=150, help="length of the whole training, over all sessions")
    parser.add_argument("--until", metavar="HH:MM", help="end at this time of day instead of after some minutes")
    parser.add_argument("--subset", type=int, help="train on this many of the training pictures")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    options = parse_training_options(parser, None, None)
    network = NETWORKS[options.network]
    file, private = network.places(options.subset)
    parts = divide(load_split(options.data or download(), "training"), options.subset)
    images = pad(parts.training.images())
    torch.manual_seed(0)
    trainer = network.trainer(
        *measure_whitening(images, LATENT_CHANNELS, network.deviation),
        options.model or file,
        options.private or private,
        options.threads,
        options.compile,
        network=network.build,
        device=options.device,
    )
    latents = trainer.model.encode(images.to(options.device))
    labels = parts.training.labels.to(options.device)
    if options.until:
        ends_at = next_time(options.until, datetime.now()).timestamp()
        budget = trainer.progress.seconds + ends_at - time.time()
        train(trainer, latents, labels, options.batch, budget, ends_at)
    else:
        train(trainer, latents, labels, options.batch, options.minutes * 60)


if __name__ == "__main__":
    main()
