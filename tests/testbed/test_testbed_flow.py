"""The DiT of the test bed: its network against slow statements, what it learns, its training, its file."""

from __future__ import annotations

import math

import pytest
import torch

from lab.demo.model import save_model
from lab.demo.sampling import seed_noise
from lab.testbed.attention import attentions_of_pixels, averaged_attention
from lab.testbed.flow import FlowModel, FlowTrainer, sample_latents
from lab.testbed.model import build_model, draw, load_model
from lab.testbed.next_dit import Attention, places_of_condition, places_of_pixels, rotate, rotations

LABELS = torch.tensor([0, 9, 3, 5])


@pytest.fixture(scope="module")
def model():
    return awake().eval().requires_grad_(False)


@pytest.fixture
def steady(monkeypatch):
    """Training whose learning rate does not depend on the clock."""
    monkeypatch.setattr("lab.demo.train.learning_rate", lambda fraction, steps: 1e-3)


def awake() -> FlowModel:
    """A model whose blocks answer: fresh ones answer with nothing."""
    torch.manual_seed(0)
    model = FlowModel()
    for weight in model.parameters():
        if not weight.any():
            torch.nn.init.normal_(weight, std=0.05)
    return model


def make_trainer(folder):
    torch.manual_seed(0)
    return FlowTrainer(torch.zeros(16), torch.ones(16), folder / "model.safetensors", folder, network=FlowModel)


def steps(trainer, count, latents):
    for _ in range(count):
        trainer.step(latents, LABELS, torch.empty(0), budget_seconds=3600)


def test_the_size_is_as_planned(model):
    assert 3e6 < sum(weight.numel() for weight in model.parameters()) < 4e6
    fresh = FlowModel()
    assert not fresh(torch.randn(2, 16, 8, 8), torch.rand(2), torch.tensor([3, -1])).any()


def test_places_are_the_class_then_rows_and_columns():
    assert places_of_condition(2).tolist() == [[1, 0, 0], [2, 0, 0]]
    assert places_of_pixels(2, 4).tolist() == [[5, 0, 0], [5, 0, 1], [5, 1, 0], [5, 1, 1]]


def test_pairs_of_numbers_are_turned_by_their_angles():
    """Two axes, of 2 and of 4 numbers: the rates are 1, then 1 and 1/10."""
    x = torch.randn(1, 1, 1, 6, dtype=torch.float64)
    turned = rotate(x, rotations(torch.tensor([[3.0, 7.0]]), [2, 4], 100.0))
    as_complex = torch.view_as_complex(x.unflatten(-1, (3, 2)))
    angles = torch.tensor([3.0, 7.0, 0.7], dtype=torch.float64)
    expected = torch.view_as_real(as_complex * torch.polar(torch.ones(3, dtype=torch.float64), angles)).flatten(-2)
    torch.testing.assert_close(turned, expected, rtol=0, atol=1e-6)


def test_attention_is_its_definition_in_float64():
    torch.manual_seed(3)
    attention = Attention(12, heads=2).double()
    x = torch.randn(2, 5, 12, dtype=torch.float64)
    rotation = rotations(torch.arange(5.0)[:, None], [6], 50.0)
    queries, keys, values = attention.qkv(x).chunk(3, dim=-1)
    retrieved = []
    for head in (slice(0, 6), slice(6, 12)):
        q, k = (each[..., head] / each[..., head].square().mean(-1, keepdim=True).sqrt() for each in (queries, keys))
        q, k = (rotate(each[:, None], rotation)[:, 0] for each in (q, k))
        retrieved.append((q @ k.mT / math.sqrt(6)).softmax(dim=-1) @ values[..., head])
    expected = torch.cat(retrieved, dim=-1) @ attention.out.weight.T
    torch.testing.assert_close(attention(x, rotation), expected, rtol=1e-5, atol=1e-5)


def test_the_flow_that_is_known_leads_to_its_latent(model, monkeypatch):
    """Every noise's velocity is noise less one latent, so every number of steps ends at that latent."""
    latent = torch.randn(1, 16, 8, 8)
    asked = []

    def velocity(noisy, sigmas, classes):
        asked.append((noisy, sigmas))
        return (noisy - latent) / sigmas[:, None, None, None]

    monkeypatch.setattr(model, "forward", velocity)
    drawn = sample_latents(model, LABELS, range(4), steps=5, guidance=1.0)
    torch.testing.assert_close(drawn, latent.expand(4, -1, -1, -1), rtol=0, atol=1e-4)
    assert torch.equal(asked[0][0][2:3], seed_noise(2, (16, 8, 8)))
    torch.testing.assert_close(torch.stack([sigmas[0] for _, sigmas in asked]), torch.tensor([1, 0.8, 0.6, 0.4, 0.2]))


