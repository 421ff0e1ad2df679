"""Trains the demo model; may be stopped and taken up again at any moment.

    python -m lab.demo.train --minutes 125   # again with the same number to go on after an interruption
    python -m lab.demo.train --minutes 200   # more time: the learning rate rises back to where it then belongs

Every few minutes the averaged (EMA) weights go to MODEL_FILE in half precision, with the steps and the
minutes they took. That file is enough to continue. A full checkpoint with the optimiser in demo/.training/ is used
instead when it is there and is not older.
"""

from __future__ import annotations

import argparse
import math
import signal
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor

from lab.demo.contact_sheet import draw_samples
from lab.demo.data import add_data_option, download, load_pictures, split
from lab.demo.model import MODEL_FILE, NO_CATEGORY, DemoModel, LatentModel, load_as, read_metadata, save_model
from lab.demo.sampling import TRAINING_TIMESTEPS, make_scheduler
from lab.demo.whitening import LATENT_DEVIATION, measure_whitening
from lab.folders import expand_path
from sad_core.whole_file import whole_file

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
    """The progress of training over all sessions. `loss` is a running mean of the unweighted velocity error."""

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


def learning_rate(fraction: float, optimiser_steps: int) -> float:
    """Half a cosine over the whole budget (`fraction` of its time, 0...1), and a short rise for a fresh optimiser."""
    rise = min(1.0, (optimiser_steps + 1) / WARM_UP_STEPS)
    return PEAK_LEARNING_RATE * rise * 0.5 * (1 + math.cos(math.pi * min(1.0, fraction)))


def average_decay(steps: int) -> float:
    """Weight of the past in the averaged weights: short at first, so that the random start is soon forgotten."""
    return min(AVERAGE_DECAY, (1 + steps) / (10 + steps))


def spread(count: int, generator: torch.Generator | None = None) -> Tensor:
    """`count` random numbers in 0...1, one from each of `count` equal parts: steadier than independent."""
    return (torch.arange(count) + torch.rand(count, generator=generator)) / count


def spread_timesteps(count: int, generator: torch.Generator | None = None) -> Tensor:
    """`count` random whole timesteps 0...999, spread out.

    More of them are noisy than clean (NOISY_SHARE), because what a picture is going to show is settled there.
    """
    places = spread(count, generator)
    return (places**NOISY_SHARE * TRAINING_TIMESTEPS).long().clamp_max(TRAINING_TIMESTEPS - 1)


def level_weight(share: Tensor) -> Tensor:
    """Weight of the velocity error at a cumulative alpha (N,), each: one over the variance of the velocity there.

    What the noisy end asks for is large and mostly beyond knowing; unweighted, it drowns what the other end asks for.
    """
    return 1 / (share + LATENT_DEVIATION**2 * (1 - share))


def has_bfloat16(device: str) -> bool:
    """Tell whether a device computes in bfloat16 by itself; CPUs that do not are many times slower in it."""
    return device != "cpu" or torch.cpu.get_capabilities().get("avx512_bf16", False)


def bfloat16_where_fast(device: torch.device) -> torch.autocast:
    """A context in which matrices are multiplied in bfloat16 on devices that have it."""
    enabled = has_bfloat16(device.type)
    return torch.autocast(device.type, torch.bfloat16, enabled, cache_enabled=False)  # the cache is for one thread


