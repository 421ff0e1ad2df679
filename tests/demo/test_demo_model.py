"""The demo model: its file and its size."""

from __future__ import annotations

import pytest
import torch

from lab.demo.model import (
    MODEL_FILE,
    NO_CATEGORY,
    DemoModel,
    load_model,
    read_metadata,
    save_model,
)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return DemoModel().eval().requires_grad_(False)


def test_a_file_gives_back_the_model(model, tmp_path):
    model.latent_mean.copy_(torch.randn(12))
    save_model(model, tmp_path / "model.safetensors", {"steps": "7"})
    loaded = load_model(tmp_path / "model.safetensors")
    assert read_metadata(tmp_path / "model.safetensors") == {"steps": "7"}
    assert torch.equal(loaded.latent_mean, model.latent_mean), "whitening must keep float32"
    assert torch.equal(loaded.context, model.context.half().float())
    assert list(tmp_path.iterdir()) == [tmp_path / "model.safetensors"], "an unfinished file was left behind"
    assert (tmp_path / "model.safetensors").stat().st_size <= 10_000_000


def test_the_category_and_the_time_matter(model):
    noisy, time = torch.randn(1, 12, 16, 16).expand(2, -1, -1, -1), torch.tensor([500, 500])
    by_category = model(noisy, time, torch.tensor([0, NO_CATEGORY]))
    by_time = model(noisy, torch.tensor([500, 10]), torch.tensor([0, 0]))
    assert by_category.shape == (2, 12, 16, 16)
    for first, second in (by_category, by_time):
        assert not torch.allclose(first, second)


def test_the_committed_model_loads():
    model = load_model(MODEL_FILE)
    assert MODEL_FILE.stat().st_size <= 10_000_000
    assert int(read_metadata(MODEL_FILE)["steps"]) > 0
    assert all(tensor.isfinite().all() for tensor in model.state_dict().values())