def test_what_is_learned_is_noise_less_latent(tmp_path, monkeypatch):
    """A model that answers with it has no error, at every σ; some classes are dropped."""
    trainer, latents, asked = make_trainer(tmp_path), torch.randn(400, 16, 8, 8), []

    def right(noisy, sigmas, classes):
        asked.append((sigmas, classes))
        return (noisy - latents) / sigmas[:, None, None, None]

    monkeypatch.setattr(trainer.model, "forward", right)
    loss, plain = trainer.error(latents, torch.full((400,), 3), torch.empty(0), torch.Generator().manual_seed(1))
    assert float(loss) == float(plain) < 1e-4
    ((sigmas, classes),) = asked
    assert sigmas.min() < 0.01
    assert sigmas.max() > 0.99
    assert 0.05 < float((classes == -1).double().mean()) < 0.2
    assert set(classes.tolist()) == {-1, 3}


def test_training_that_was_interrupted_gives_the_same_model(tmp_path, steady):
    latents = torch.randn(4, 16, 8, 8)
    whole = make_trainer(tmp_path / "whole")
    steps(whole, 4, latents)
    first = make_trainer(tmp_path / "parts")
    steps(first, 2, latents)
    first.save()
    first.draw(per_category=1, steps=1)
    assert first.sheet_file.exists()
    second = make_trainer(tmp_path / "parts")
    steps(second, 2, latents)
    for one, other in ((whole.model, second.model), (whole.average, second.average)):
        for name, tensor in one.state_dict().items():
            assert torch.equal(tensor, other.state_dict()[name]), name
    assert not torch.equal(first.model.context, second.model.context), "the last two steps changed nothing"


def test_one_batch_is_learned(tmp_path, steady, monkeypatch):
    trainer, latents, errors = make_trainer(tmp_path), torch.randn(4, 16, 8, 8), []
    for _ in range(30):
        monkeypatch.setattr(trainer.progress, "steps", 0)  # the same noise in every step
        errors.append(trainer.set_gradients(latents, LABELS, torch.empty(0)))
        steps(trainer, 1, latents)
    assert errors[-1] < 0.7 * errors[0]


def test_a_file_says_which_network_it_holds(model, tmp_path):
    save_model(model, tmp_path / "dit.safetensors", {})
    save_model(build_model(), tmp_path / "unet.safetensors", {})
    loaded = load_model(tmp_path / "dit.safetensors")
    for name, tensor in model.state_dict().items():
        expected = tensor if name.startswith("latent_") else tensor.half().float()
        assert torch.equal(loaded.state_dict()[name], expected), name
    assert not isinstance(load_model(tmp_path / "unet.safetensors"), FlowModel)


def test_samples_depend_on_seed_and_guidance_only(model):
    together = draw(model, range(3, 6), guidance=2.0, steps=2)
    assert together.shape == (3, 1, 28, 28)
    torch.testing.assert_close(together[1:2], draw(model, [4], guidance=2.0, steps=2), rtol=0, atol=1e-4)
    assert not torch.allclose(together[1:2], draw(model, [4], guidance=1.0, steps=2))


def test_averaged_attention_retrieves_the_mean_of_the_values(model):
    inputs = torch.randn(2, 16, 8, 8), torch.tensor([0.5, 0.02]), torch.tensor([1, 2])
    plain, seen = model(*inputs), []
    layers = attentions_of_pixels(model.dit)
    hooks = [each.qkv.register_forward_hook(lambda _, given, out: seen.append([out])) for each in layers]
    hooks += [each.out.register_forward_pre_hook(lambda _, given: seen[-1].append(given[0])) for each in layers]
    with averaged_attention(model.dit):
        changed = model(*inputs)
    for hook in hooks:
        hook.remove()
    assert len(seen) == len(layers) == 5
    for projected, retrieved in seen:  # these hooks came first, so they have the values before they are averaged
        mean = projected[..., 2 * 192 :].mean(dim=1, keepdim=True)
        torch.testing.assert_close(retrieved, mean.expand_as(retrieved), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(changed, plain)
    assert torch.equal(model(*inputs), plain), "the model was not put back"
