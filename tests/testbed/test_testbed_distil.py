"""The distilled twin: its teacher's two steps, and what a student learns from them."""

from __future__ import annotations

import pytest
import torch

from lab.demo.sampling import both_velocities, guide, make_scheduler
from lab.testbed.distil import StudentTrainer, predicted_latent, sigmas_at, trailing
from lab.testbed.model import build_model

ALPHAS = make_scheduler(1).alphas_cumprod
LABELS = torch.tensor([0, 9, 3])


@pytest.fixture(scope="module")
def teacher():
    torch.manual_seed(0)
    return build_model().eval().requires_grad_(False)


def student(folder, teacher, guidance, steps):
    torch.manual_seed(1)
    whitening = torch.zeros(16), torch.ones(16)
    return StudentTrainer(
        teacher, guidance, steps, *whitening, folder / "student.safetensors", folder, network=build_model
    )


@pytest.mark.parametrize("steps", [4, 8, 10])
def test_students_stop_where_the_sampler_does(steps):
    scheduler = make_scheduler(steps)
    assert trailing(steps) == scheduler.timesteps.tolist()
    ends = torch.tensor([*trailing(steps), -1])
    torch.testing.assert_close(sigmas_at(ends, ALPHAS).flatten(), scheduler.sigmas, rtol=1e-5, atol=0)


@pytest.mark.parametrize("first", [0, 2, 6])
def test_a_landing_is_two_steps_of_the_sampler_with_guidance(tmp_path, teacher, first):
    scheduler = make_scheduler(8)
    timesteps = torch.tensor([*trailing(8), -1])[first : first + 3]
    x = scheduler.sigmas[first] * torch.randn(3, 16, 8, 8)
    trainer = student(tmp_path, teacher, 3.0, 4)
    landed = trainer.landing(x, [each.expand(3) for each in timesteps], LABELS, ALPHAS)
    for timestep in scheduler.timesteps[first : first + 2]:
        scaled = scheduler.scale_model_input(x, timestep)
        velocity = guide(*both_velocities(teacher, scaled, timestep, LABELS), 3.0)
        x = scheduler.step(velocity, timestep, x, return_dict=False)[0]
    torch.testing.assert_close(landed, x, rtol=1e-4, atol=1e-4)


def test_what_a_student_is_to_predict_lands_there_in_one_step(tmp_path, teacher, monkeypatch):
    """The velocity that makes the error 0, put into one Euler step of the student, ends where the teacher does."""
    trainer = student(tmp_path, teacher, 1.0, 4)
    asked = []

    def answer(scaled, timesteps, labels):
        asked.append((scaled, timesteps))
        return torch.zeros_like(scaled)

    latents = torch.randn(3, 16, 8, 8)
    monkeypatch.setattr(trainer, "model", answer)
    zero, _ = trainer.error(latents, LABELS, ALPHAS, torch.Generator().manual_seed(5))
    (scaled, here) = asked[0]
    ends = torch.tensor([*trailing(4), -1])
    there = ends[[ends.tolist().index(int(each)) + 1 for each in here]]
    sigmas, next_sigmas = sigmas_at(here, ALPHAS), sigmas_at(there, ALPHAS)
    x = scaled * (1 + sigmas**2).sqrt()
    landed = trainer.landing(x, (here, (here + there) // 2, there), LABELS, ALPHAS)
    wanted = x - sigmas * (landed - x) / (next_sigmas - sigmas)  # x̂₀ of the one step
    velocity = (scaled / (1 + sigmas**2).sqrt() - wanted) * (1 + sigmas**2).sqrt() / sigmas
    torch.testing.assert_close(zero, velocity.square().mean(), rtol=1e-4, atol=0)
    monkeypatch.setattr(trainer, "model", lambda *_: velocity)
    exact, _ = trainer.error(latents, LABELS, ALPHAS, torch.Generator().manual_seed(5))
    assert float(exact) < 1e-9
    seen = predicted_latent(lambda *_: velocity, x, here, LABELS, 1.0, ALPHAS)
    torch.testing.assert_close(x + (next_sigmas - sigmas) * (x - seen) / sigmas, landed, rtol=1e-3, atol=1e-4)


def test_a_student_of_one_batch_comes_nearer_to_its_teacher(tmp_path, teacher, monkeypatch):
    monkeypatch.setattr("lab.demo.train.learning_rate", lambda fraction, steps: 1e-3)
    trainer = student(tmp_path, teacher, 1.0, 4)
    latents = torch.randn(3, 16, 8, 8)
    errors = []
    for _ in range(8):
        found, _ = trainer.error(latents, LABELS, ALPHAS, torch.Generator().manual_seed(0))
        errors.append(float(found.detach()))
        monkeypatch.setattr(trainer.progress, "steps", 0)  # the same noise in every step
        trainer.step(latents, LABELS, ALPHAS, budget_seconds=3600)
    assert errors[-1] < 0.8 * errors[0]
