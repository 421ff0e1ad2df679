"""Sites whose attention is called by another method than `forward`: ours is put there, and removed like any other."""

from __future__ import annotations

import copy
import io
import sys
from collections.abc import Iterator

import comfy.model_management
import pytest
import torch

from lab.testing.families import sensenova
from lab.testing.families.family import Family, draw
from lab.testing.families.rows import STAND_INS
from lab.testing.neighbours import Transparent, replaced
from lab.testing.recorder import distance, effect, plainly, stated, watch_attention
from lab.testing.run_nodes import skew

pytestmark = pytest.mark.newest
METHOD = "forward_generation"


@pytest.fixture(scope="module")
def row() -> Iterator[Family]:
    yield STAND_INS["SenseNovaU15"]
    STAND_INS["SenseNovaU15"].forget()


def methods_of(network: torch.nn.Module) -> list[object]:
    """The function at each site."""
    return [getattr(module, METHOD).__func__ for module in network.modules() if hasattr(module, METHOD)]


def call_network(network: torch.nn.Module) -> torch.Tensor:
    """Return the output of a network that a script calls directly."""
    with torch.no_grad():
        return network(draw("x", (1, 4, 6, 8)), torch.tensor([0.5]), draw("cond", (1, 20, 48)), transformer_options={})


def test_a_module_that_is_replaced_above_a_site_is_given_back(row):
    before, plain = methods_of(row.model.model.diffusion_model), row.sample()
    ours, report = skew(row.model)
    wanted = row.sample(ours)
    both, _ = replaced(ours, "diffusion_model.language_model.model.layers.0", Transparent)
    for _ in range(2):
        assert row.sample(both).equal(wanted)
        assert row.sample().equal(plain)
        assert methods_of(row.model.model.diffusion_model) == before
    assert set(report.runs[-1].site_calls) == set(row.paths)


def test_a_load_that_fails_leaves_nothing_at_the_method(row, monkeypatch):
    def fails(*args, **kwargs):
        raise torch.OutOfMemoryError("while the weights were loaded")

    before, plain = methods_of(row.model.model.diffusion_model), row.sample()
    ours, report = skew(row.model)
    comfy.model_management.unload_all_models()
    with monkeypatch.context() as patched_host:
        patched_host.setattr(type(ours), "load", fails)
        with pytest.raises(torch.OutOfMemoryError, match="while the weights were loaded"):
            row.sample(ours)
    assert report.runs[-1].status == "failed (OutOfMemoryError)"
    assert methods_of(row.model.model.diffusion_model) == before
    assert row.sample().equal(plain)


def test_a_copy_and_a_saved_network_run_their_own_weights(row, monkeypatch):
    monkeypatch.setitem(sys.modules, sensenova.Attention.__module__, sensenova)  # where a file looks for the class
    network = row.model.model.diffusion_model
    plain = call_network(network)
    file = io.BytesIO()
    copies = []

    def copied(*_):
        copies.append(copy.deepcopy(network))
        torch.save(network.language_model, file)

    row.sample(skew(row.model)[0], callback=copied)
    file.seek(0)
    loaded = copy.deepcopy(network)
    loaded.language_model = torch.load(file, weights_only=False)
    for other in (*copies, loaded):
        assert call_network(other).equal(plain)
        with torch.no_grad():
            for weight in other.language_model.parameters():
                weight.mul_(0.5)
        assert not call_network(other).equal(plain)
    assert call_network(network).equal(plain)


def test_another_method_of_the_site_stays_plain(row):
    """The text goes through one of its own, and is no query of the image."""
    model, _ = skew(row.model)
    with watch_attention(model) as calls:
        row.sample(model)
    lengths = {seen.q.shape[2] for seen in calls}
    assert lengths == {20, 48}
    for seen in calls:
        if seen.q.shape[2] == 20:
            assert distance(seen.out, plainly(seen)) < 1e-5 * plainly(seen).norm()
        else:
            assert distance(seen.out, stated(row, seen, 1.5)) <= 1e-3 * effect(row, seen, 1.5)
