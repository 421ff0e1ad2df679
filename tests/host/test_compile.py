"""Compiled models: every site goes into the graph that the plain model has, however many sites there are."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from comfy.ldm.modules.attention import optimized_attention
from comfy_api.torch_helpers import set_torch_compile_wrapper
from symmetric_attention.nodes.gamma_schedule import GammaScheduleNode
from torch._dynamo.utils import counters

from lab.testing.families.building import build
from lab.testing.families.configs import FLUX
from lab.testing.recorder import distance
from lab.testing.run_nodes import compiled, execute, skew

STEPS = 2  # a graph that does not serve every step is compiled again at the second
pytestmark = pytest.mark.newest
LINEAR = {"shape": "linear", "start_gamma": 2.0, "end_gamma": 0.2, "start": 0.0, "end": 1.0}
MODES: dict[str, dict[str, Any]] = {  # test_other_modules.py compiles γ without β, without a graph break
    "γ and β, by a schedule": {"beta": 3.0, "schedule": LINEAR},
    "adaptive, cond only": {"beta": 3.0, "adaptive": "gamma and beta", "apply_to": "cond"},
    "factors, by a schedule": {"gamma_text": 0.4, "gamma_cross": 1.6, "schedule": LINEAR},
    "factors, adaptive": {"gamma_text": 0.4, "beta": 3.0, "adaptive": "gamma and beta"},
}


@pytest.fixture(autouse=True)
def _fresh_compiler():
    if optimized_attention.__name__ != "attention_pytorch":
        pytest.skip("only PyTorch's attention is compiled with the sites")
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def flux_of(flux, doubles, singles):
    """A Flux of toy width with so many double and single blocks."""
    config = {**FLUX, "depth": doubles, "depth_single_blocks": singles}
    paths = {f"double.{index}": f"double_blocks.{index}" for index in range(doubles)}
    paths |= {f"single.{index}": f"single_blocks.{index}" for index in range(singles)}
    return dataclasses.replace(flux, build=lambda: build("Flux", config), paths=paths)


def compiled_by_blocks(family, model):
    """The model with every block compiled by itself, as nodes of other packs do."""
    model = model.clone()
    keys = [f"diffusion_model.{path}" for path in family.paths.values()]
    set_torch_compile_wrapper(model=model, backend="eager", keys=keys)
    return model


def sample_and_count(family, model):
    """The picture of a compiled model, and how often dynamo compiled a frame, made a graph and broke one."""
    torch._dynamo.reset()
    counters.clear()
    picture = family.sample(model, steps=STEPS)
    frames, graphs = counters["frames"]["total"], counters["stats"]["unique_graphs"]
    return picture, (frames, graphs, sum(counters["graph_break"].values()))


def assert_like_eager(family, model, got):
    plain, wanted = family.sample(steps=STEPS), family.sample(model, steps=STEPS)
    assert distance(got, wanted) < 1e-3 * distance(wanted, plain)


@pytest.mark.long
def test_57_sites_take_as_many_graphs_as_the_plain_model(flux):
    deep = flux_of(flux, 19, 38)
    _, of_plain = sample_and_count(deep, compiled(deep.model, fullgraph=False))
    patched, report = skew(deep.model, beta=3.0)
    picture, of_patched = sample_and_count(deep, compiled(patched, fullgraph=False))
    assert of_patched == of_plain
    assert "57 of 57 chosen sites reached, 114 attention calls changed in 2 model calls." in report.describe()
    assert "Attention was computed by attention_pytorch." in report.describe()
    assert_like_eager(deep, patched, picture)


@pytest.fixture(scope="module")
def of_plain() -> list[tuple[int, int, int]]:
    """An empty list that keeps the counters of the compiled unpatched small model after the first use."""
    return []


@pytest.fixture
def counts_of_plain(small_flux, of_plain):
    if not of_plain:
        of_plain.append(sample_and_count(small_flux, compiled(small_flux.model, fullgraph=False))[1])
    return of_plain[0]


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_takes_as_many_graphs_as_the_plain_model(small_flux, counts_of_plain, mode):
    widgets = dict(MODES[mode])
    if "schedule" in widgets:
        widgets["schedule"], _ = execute(GammaScheduleNode, **widgets["schedule"])
    patched, report = skew(small_flux.model, **widgets)
    picture, of_patched = sample_and_count(small_flux, compiled(patched, fullgraph=False))
    assert of_patched == counts_of_plain
    assert "2 of 2 chosen sites reached, 4 attention calls changed in 2 model calls." in report.describe()
    assert_like_eager(small_flux, patched, picture)


def test_sites_compiled_one_by_one_share_the_graph_of_their_class(flux):
    family = flux_of(flux, 2, 3)
    _, of_plain = sample_and_count(family, compiled_by_blocks(family, family.model))
    patched, report = skew(family.model, beta=3.0)
    picture, of_patched = sample_and_count(family, compiled_by_blocks(family, patched))
    assert of_patched == of_plain
    assert "5 of 5 chosen sites reached, 10 attention calls changed in 2 model calls." in report.describe()
    assert_like_eager(family, patched, picture)
