"""Distil the test bed's model into a twin that needs four model calls, with the guidance inside.

    python -m lab.testbed.distil --guidance 4 --minutes 60     # writes twin.safetensors; may be stopped and goes on

Progressive distillation (Salimans and Ho 2022, https://arxiv.org/abs/2202.00512) of a guided teacher (Meng et al. 2023,
https://arxiv.org/abs/2210.03142). One step of a student is to land where two steps of its teacher land:

    x₁ = x + (σ₁ − σ)·d(x, σ),    x₂ = x₁ + (σ₂ − σ₁)·d(x₁, σ₁),    d(x, σ) = (x − x̂₀(x, σ)) / σ
    x̂₀ = x − σ·(x₂ − x) / (σ₂ − σ)    is what the student is to predict at (x, σ)

The first student of eight steps has the trained model with classifier-free guidance for its teacher, the second student
of four steps has the first one, without guidance. Each starts from the weights of its teacher. The error is that of the
velocity, which is the paper's weight "SNR + 1" on the error of x₀.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from lab.demo.contact_sheet import draw_samples
from lab.demo.model import NO_CATEGORY, DemoModel, load_as, save_model
from lab.demo.sampling import TRAINING_TIMESTEPS, guide
from lab.demo.train import Progress, Trainer, parse_training_options, train
from lab.folders import expand_path
from lab.testbed.arms import GUIDANCE
from lab.testbed.data import add_data_option, divide, download, load_split, pad
from lab.testbed.model import build_model
from lab.testbed.shape import MODEL_FILE, TWIN_FILE

STUDENTS = (8, 4)  # their steps, one after the other
PRIVATE_FOLDER = Path(__file__).with_name(".distilling")
SHARE_OF_RATE = 0.2  # of the learning rate that the model itself was trained with


def trailing(steps: int) -> list[int]:
    """The timesteps of a sampler of so many steps, falling, as `lab.demo.sampling.make_scheduler` sets them."""
    return [TRAINING_TIMESTEPS * (steps - step) // steps - 1 for step in range(steps)]


def sigmas_at(timesteps: Tensor, alphas: Tensor) -> Tensor:
    """Noise levels σ (N, 1, 1, 1) of timesteps (N,), 0 for the timestep −1; α are cumulative, (1000,)."""
    share = alphas[timesteps.clamp(min=0)]
    sigmas = ((1 - share) / share).sqrt()
    return torch.where(timesteps < 0, 0.0, sigmas)[:, None, None, None]


def guided(model: DemoModel, scaled: Tensor, timesteps: Tensor, labels: Tensor, guidance: float) -> Tensor:
    """The guided velocity (N, 16, 8, 8) where every sample has a timestep of its own, (N,); guidance 1 is none."""
    if guidance == 1.0:
        velocity: Tensor = model(scaled, timesteps, labels)
        return velocity
    both = torch.cat([labels, torch.full_like(labels, NO_CATEGORY)])
    conditional, unconditional = model(scaled.repeat(2, 1, 1, 1), timesteps.repeat(2), both).chunk(2)
    return guide(conditional, unconditional, guidance)


def predicted_latent(
    model: DemoModel, x: Tensor, timesteps: Tensor, labels: Tensor, guidance: float, alphas: Tensor
) -> Tensor:
    """The latent x̂₀ (N, 16, 8, 8) that a model sees in x = x₀ + σ·noise."""
    sigmas = sigmas_at(timesteps, alphas)
    scale = (1 + sigmas**2).rsqrt()
    return scale**2 * x - scale * sigmas * guided(model, x * scale, timesteps, labels, guidance)


def euler_step(x: Tensor, latent: Tensor, sigmas: Tensor, next_sigmas: Tensor) -> Tensor:
    """Return the end of an Euler step from σ, given x̂₀ there."""
    return x + (next_sigmas - sigmas) * (x - latent) / sigmas


class StudentTrainer(Trainer):
    """Teaches a student of `steps` steps what its teacher does in twice as many."""

    share_of_rate = SHARE_OF_RATE

    def __init__(self, teacher: DemoModel, guidance: float, steps: int, *arguments: object, **named: object) -> None:
        super().__init__(*arguments, **named)  # type: ignore[arg-type]
        self.teacher, self.guidance, self.sampling_steps = teacher, guidance, steps
        self.teacher.to(self.model.latent_mean.device).to(memory_format=torch.channels_last)

    def draw(self, per_category: int = 4, steps: int | None = None) -> None:
        """Writes a sheet of samples of the student, in its own number of steps and without guidance."""
        path = self.sheet_folder / f"samples-{self.progress.steps:06}.png"
        draw_samples(self.average, path, per_category, guidance=1.0, steps=steps or self.sampling_steps)

    def error(
        self, latents: Tensor, labels: Tensor, alphas: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """The mean square error of the student's velocity, twice."""
        starts = torch.tensor([*trailing(self.sampling_steps), -1])
        step = torch.randint(self.sampling_steps, (len(latents),), generator=generator)
        here, there = starts[step].to(latents.device), starts[step + 1].to(latents.device)
        middle = torch.div(here + there, 2, rounding_mode="floor")
        noise = torch.randn(latents.shape, generator=generator).to(latents.device)
        sigmas, next_sigmas = sigmas_at(here, alphas), sigmas_at(there, alphas)
        x = latents + sigmas * noise
        with torch.no_grad():
            target = self.landing(x, (here, middle, there), labels, alphas)
            wanted = x - sigmas * (target - x) / (next_sigmas - sigmas)
        scale = (1 + sigmas**2).rsqrt()
        scaled = (x * scale).contiguous(memory_format=torch.channels_last)
        velocity = self.model(scaled, here, labels)
        errors = (velocity - (scale**2 * x - wanted) / (scale * sigmas)).square().mean(dim=(1, 2, 3))
        return errors.mean(), errors.detach().mean()

    def landing(self, x: Tensor, timesteps: Sequence[Tensor], labels: Tensor, alphas: Tensor) -> Tensor:
        """Return the end of two steps of the teacher from x, by the timesteps (N,) of their ends."""
        for start, end in itertools.pairwise(timesteps):
            latent = predicted_latent(self.teacher, x, start, labels, self.guidance, alphas)
            x = euler_step(x, latent, sigmas_at(start, alphas), sigmas_at(end, alphas))
        return x


