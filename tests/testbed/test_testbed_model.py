"""The test bed's model: its file, its training, its sampling, its self-attention."""

from __future__ import annotations

from datetime import datetime

import pytest
import torch

from lab.demo.model import read_metadata, save_model
from lab.demo.sampling import make_scheduler
from lab.demo.train import Trainer, train
from lab.evidence.watching import self_attentions, watching
from lab.testbed.attention import averaged_attention
from lab.testbed.model import build_model, classes_of, draw, load_model
from lab.testbed.shape import CLASSES, MODEL_FILE
from lab.testbed.train import NETWORKS, next_time

LABELS = torch.tensor([0, 9, 3, 5])


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build_model().eval().requires_grad_(False)


@pytest.fixture
def steady(monkeypatch):
    """Training whose learning rate does not depend on the clock."""
    monkeypatch.setattr("lab.demo.train.learning_rate", lambda fraction, steps: 1e-3)
    monkeypatch.setattr(Trainer, "draw", lambda self: None)


def make_trainer(folder):
    torch.manual_seed(0)
    return Trainer(torch.zeros(16), torch.ones(16), folder / "model.safetensors", folder, 2, network=build_model)


def steps(trainer, count, latents):
    for _ in range(count):
        trainer.step(latents, LABELS, make_scheduler(1).alphas_cumprod, budget_seconds=3600)


def test_the_size_is_as_planned(model):
    assert 5e6 < sum(weight.numel() for weight in model.parameters()) < 8e6
    assert len(model.context) == len(CLASSES) + 1
    tokens = {}
    with watching(self_attentions(model.unet)) as seen:
        model(torch.randn(1, 16, 8, 8), torch.tensor([500]), torch.tensor([3]))
        tokens = {layer.queries.shape[-2] for layer in seen.values()}
    assert tokens == {64, 16, 4}


def test_a_file_gives_back_the_model(model, tmp_path):
    save_model(model, tmp_path / "model.safetensors", {"steps": "7"})
    loaded = load_model(tmp_path / "model.safetensors")
    assert read_metadata(tmp_path / "model.safetensors") == {"steps": "7"}
    for name, tensor in model.state_dict().items():
        expected = tensor if name.startswith("latent_") else tensor.half().float()
        assert torch.equal(loaded.state_dict()[name], expected), name


def test_training_that_was_interrupted_gives_the_same_model(tmp_path, steady):
    """Four steps at once, or two, a new start from the checkpoint, and two more: the same numbers, bit by bit."""
    latents = torch.randn(4, 16, 8, 8)
    whole = make_trainer(tmp_path / "whole")
    steps(whole, 4, latents)
    first = make_trainer(tmp_path / "parts")
    steps(first, 2, latents)
    first.save()
    second = make_trainer(tmp_path / "parts")
    assert second.progress.steps == second.optimiser_steps == 2
    steps(second, 2, latents)
    for one, other in ((whole.model, second.model), (whole.average, second.average)):
        for name, tensor in one.state_dict().items():
            assert torch.equal(tensor, other.state_dict()[name]), name
    assert not torch.equal(first.model.context, second.model.context), "the last two steps changed nothing"


def test_training_ends_by_the_clock(tmp_path, steady, monkeypatch):
    """The budget is what is left until the end, so the schedule ends there however slow the steps are."""
    fractions, now = [], iter([1000.0, 1400.0, 1900.0, 2100.0, 2200.0])
    monkeypatch.setattr("lab.demo.train.time.time", lambda: next(now))
    monkeypatch.setattr("lab.demo.train.learning_rate", lambda fraction, steps: fractions.append(fraction) or 1e-3)
    trainer = make_trainer(tmp_path)
    train(trainer, torch.randn(4, 16, 8, 8), LABELS, batch=2, budget_seconds=1e9, ends_at=2000.0)
    assert trainer.progress.steps == 4
    assert fractions == sorted(fractions)
    assert fractions[0] == 0
    assert fractions[-1] == 1


def test_no_two_trainings_share_a_place():
    """A subset's training must not go on from the weights of the whole, nor write over them."""
    places = [network.places(subset) for network in NETWORKS.values() for subset in (None, 500, 5000)]
    files, folders = zip(*places, strict=True)
    assert len(set(files)) == len(set(folders)) == 6
    assert files[0] == MODEL_FILE


def test_a_time_of_day_is_today_or_tomorrow():
    noon = datetime(2026, 5, 31, 12, 0, 30)
    assert next_time("12:01", noon) == datetime(2026, 5, 31, 12, 1)
    assert next_time("12:00", noon) == datetime(2026, 6, 1, 12, 0)


def test_samples_depend_on_seed_and_guidance_only(model):
    together = draw(model, range(3, 6), guidance=2.0, steps=2)
    assert together.shape == (3, 1, 28, 28)
    alone = draw(model, [4], guidance=2.0, steps=2)
    torch.testing.assert_close(together[1:2], alone, rtol=0, atol=1e-4)
    assert not torch.allclose(alone, draw(model, [4], guidance=1.0, steps=2))
    assert classes_of([3, 14, 20]).tolist() == [3, 4, 0]


def test_averaged_attention_retrieves_the_mean_of_the_values(model):
    inputs = torch.randn(2, 16, 8, 8), torch.tensor([500, 20]), torch.tensor([1, 2])
    plain = model(*inputs)
    values = {}
    layers = self_attentions(model.unet)
    hooks = [
        layer.to_v.register_forward_hook(lambda module, given, out, name=name: values.update({name: out}))
        for name, layer in layers.items()
    ]
    with averaged_attention(model.unet), watching(layers) as seen:
        changed = model(*inputs)
    for hook in hooks:
        hook.remove()
    assert values.keys() == layers.keys()
    for name, found in values.items():  # these hooks came first, so they have the values before they are averaged
        retrieved = seen[name].retrieved.transpose(1, 2).flatten(2)
        torch.testing.assert_close(retrieved, found.mean(dim=1, keepdim=True).expand_as(found), rtol=1e-4, atol=1e-5)
        assert found.std(dim=1).max() > 1e-3, "the values were all the same to begin with"
    assert not torch.allclose(changed, plain)
    assert torch.equal(model(*inputs), plain), "the model was not put back"
