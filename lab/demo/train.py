"""Trains the demo model; may be stopped and taken up again at any moment.

    python -m lab.demo.train --minutes 125   # again with the same number to go on after an interruption
    python -m lab.demo.train --minutes 200   # more time: the learning rate rises back to where it then belongs

Every few minutes the averaged (EMA) weights go to demo/model.safetensors in half precision, with the steps and the
minutes they took. That file alone is enough to go on. A full checkpoint with the optimiser in demo/.training/ is used
instead when it is there and is not older.
"""

from __future__ import annotations

import argparse
import math
import os
import signal
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor

from lab.demo.contact_sheet import draw_samples
from lab.demo.data import add_data_option, download, load_pictures, split
from lab.demo.latent import LATENT_DEVIATION, measure_whitening
from lab.demo.model import MODEL_FILE, NO_CATEGORY, DemoModel, load_model, read_metadata, save_model
from lab.demo.sampling import TRAINING_TIMESTEPS, make_scheduler
from lab.folders import expand_path

PRIVATE_FOLDER = Path(__file__).with_name(".training")
CATEGORY_DROPOUT = 0.12
WARM_UP_STEPS = 200
PEAK_LEARNING_RATE = 1e-3
AVERAGE_DECAY = 0.999
GRADIENT_LIMIT = 1.0
LOSS_MEMORY = 0.99
NOISY_SHARE = 0.65  # timesteps are u to this power; 1 is uniform, less means noisier


@dataclass
class Progress:
    """How far training has come over all sessions; `loss` is a running mean of the unweighted velocity error."""

    steps: int = 0
    seconds: float = 0.0
    loss: float = 1.0

    def metadata(self) -> dict[str, str]:
        """As .safetensors metadata, which holds text only."""
        return {name: str(value) for name, value in asdict(self).items()}

    @staticmethod
    def from_metadata(metadata: Mapping[str, str]) -> Progress:
        """Undoes `metadata`."""
        return Progress(int(metadata["steps"]), float(metadata["seconds"]), float(metadata["loss"]))


def learning_rate(fraction: float, steps_this_session: int) -> float:
    """Half a cosine over the whole budget (`fraction` of its time, 0...1), and a short rise at each session's start."""
    rise = min(1.0, (steps_this_session + 1) / WARM_UP_STEPS)
    return PEAK_LEARNING_RATE * rise * 0.5 * (1 + math.cos(math.pi * min(1.0, fraction)))


def average_decay(steps: int) -> float:
    """Weight of the past in the averaged weights: short at first, so that the random start is soon forgotten."""
    return min(AVERAGE_DECAY, (1 + steps) / (10 + steps))


def spread_timesteps(count: int) -> Tensor:
    """`count` random whole timesteps 0...999, one from each of `count` equally likely parts: steadier than independent.

    More of them are noisy than clean (NOISY_SHARE), because what a picture is going to show is settled there.
    """
    places = (torch.arange(count) + torch.rand(count)) / count
    return (places**NOISY_SHARE * TRAINING_TIMESTEPS).long().clamp_max(TRAINING_TIMESTEPS - 1)


def level_weight(share: Tensor) -> Tensor:
    """Weight of the velocity error at a cumulative alpha (N,), each: one over the variance of the velocity there.

    What the noisy end asks for is large and mostly beyond knowing; unweighted, it drowns what the other end asks for.
    """
    return 1 / (share + LATENT_DEVIATION**2 * (1 - share))


def velocity_error(model: DemoModel, latents: Tensor, labels: Tensor, alphas: Tensor) -> tuple[Tensor, Tensor]:
    """The loss to minimise and the plain mean square error, two scalars, of one batch of latents (N, 12, 16, 16).

    The loss is the error times `level_weight`. `alphas` (1000,) are the cumulative alphas of the schedule. Some
    labels become NO_CATEGORY.
    """
    count = latents.shape[0]
    timesteps = spread_timesteps(count)
    share = alphas[timesteps]
    signal_scale, noise_scale = share.sqrt()[:, None, None, None], (1 - share).sqrt()[:, None, None, None]
    noise = torch.randn_like(latents)
    noisy = signal_scale * latents + noise_scale * noise
    labels = labels.where(torch.rand(count) >= CATEGORY_DROPOUT, NO_CATEGORY)
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):  # the cache is not for several threads
        predicted = model(noisy, timesteps, labels)
    difference = predicted.float() - (signal_scale * noise - noise_scale * latents)
    errors = difference.square().mean(dim=(1, 2, 3))
    return (errors * level_weight(share)).mean(), errors.detach().mean()


