"""The test bed's DiT in ComfyUI: the same samples as without it, with and without γ."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from lab.demo.model import save_model
from lab.testbed import next_dit
from lab.testbed.arms import Arm, Use, skew
from lab.testbed.flow import FlowModel, sample_latents
from lab.testbed.in_comfyui import draw_latents, load_bed
from lab.testbed.model import classes_of, load_model
from lab.testing.testbed_statements import attending, of_pixels

pytestmark = pytest.mark.newest

STEPS, GUIDANCE, SEEDS = 4, 2.0, (3, 4, 11)
CLOSE = 2e-4


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """An untrained model whose blocks answer."""
    torch.manual_seed(1)
    model = FlowModel()
    for weight in model.parameters():
        if not weight.any():
            torch.nn.init.normal_(weight, std=0.05)
    path = tmp_path_factory.mktemp("testbed") / "dit.safetensors"
    save_model(model, path, {})
    return path


@pytest.fixture(scope="module")
def bed(file):
    return load_bed(file)


@pytest.fixture(scope="module")
def model(file):
    return load_model(file)


def arm(*uses: Use, **numbers) -> Arm:
    return Arm("tried", "tried", 1.0, uses, steps=STEPS, guidance=GUIDANCE, **numbers)


def without_comfyui(model):
    return sample_latents(model, classes_of(SEEDS), SEEDS, STEPS, GUIDANCE)


def test_the_plain_model_draws_what_it_draws_without_comfyui(bed, model):
    before = bed.rows
    torch.testing.assert_close(draw_latents(bed, arm(), SEEDS), without_comfyui(model), rtol=0, atol=CLOSE)
    assert bed.rows - before == 2 * len(SEEDS) * STEPS


@contextmanager
def skewed(model: FlowModel, gamma: float) -> Iterator[None]:
    """γ by its definition among the pixels: the scores less their transpose, halved, times γ − 1 more."""
    plain = next_dit.Attention.forward

    def skewed_scores(scores: torch.Tensor) -> torch.Tensor:
        return scores + (gamma - 1) * (scores - scores.mT) / 2

    blocks = (*model.dit.noise_refiner, *model.dit.layers)
    with attending(blocks, scores=of_pixels(skewed_scores)):
        yield
    assert blocks[0].attention.forward.__func__ is plain


def test_gamma_through_the_node_is_its_definition_on_the_dit(bed, model):
    plain = without_comfyui(model)
    with skewed(model, 1.8):
        expected = without_comfyui(model)
    drawn = draw_latents(bed, arm(skew(gamma=1.8)), SEEDS)
    torch.testing.assert_close(drawn, expected, rtol=0, atol=CLOSE)
    assert (expected - plain).abs().max() > 10 * CLOSE
