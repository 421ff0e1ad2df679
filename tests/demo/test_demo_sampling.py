"""Sampling conventions that the demo command and the ComfyUI workflow share."""

from __future__ import annotations

import pytest
import torch

from lab.demo.model import NO_CATEGORY, DemoModel
from lab.demo.sampling import guided_velocity, make_scheduler, sample, sample_latents, seed_noise


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return DemoModel().eval().requires_grad_(False)


def table_of_sigmas():
    """SD 1.5's 1000 sigmas from their definition, in float64."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    alphas = torch.cumprod(1 - betas, dim=0)
    return ((1 - alphas) / alphas).sqrt()


@pytest.mark.parametrize("steps", [10, 20, 25, 50])
def test_sigmas_are_those_of_the_simple_scheduler(steps):
    """The "simple" scheduler takes every (1000 / steps)th sigma of the table, from the top, and ends at zero."""
    table, stride = table_of_sigmas(), 1000 // steps
    scheduler = make_scheduler(steps)
    want_times = torch.arange(999, -1, -stride)
    assert torch.equal(scheduler.timesteps, want_times.to(scheduler.timesteps.dtype))
    torch.testing.assert_close(scheduler.sigmas[:-1].double(), table[want_times], rtol=1e-5, atol=0)
    assert scheduler.sigmas[-1] == 0


@pytest.mark.parametrize("steps", [0, -5, 3, 30, 2000])
def test_steps_must_divide_a_thousand(steps):
    with pytest.raises(ValueError, match="does not divide 1000"):
        make_scheduler(steps)


def test_euler_steps_match_the_definition(model):
    """x <- x + (sigma_next - sigma) * noise, starting at noise * sqrt(1 + sigma_max^2).

    With the cumulative alpha a = 1 / (1 + sigma^2), the model sees z = sqrt(a) * x and its velocity v means the noise
    sqrt(1 - a) * z + sqrt(a) * v.
    """
    categories, times = torch.tensor([1]), torch.tensor([999, 799, 599, 399, 199])
    sigmas = torch.cat([table_of_sigmas()[times], torch.zeros(1)]).float()
    latents = seed_noise(3) * (1 + sigmas[0] ** 2).sqrt()
    for time, sigma, following in zip(times, sigmas, sigmas[1:], strict=False):
        scaled = latents / (1 + sigma**2).sqrt()
        with_category = model(scaled, time[None], categories)
        without = model(scaled, time[None], torch.tensor([NO_CATEGORY]))
        velocity = without + 2.5 * (with_category - without)
        noise = (sigma * scaled + velocity) / (1 + sigma**2).sqrt()
        latents = latents + (following - sigma) * noise
    got = sample_latents(model, categories, [3], steps=5, guidance=2.5)
    torch.testing.assert_close(got, latents, rtol=1e-4, atol=1e-4)


def test_guidance_one_is_the_conditional_answer(model):
    scaled, time, categories = torch.randn(2, 12, 16, 16), torch.tensor(300), torch.tensor([0, 2])
    want = model(scaled, torch.tensor([300, 300]), categories)
    assert torch.equal(guided_velocity(model, scaled, time, categories, 1.0), want)
    nearly_one = guided_velocity(model, scaled, time, categories, 1.000001)
    torch.testing.assert_close(nearly_one, want, rtol=1e-4, atol=1e-4)


def test_a_picture_does_not_depend_on_its_batch_mates(model):
    together = sample(model, [0, 1, 2], seeds=[5, 6, 7], steps=4, chunk=2)
    assert together.shape == (3, 3, 32, 32)
    for place, seed in enumerate([5, 6, 7]):
        alone = sample(model, [place], seeds=[seed], steps=4)
        torch.testing.assert_close(together[place : place + 1], alone, rtol=0, atol=1e-4)


def test_a_seed_has_one_noise():
    assert torch.equal(seed_noise(11), seed_noise(11))
    assert not torch.equal(seed_noise(11), seed_noise(12))


def test_each_seed_needs_its_category(model):
    with pytest.raises(ValueError, match="2 given for 3 seeds"):
        sample(model, [0, 1], seeds=[1, 2, 3])