class Trainer:
    """The model, its running average, its optimiser, and where they are kept."""

    def __init__(
        self,
        latent_mean: Tensor,
        latent_std: Tensor,
        model_file: Path,
        private_folder: Path,
        threads: int = 1,
        compiled: bool = False,
    ) -> None:
        """Takes up what the files hold, the full checkpoint first, or starts afresh with the given whitening.

        Each of `threads` threads computes the gradient of its own part of a batch. They meet once a step instead of
        once an operation, which keeps them going when other programs want the processor too. `compiled` uses
        torch.compile, which needs a C++ compiler, takes minutes to start and is about a third faster then.
        """
        torch.set_num_threads(1)
        self.threads = threads
        self.pool = ThreadPoolExecutor(threads)
        self.model_file = model_file
        self.checkpoint_file = private_folder / "checkpoint.pt"
        self.sheet_folder = private_folder
        private_folder.mkdir(parents=True, exist_ok=True)
        self.model = DemoModel()
        self.model.latent_mean.copy_(latent_mean)
        self.model.latent_std.copy_(latent_std)
        self.progress = Progress()
        if model_file.exists():
            self.progress = Progress.from_metadata(read_metadata(model_file))
            self.model.load_state_dict(load_model(model_file).state_dict())
        self.average = DemoModel().eval().requires_grad_(False)
        self.average.load_state_dict(self.model.state_dict())
        self.optimiser = torch.optim.AdamW(self.model.parameters(), weight_decay=0.01, fused=True)
        if self.checkpoint_file.exists():
            self.load_checkpoint()
        self.model.unet.set_attn_processor(AttnProcessor())  # on CPUs faster than the fused attention, backwards
        if compiled:
            self.model.unet.compile()  # in place: the names of the weights stay
        self.steps_this_session = 0
        self.seconds_this_session = 0.0

    def load_checkpoint(self) -> None:
        """Takes up the full checkpoint, unless the model file is further on (it came from somewhere else)."""
        state = torch.load(self.checkpoint_file, weights_only=True)
        if state["progress"]["steps"] < self.progress.steps:
            return
        self.progress = Progress(**state["progress"])
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])

    def save(self) -> None:
        """Writes the full checkpoint, then the model file. Each appears whole or not at all."""
        unfinished = self.checkpoint_file.with_suffix(".unfinished")
        state = {
            "progress": asdict(self.progress),
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }
        torch.save(state, unfinished)
        os.replace(unfinished, self.checkpoint_file)
        save_model(self.average, self.model_file, self.progress.metadata())

    def draw(self) -> None:
        """Writes a sheet of samples of the averaged model beside the checkpoint."""
        draw_samples(self.average, self.sheet_folder / f"samples-{self.progress.steps:06}.png", per_category=8)

    def set_gradients(self, latents: Tensor, labels: Tensor, alphas: Tensor) -> float:
        """Gives every weight the mean of the threads' gradients; answers the plain mean square error."""
        weights = list(self.model.parameters())

        def one_part(part: tuple[Tensor, Tensor]) -> tuple[tuple[Tensor, ...], float]:
            loss, plain_error = velocity_error(self.model, *part, alphas)
            return torch.autograd.grad(loss, weights), plain_error.item()

        parts = zip(latents.chunk(self.threads), labels.chunk(self.threads), strict=True)
        gradients, plain_errors = zip(*self.pool.map(one_part, parts), strict=True)
        for weight, *parts_of_gradient in zip(weights, *gradients, strict=True):
            weight.grad = torch.stack(parts_of_gradient).mean(dim=0)
        mean: float = sum(plain_errors) / len(plain_errors)
        return mean

    def step(self, latents: Tensor, labels: Tensor, alphas: Tensor, budget_seconds: float) -> None:
        """One step on one batch; keeps the books of steps, time and loss."""
        started = time.monotonic()
        rate = learning_rate(self.progress.seconds / budget_seconds, self.steps_this_session)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        plain_error = self.set_gradients(latents, labels, alphas)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), GRADIENT_LIMIT)
        self.optimiser.step()
        decay = average_decay(self.progress.steps)
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.model.parameters()), 1 - decay)
        memory = min(LOSS_MEMORY, decay)
        self.progress.loss = memory * self.progress.loss + (1 - memory) * plain_error
        self.progress.steps += 1
        self.steps_this_session += 1
        spent = time.monotonic() - started
        self.progress.seconds += spent
        self.seconds_this_session += spent

    def line(self, batch: int, budget_seconds: float) -> str:
        """One line on how it goes."""
        progress = self.progress
        speed = batch * self.steps_this_session / max(self.seconds_this_session, 1e-9)
        left = max(0.0, budget_seconds - progress.seconds) / 60
        return f"step {progress.steps:6}  loss {progress.loss:.4f}  {speed:5.1f} images/s  {left:5.1f} min left"


