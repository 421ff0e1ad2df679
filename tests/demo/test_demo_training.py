"""Training on a handful of made-up latents: it learns, it resumes, and it never trains the whitening."""

from __future__ import annotations

import os
import signal

import pytest
import torch

from lab.demo.model import load_model, read_metadata
from lab.demo.sampling import make_scheduler
from lab.demo.train import (
    PEAK_LEARNING_RATE,
    Every,
    Stop,
    Trainer,
    learning_rate,
    spread_timesteps,
    train,
    velocity_error,
)

MEAN, STD = torch.linspace(0.1, 1.2, 12), torch.linspace(0.5, 1.6, 12)


@pytest.fixture
def latents():
    return torch.randn(4, 12, 16, 16)


def make_trainer(folder, private="private"):
    return Trainer(MEAN, STD, folder / "model.safetensors", folder / private)


def take_steps(trainer, latents, count):
    for _ in range(count):
        trainer.step(latents, torch.tensor([0, 1, 2, 0]), make_scheduler(steps=1).alphas_cumprod, budget_seconds=3600)


def test_the_model_file_is_enough_to_go_on(tmp_path, latents):
    first = make_trainer(tmp_path)
    take_steps(first, latents, 2)
    first.save()
    second = make_trainer(tmp_path, private="another machine")
    assert second.progress == first.progress
    assert torch.equal(second.model.latent_std, STD)
    assert torch.equal(second.model.context, first.average.context.half().float())
    take_steps(second, latents, 1)
    second.save()
    assert read_metadata(tmp_path / "model.safetensors")["steps"] == "3"
    assert not torch.equal(load_model(tmp_path / "model.safetensors").context, second.model.context)


def test_the_full_checkpoint_gives_back_every_number(tmp_path, latents):
    first = make_trainer(tmp_path)
    take_steps(first, latents, 2)
    first.save()
    second = make_trainer(tmp_path)
    assert torch.equal(second.model.context, first.model.context)
    assert torch.equal(second.average.context, first.average.context)
    assert second.optimiser.state_dict()["state"].keys() == first.optimiser.state_dict()["state"].keys()


def test_a_step_follows_the_rule_of_adam_after_going_on_too(tmp_path, latents):
    first = make_trainer(tmp_path)
    take_steps(first, latents, 2)
    first.save()
    trainer = make_trainer(tmp_path)
    weights = dict(trainer.model.named_parameters())
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    moments = {
        name: [state[key].clone() for key in ("exp_avg", "exp_avg_sq")]
        for name, state in ((name, trainer.optimiser.state[weight]) for name, weight in weights.items())
    }
    take_steps(trainer, latents, 1)
    (group,) = trainer.optimiser.param_groups
    for name, weight in weights.items():
        mean, square = moments[name]
        mean = 0.9 * mean + 0.1 * weight.grad
        square = 0.999 * square + 0.001 * weight.grad.square()
        move = (mean / (1 - 0.9**3)) / ((square / (1 - 0.999**3)).sqrt() + group["eps"])
        want = before[name] * (1 - group["lr"] * group["weight_decay"]) - group["lr"] * move
        torch.testing.assert_close(
            weight.detach(), want, rtol=1e-4, atol=1e-7, msg=lambda told, name=name: f"{name}: {told}"
        )


def test_an_older_checkpoint_gives_way_to_the_model_file(tmp_path, latents):
    trainer = make_trainer(tmp_path)
    trainer.save()
    (tmp_path / "private").rename(tmp_path / "old")
    take_steps(trainer, latents, 2)
    trainer.sheet_folder.mkdir()
    trainer.save()
    assert make_trainer(tmp_path, private="old").progress.steps == 2


def test_steps_change_weights_and_average_but_not_the_whitening(tmp_path, latents):
    trainer = make_trainer(tmp_path)
    before = trainer.model.context.detach().clone()
    take_steps(trainer, latents, 2)
    assert not torch.equal(trainer.model.context, before)
    assert not torch.equal(trainer.average.context, before)
    assert torch.equal(trainer.average.latent_mean, MEAN)


def test_threads_share_out_one_batch(tmp_path, latents, monkeypatch):
    """Two threads give the gradient of the whole batch, when nothing about a picture is left to chance."""

    def without_chance(model, latents, labels, alphas, generator):
        errors = (model(latents, torch.tensor([400] * len(latents)), labels) - 1).square()
        return errors.mean(), errors.detach().mean()

    monkeypatch.setattr("lab.demo.train.velocity_error", without_chance)
    alone = make_trainer(tmp_path)
    alone.save()
    together = Trainer(MEAN, STD, tmp_path / "model.safetensors", tmp_path / "private", threads=2)
    batch = latents, torch.tensor([0, 1, 2, 0]), torch.ones(1000)
    assert together.set_gradients(*batch) == pytest.approx(alone.set_gradients(*batch), rel=1e-5)
    for one, other in zip(alone.model.parameters(), together.model.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-5)


def test_training_ends_when_the_budget_is_spent(tmp_path, latents, monkeypatch):
    monkeypatch.setattr(Trainer, "draw", lambda self: None)
    trainer = make_trainer(tmp_path)
    train(trainer, latents, torch.tensor([0, 1, 2, 0]), batch=2, budget_seconds=1e-3)
    assert trainer.progress.steps == 1
    assert (tmp_path / "model.safetensors").exists()


def test_a_signal_asks_to_stop_and_the_old_handler_comes_back():
    before = signal.getsignal(signal.SIGTERM)
    with Stop() as stop:
        assert not stop
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(("alpha", "weight"), [(0.9, 1 / 1.3), (0.5, 0.4), (0.01, 1 / 3.97)])
def test_the_error_follows_the_definition(alpha, weight):
    """A model that answers zero is wrong by the whole velocity; the weight of that is 1 / (alpha + 4 (1 - alpha))."""
    latents = torch.randn(8, 12, 16, 16)
    wrong_by = []

    def silent(noisy, *_):
        noise = (noisy - alpha**0.5 * latents) / (1 - alpha) ** 0.5
        wrong_by.append(alpha**0.5 * noise - (1 - alpha) ** 0.5 * latents)
        return torch.zeros_like(noisy)

    labels, alphas = torch.zeros(8).long(), torch.full((1000,), alpha)
    loss, plain = velocity_error(silent, latents, labels, alphas)
    torch.testing.assert_close(plain, wrong_by[0].square().mean(), rtol=1e-4, atol=0)
    torch.testing.assert_close(loss, wrong_by[0].square().mean() * weight, rtol=1e-4, atol=0)


def test_timesteps_are_whole_and_cover_the_schedule():
    timesteps = spread_timesteps(1000)
    edges = 1000 * (torch.arange(1001) / 1000) ** 0.65
    assert timesteps.dtype == torch.int64
    assert bool(((edges[:-1].floor() <= timesteps) & (timesteps <= edges[1:])).all())
    assert timesteps.min() < 12
    assert 998 < timesteps.max() < 1000
    assert (timesteps < 500).sum() < 400  # more are noisy than clean


def test_the_learning_rate_rises_and_falls():
    assert learning_rate(0.5, 0) < learning_rate(0.5, 100) < learning_rate(0.5, 10_000)
    assert learning_rate(0.0, 10_000) == PEAK_LEARNING_RATE
    assert learning_rate(1.0, 10_000) == learning_rate(1.5, 10_000) == pytest.approx(0)


def test_every_is_due_once_a_period():
    assert Every(0).due()
    assert not Every(60).due()