def distil(
    teacher_file: Path, guidance: float, steps: int, file: Path, private: Path, options: argparse.Namespace
) -> None:
    """Train a student of `steps` steps into `file`, for an equal share of the minutes, or go on with it."""
    teacher = load_as(build_model, teacher_file)
    if not file.exists():
        save_model(teacher, file, Progress().metadata())
    whitening = teacher.latent_mean, teacher.latent_std
    places = file, private, options.threads, options.compile
    trainer = StudentTrainer(teacher, guidance, steps, *whitening, *places, network=build_model, device=options.device)
    part = divide(load_split(options.data or download(), "training"), None).training
    train(
        trainer,
        trainer.model.encode(pad(part.images()).to(options.device)),
        part.labels.to(options.device),
        options.batch,
        options.minutes * 60 / len(STUDENTS),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data_option(parser)
    parser.add_argument("--teacher", type=expand_path, default=MODEL_FILE)
    parser.add_argument("--guidance", type=float, default=GUIDANCE, help=f"of the teacher (default {GUIDANCE:g})")
    parser.add_argument("--minutes", type=float, default=60, help="of all students together, over all sessions")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    options = parse_training_options(parser, TWIN_FILE, PRIVATE_FOLDER)
    teacher, guidance = options.teacher, options.guidance
    begun = options.private / f"guidance-{guidance:g}"  # what was begun at another guidance does not continue here
    for steps in STUDENTS:
        is_last = steps == STUDENTS[-1]
        private = begun / str(steps)
        private.mkdir(parents=True, exist_ok=True)
        file = options.model if is_last else private / "student.safetensors"
        distil(teacher, guidance, steps, file, private, options)
        teacher, guidance = file, 1.0


if __name__ == "__main__":
    main()