class Stop:
    """Inside a `with` block, becomes true once Ctrl-C or a polite kill arrives, so that training ends between steps."""

    def __init__(self) -> None:
        self.asked = False
        self.handlers_before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Stop:
        for name in (signal.SIGINT, signal.SIGTERM):
            self.handlers_before[name] = signal.signal(name, self.ask)
        return self

    def __exit__(self, *_: object) -> None:
        for name, handler in self.handlers_before.items():
            signal.signal(name, handler)

    def ask(self, *_: object) -> None:
        """The signal handler."""
        self.asked = True

    def __bool__(self) -> bool:
        return self.asked


class Every:
    """Says yes once every so many seconds."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.last = time.monotonic()

    def due(self) -> bool:
        """Whether the time has come; asking starts the next wait."""
        now = time.monotonic()
        if now - self.last < self.seconds:
            return False
        self.last = now
        return True


def train(trainer: Trainer, latents: Tensor, labels: Tensor, batch: int, budget_seconds: float) -> None:
    """Steps on random batches of latents (N, 12, 16, 16) until the budget is spent or somebody stops it; then saves."""
    alphas = make_scheduler(steps=1).alphas_cumprod
    report, save, draw = Every(20), Every(180), Every(900)
    torch.manual_seed(trainer.progress.steps)
    with Stop() as stop:
        while trainer.progress.seconds < budget_seconds and not stop:
            rows = torch.randint(len(latents), (batch,))
            trainer.step(latents[rows], labels[rows], alphas, budget_seconds)
            if report.due():
                print(trainer.line(batch, budget_seconds), flush=True)
            if save.due():
                trainer.save()
            if draw.due():
                trainer.draw()
        trainer.save()
    trainer.draw()
    print(trainer.line(batch, budget_seconds), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the demo model, or go on training it.")
    add_data_option(parser)
    parser.add_argument("--minutes", type=float, default=125, help="length of the whole training, over all sessions")
    parser.add_argument("--batch", type=int, default=32, help="pictures a step")
    parser.add_argument("--threads", type=int, default=1, help="parts of a batch computed side by side")
    parser.add_argument("--compile", action="store_true", help="use torch.compile (needs a C++ compiler)")
    parser.add_argument("--model", type=expand_path, default=MODEL_FILE)
    parser.add_argument(
        "--private", type=expand_path, default=PRIVATE_FOLDER, help="folder of checkpoint and sample sheets"
    )
    options = parser.parse_args()
    if options.batch % options.threads:
        parser.error(f"--batch {options.batch} cannot be shared out evenly among --threads {options.threads}")
    trained_on, _ = split(load_pictures(options.data or download()))
    whitening = measure_whitening(trained_on.images)
    trainer = Trainer(*whitening, options.model, options.private, options.threads, options.compile)
    latents = trainer.model.encode(trained_on.images)
    train(trainer, latents, trained_on.labels, options.batch, options.minutes * 60)


if __name__ == "__main__":
    main()