def velocity_error(
    model: LatentModel, latents: Tensor, labels: Tensor, alphas: Tensor, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """The loss to minimise and the plain mean square error, two scalars, of one batch of latents (N, C, 16, 16).

    The loss is the error times `level_weight`. `alphas` (1000,) are the cumulative alphas of the schedule. Some
    labels become NO_CATEGORY. Random numbers come from a `generator` of the CPU, so they are the same on every device.
    """
    count, device = latents.shape[0], latents.device
    timesteps = spread_timesteps(count, generator).to(device)
    share = alphas[timesteps]
    signal_scale, noise_scale = share.sqrt()[:, None, None, None], (1 - share).sqrt()[:, None, None, None]
    noise = torch.randn(latents.shape, generator=generator).to(device)
    noisy = (signal_scale * latents + noise_scale * noise).contiguous(memory_format=torch.channels_last)
    labels = labels.where(torch.rand(count, generator=generator).to(device) >= CATEGORY_DROPOUT, NO_CATEGORY)
    with bfloat16_where_fast(device):
        predicted = model(noisy, timesteps, labels)
    difference = predicted.float() - (signal_scale * noise - noise_scale * latents)
    errors = difference.square().mean(dim=(1, 2, 3))
    return (errors * level_weight(share)).mean(), errors.detach().mean()


class Trainer:
    """The model, its running average, its optimiser, and where they are kept.

    Attributes:
        share_of_rate: what a subclass multiplies the learning rate by.
    """

    share_of_rate = 1.0

    def __init__(
        self,
        latent_mean: Tensor,
        latent_std: Tensor,
        model_file: Path,
        private_folder: Path,
        threads: int = 1,
        compiled: bool = False,
        network: Callable[[], LatentModel] = DemoModel,
        device: str = "cpu",
    ) -> None:
        """Takes up what the files hold, the full checkpoint first, or starts afresh with the given whitening.

        Each of `threads` threads computes the gradient of its own part of a batch. They meet once a step instead of
        once an operation, which keeps them going when other programs want the processor too. `compiled` uses
        torch.compile, which needs a C++ compiler, takes minutes to start and is about a third faster then. `network`
        makes the model with its random start. A GPU `device` wants one thread.
        """
        torch.set_num_threads(1)
        self.threads = threads
        self.pool = ThreadPoolExecutor(threads)
        self.model_file = model_file
        self.checkpoint_file = private_folder / "checkpoint.pt"
        self.sheet_folder = private_folder
        private_folder.mkdir(parents=True, exist_ok=True)
        self.model = network().to(device)
        self.model.latent_mean.copy_(latent_mean)
        self.model.latent_std.copy_(latent_std)
        self.progress = Progress()
        if model_file.exists():
            self.progress = Progress.from_metadata(read_metadata(model_file))
            self.model.load_state_dict(load_as(network, model_file).state_dict())
        self.average = network().to(device).eval().requires_grad_(False)
        self.average.load_state_dict(self.model.state_dict())
        # Not fused: that reads weights, gradients and moments as if all lay in memory in the same order.
        self.optimiser = torch.optim.AdamW(self.model.parameters(), weight_decay=0.01, foreach=True)
        self.optimiser_steps = 0
        if self.checkpoint_file.exists():
            self.load_checkpoint()
        if isinstance(self.model, DemoModel):  # on CPUs faster than the fused attention, backwards
            self.model.unet.set_attn_processor(AttnProcessor())
        self.model.to(memory_format=torch.channels_last)  # a third faster on CPUs
        if compiled:
            self.model.network.compile()  # in place: the names of the weights stay
        self.steps_this_session = 0
        self.seconds_this_session = 0.0

    def load_checkpoint(self) -> None:
        """Takes up the full checkpoint, unless the model file is further on (it came from somewhere else)."""
        state = torch.load(self.checkpoint_file, weights_only=True, map_location=self.model.latent_mean.device)
        if state["progress"]["steps"] < self.progress.steps:
            return
        self.progress = Progress(**state["progress"])
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        for group in self.optimiser.param_groups:  # older checkpoints ask for the fused one
            group.update(fused=None, foreach=True)
        self.optimiser_steps = state["optimiser_steps"]

    def save(self) -> None:
        """Writes the full checkpoint, then the model file. Each appears whole or not at all."""
        state = {
            "progress": asdict(self.progress),
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "optimiser_steps": self.optimiser_steps,
        }
        with whole_file(self.checkpoint_file) as unfinished:
            torch.save(state, unfinished)
        save_model(self.average, self.model_file, self.progress.metadata())

    def draw(self, per_category: int = 8, steps: int = 25) -> None:
        """Writes a sheet of samples of the averaged model beside the checkpoint."""
        draw_samples(self.average, self.sheet_file, per_category, steps=steps)

    @property
    def sheet_file(self) -> Path:
        """The place for a sheet of samples that are drawn now."""
        return self.sheet_folder / f"samples-{self.progress.steps:06}.png"

    def error(
        self, latents: Tensor, labels: Tensor, alphas: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """The loss and the plain error of a part of a batch, as `velocity_error`. A subclass may learn otherwise."""
        return velocity_error(self.model, latents, labels, alphas, generator)

    def set_gradients(self, latents: Tensor, labels: Tensor, alphas: Tensor) -> float:
        """Gives every weight the mean of the threads' gradients; answers the plain mean square error."""
        weights = list(self.model.parameters())

        def one_part(part: tuple[Tensor, Tensor, torch.Generator]) -> tuple[tuple[Tensor, ...], float]:
            some_latents, some_labels, generator = part
            loss, plain_error = self.error(some_latents, some_labels, alphas, generator)
            return torch.autograd.grad(loss, weights), plain_error.item()

        first_seed = self.progress.steps * self.threads  # one a thread and step, so that going on changes no number
        generators = [torch.Generator().manual_seed(first_seed + thread) for thread in range(self.threads)]
        parts = zip(latents.chunk(self.threads), labels.chunk(self.threads), generators, strict=True)
        gradients, plain_errors = zip(*self.pool.map(one_part, parts), strict=True)
        for weight, *parts_of_gradient in zip(weights, *gradients, strict=True):
            weight.grad = torch.stack(parts_of_gradient).mean(dim=0)
        mean: float = sum(plain_errors) / len(plain_errors)
        return mean

    def step(self, latents: Tensor, labels: Tensor, alphas: Tensor, budget_seconds: float) -> None:
        """One step on one batch; keeps the books of steps, time and loss."""
        started = time.monotonic()
        rate = self.share_of_rate * learning_rate(self.progress.seconds / budget_seconds, self.optimiser_steps)
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
        self.optimiser_steps += 1
        spent = time.monotonic() - started
        self.progress.seconds += spent
        self.seconds_this_session += spent

    def line(self, batch: int, budget_seconds: float) -> str:
        """One line on how it goes."""
        progress = self.progress
        speed = batch * self.steps_this_session / max(self.seconds_this_session, 1e-9)
        left = max(0.0, budget_seconds - progress.seconds) / 60
        return f"step {progress.steps:6}  loss {progress.loss:.4f}  {speed:5.1f} images/s  {left:5.1f} min left"


def batch_rows(count: int, batch: int, step: int) -> Tensor:
    """The (batch,) rows of `count` pictures that a step trains on, the same whenever it is asked."""
    return torch.randint(count, (batch,), generator=torch.Generator().manual_seed(-1 - step))


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
        """Return whether the time has come. If it has, the next wait starts."""
        now = time.monotonic()
        if now - self.last < self.seconds:
            return False
        self.last = now
        return True


def train(
    trainer: Trainer, latents: Tensor, labels: Tensor, batch: int, budget_seconds: float, ends_at: float | None = None
) -> None:
    """Steps on random batches of latents (N, C, 16, 16) until the budget is spent or somebody stops it; then saves.

    With `ends_at`, a time as `time.time()` counts it, the budget is whatever is left until then, anew for each step.
    """
    alphas = make_scheduler(steps=1).alphas_cumprod.to(latents.device)
    report, save, draw = Every(20), Every(180), Every(900)
    with Stop() as stop:
        while trainer.progress.seconds < budget_seconds and not stop:
            if ends_at is not None:
                budget_seconds = trainer.progress.seconds + max(0.0, ends_at - time.time())
            rows = batch_rows(len(latents), batch, trainer.progress.steps).to(latents.device)
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


def parse_training_options(
    parser: argparse.ArgumentParser, model_file: Path | None, private_folder: Path | None
) -> argparse.Namespace:
    """The options of a command that trains, with those that all such commands have."""
    parser.add_argument("--batch", type=int, default=32, help="pictures a step")
    parser.add_argument("--threads", type=int, default=1, help="parts of a batch computed side by side")
    parser.add_argument("--compile", action="store_true", help="use torch.compile (needs a C++ compiler)")
    parser.add_argument("--model", type=expand_path, default=model_file)
    parser.add_argument(
        "--private", type=expand_path, default=private_folder, help="folder of checkpoint and sample sheets"
    )
    options = parser.parse_args()
    if options.batch % options.threads:
        parser.error(f"--batch {options.batch} cannot be shared out evenly among --threads {options.threads}")
    return options


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the demo model, or go on training it.")
    add_data_option(parser)
    parser.add_argument("--minutes", type=float, default=125, help="length of the whole training, over all sessions")
    options = parse_training_options(parser, MODEL_FILE, PRIVATE_FOLDER)
    trained_on, _ = split(load_pictures(options.data or download()))
    whitening = measure_whitening(trained_on.images)
    trainer = Trainer(*whitening, options.model, options.private, options.threads, options.compile)
    latents = trainer.model.encode(trained_on.images)
    train(trainer, latents, trained_on.labels, options.batch, options.minutes * 60)


if __name__ == "__main__":
    main()
