"""Modules that other packs replace by object patches, around ours, in their place and below them, in any order.

ComfyUI undoes object patches in the order they were made. Whatever was on the network, a plain run afterwards finds
it as it was, gives the bits of the plain model, and no function of ours is left.
"""

from __future__ import annotations

import functools
import gc
import random
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import pytest
import torch

from lab.testing.devices import dynamic_on_cpu
from lab.testing.families.building import build
from lab.testing.families.configs import SD15
from lab.testing.families.family import Family
from lab.testing.families.rows import FAMILIES
from lab.testing.neighbours import KeepingNames, Nameless, Transparent, WithItsOwn, replaced
from lab.testing.run_nodes import probe, skew, stop_at

BLOCK = "diffusion_model.middle_block.1.transformer_blocks.0"
SITE = f"{BLOCK}.attn1"
OTHER = "diffusion_model.output_blocks.2.1.transformer_blocks.0"
PLACES = {
    "SD15": {
        "above the site": BLOCK,
        "the site": SITE,
        "below the site": f"{SITE}.to_q",
        "beside the site": f"{BLOCK}.attn2",
    },
    "Flux": {
        "the site": "diffusion_model.double_blocks.0",
        "below the site": "diffusion_model.single_blocks.1.linear1",
    },
}
WRAPPERS = [Nameless, Transparent, WithItsOwn, KeepingNames]
NODES = {"skew": skew, "probe": probe}


def modules_of(model):
    """Every module of a network by its path, with what its `forward` is."""
    return {path: (module, module.forward) for path, module in model.model.named_modules()}


def drawn(family, model=None):
    """The picture of one step, in which every module is called."""
    return family.sample(model, steps=1)


@dataclass(frozen=True)
class Plain:
    """A family before another pack patched it: its picture, the one with γ, and its network with its weights loaded."""

    family: Family
    picture: torch.Tensor
    skewed: torch.Tensor
    modules: dict[str, Any]

    def is_back(self):
        """A plain run gives the same bits, and every module is where it was, with the `forward` of its class."""
        assert drawn(self.family).equal(self.picture)
        assert modules_of(self.family.model) == self.modules
        for path, (module, forward) in self.modules.items():
            assert forward.__func__ is type(module).forward, path


@functools.cache
def plain_of(name):
    family = FAMILIES[name]
    picture, skewed = drawn(family), drawn(family, skew(family.model)[0])
    assert not skewed.equal(picture)
    assert drawn(family).equal(picture)
    return Plain(family, picture, skewed, modules_of(family.model))


@pytest.fixture
def plain():
    return plain_of("SD15")


@pytest.fixture(params=[f"{name}, {place}" for name, places in PLACES.items() for place in places])
def plain_and_path(request):
    name, _, place = request.param.partition(", ")
    return plain_of(name), PLACES[name][place]


@pytest.mark.parametrize(("node", "wrapper"), [*(("skew", each) for each in WRAPPERS), ("probe", Nameless)])
def test_a_module_replaced_after_ours_is_given_back(plain_and_path, node, wrapper):
    plain, path = plain_and_path
    ours, _ = NODES[node](plain.family.model)
    wanted = plain.skewed if node == "skew" else plain.picture
    both, theirs = replaced(ours, path, wrapper)
    for _ in range(2):
        theirs.calls = 0
        assert drawn(plain.family, both).equal(wanted)
        assert theirs.calls
        plain.is_back()


@pytest.mark.parametrize(("node", "wrapper"), [*(("skew", each) for each in WRAPPERS), ("probe", Nameless)])
def test_a_module_replaced_before_ours_is_left_out_and_given_back(sd15, plain, node, wrapper):
    theirs, theirs_alone = replaced(sd15.model, BLOCK, wrapper)
    with pytest.raises(ValueError, match=r"replaced the modules of middle\.0\.0 as a whole.* Put that node after"):
        NODES[node](theirs, blocks="middle")
    both, _ = NODES[node](theirs)
    wanted, _ = replaced(NODES[node](sd15.model, blocks="input, output")[0], BLOCK, wrapper)
    assert drawn(sd15, both).equal(drawn(sd15, wanted))
    plain.is_back()
    assert theirs_alone.calls


def test_the_order_that_the_error_advises_skews_the_site(sd15, plain):
    ours, report = skew(sd15.model, blocks="middle")
    wanted = drawn(sd15, ours)
    both, _ = replaced(ours, BLOCK, Nameless)
    assert drawn(sd15, both).equal(wanted)
    assert "1 of 1 chosen sites reached" in report.describe()
    assert not wanted.equal(plain.picture)
    plain.is_back()


# The host cannot apply a patch at a name that the module of the first pack lacks.
@pytest.mark.parametrize(
    ("wrapper", "places"),
    [
        (wrapper, places)
        for wrapper in WRAPPERS
        for places in [(BLOCK, SITE), (SITE, BLOCK), (BLOCK, BLOCK), (SITE, SITE)]
        if wrapper is not Nameless or places != (BLOCK, SITE)
    ],
)
def test_two_packs_replace_modules_in_each_other(sd15, plain, wrapper, places):
    """The second patches what it finds, in the first one's module where that has the name."""
    ours, _ = skew(sd15.model)
    first, one = replaced(ours, places[0], wrapper)
    both, other = replaced(first, places[1], wrapper)
    for _ in range(2):
        one.calls = other.calls = 0
        assert drawn(sd15, both).equal(plain.skewed)
        assert one.calls
        # Nothing calls a site that was wrapped for a block which holds the site itself.
        assert bool(other.calls) is (places != (BLOCK, SITE))
        plain.is_back()


def test_both_our_nodes_and_theirs_between_them(sd15, plain):
    skewed, _ = skew(sd15.model)
    between, _ = replaced(skewed, BLOCK, Nameless)
    measured, trace = probe(between)
    last, _ = replaced(measured, f"{OTHER}.attn1", Transparent)
    for _ in range(2):
        assert drawn(sd15, last).equal(plain.skewed)
        plain.is_back()
    assert "Left out, because another node has replaced these modules: middle.0.0." in trace.runs[-1].notes


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_the_plan_finds_all_sites_while_others_modules_stand(sd15, plain, wrapper):
    """ComfyUI takes patches back at the next load, so a node may see the network with those of another clone."""
    inner, _ = replaced(skew(sd15.model)[0], SITE, wrapper)
    theirs, _ = replaced(inner, BLOCK, wrapper)
    drawn(sd15, theirs)
    patched, report = skew(sd15.model)
    assert "7 of 7 attention sites" in report.plan
    assert drawn(sd15, patched).equal(plain.skewed)
    plain.is_back()


def test_a_network_replaced_as_a_whole_is_found_and_given_back(sd15, plain):
    ours, _ = skew(sd15.model)
    both, theirs = replaced(ours, "diffusion_model", Transparent)
    assert drawn(sd15, both).equal(plain.skewed)
    assert theirs.calls
    patched, report = skew(sd15.model)
    assert "7 of 7 attention sites" in report.plan
    assert drawn(sd15, patched).equal(plain.skewed)
    plain.is_back()


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("path", [BLOCK, SITE])
def test_a_load_without_sampling_is_given_back(sd15, plain, path, wrapper):
    """Packs load a model to save it or to call it themselves; the second load finds the weights in their place."""
    both, _ = replaced(skew(sd15.model)[0], path, wrapper)
    for _ in range(2):
        comfy.model_management.load_models_gpu([both])
        plain.is_back()
    comfy.model_management.unload_all_models()
    comfy.model_management.load_models_gpu([both])
    comfy.model_management.unload_all_models()
    plain.is_back()


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("path", [BLOCK, SITE])
def test_a_load_that_fails_ends_in_its_own_error(sd15, plain, monkeypatch, path, wrapper):
    def fails(*args, **kwargs):
        raise torch.OutOfMemoryError("while the weights were loaded")

    ours, report = skew(sd15.model)
    both, _ = replaced(ours, path, wrapper)
    comfy.model_management.unload_all_models()
    with monkeypatch.context() as patched_host:
        patched_host.setattr(type(both), "load", fails)
        with pytest.raises(torch.OutOfMemoryError, match="while the weights were loaded"):
            drawn(sd15, both)
    assert report.runs[-1].status == "failed (OutOfMemoryError)"
    plain.is_back()


@pytest.mark.parametrize("path", [BLOCK, SITE])
def test_a_dropped_model_is_given_back(sd15, plain, path):
    both, _ = replaced(skew(sd15.model)[0], path, Nameless)
    drawn(sd15, both)
    del both
    gc.collect()
    plain.is_back()


def test_a_cancelled_run_is_given_back(sd15, plain):
    both, _ = replaced(skew(sd15.model)[0], BLOCK, Nameless)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        sd15.sample(both, callback=stop_at(1))
    plain.is_back()


@pytest.mark.parametrize("path", [BLOCK, SITE])
def test_a_replaced_module_on_a_dynamic_patcher_is_given_back(sd15, path, monkeypatch):
    patcher = dynamic_on_cpu(sd15.build().model, monkeypatch)
    plain, modules = drawn(sd15, patcher), modules_of(patcher)
    ours, _ = skew(patcher)
    wanted = drawn(sd15, ours)
    both, theirs = replaced(ours, path, KeepingNames)
    for _ in range(2):
        theirs.calls = 0
        assert drawn(sd15, both).equal(wanted)
        assert theirs.calls
        assert drawn(sd15, patcher).equal(plain)
        assert modules_of(patcher) == modules
    assert wanted.equal(drawn(sd15, skew(sd15.model)[0]))


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("path", [BLOCK, SITE])
def test_a_moved_clone_with_a_replaced_module_is_given_back(sd15, path, wrapper, monkeypatch):
    """Another pack's module comes along to the other network. What it wraps is that pack's, ours is put in order."""
    other = build("SD15", SD15, salt="other")
    plain, modules = drawn(sd15, other), modules_of(other)
    patcher = dynamic_on_cpu(sd15.build().model, monkeypatch, classic=other)
    here = drawn(sd15, patcher), modules_of(patcher)
    both, theirs = replaced(skew(patcher)[0], path, wrapper)
    order = list(both.object_patches)
    clone = both.clone(disable_dynamic=True)
    assert clone.model is other.model
    assert list(clone.object_patches) == order
    for _ in range(2):
        theirs.calls = 0
        assert not drawn(sd15, clone).equal(plain)
        assert theirs.calls
        assert drawn(sd15, other).equal(plain)
        assert modules_of(other) == modules
    if wrapper is KeepingNames:
        drawn(sd15, both)
    assert drawn(sd15, patcher).equal(here[0])
    assert modules_of(patcher) == here[1]


def test_a_function_that_wraps_ours_in_every_attribute_stays_theirs(sd15, monkeypatch):
    """`functools.wraps` copies what hangs on our function too."""
    other = build("SD15", SD15, salt="other")
    ours, _ = skew(dynamic_on_cpu(sd15.build().model, monkeypatch, classic=other))
    inner, calls = ours.object_patches[f"{SITE}.forward"], []

    @functools.wraps(inner)
    def theirs(*args, **kwargs):
        calls.append(args)
        return inner(*args, **kwargs)

    both = ours.clone()
    both.add_object_patch(f"{SITE}.forward", theirs)
    assert drawn(sd15, both).equal(drawn(sd15, ours))
    assert calls
    clone = both.clone(disable_dynamic=True)
    assert clone.model is other.model
    assert clone.object_patches[f"{SITE}.forward"] is theirs


@pytest.mark.parametrize("seed", range(6))
def test_random_piles_of_nodes_and_wrappers_are_given_back(sd15, plain, seed):
    """Nodes of ours and wrappers of others at random places, in random order, from random clones."""
    chance = random.Random(seed)
    models = [skew(sd15.model)[0]]  # without ours the host undoes others' in their own order
    for _ in range(6):
        model = chance.choice(models)
        if chance.random() < 0.5:
            path = chance.choice([BLOCK, SITE, f"{SITE}.to_q", OTHER, f"{OTHER}.attn1"])
            is_named = not any(path.startswith(f"{each}.") for each in model.object_patches)
            models.append(replaced(model, path, chance.choice(WRAPPERS) if is_named else Transparent)[0])
        else:
            models.append(chance.choice([skew, probe])(model)[0])
        if chance.random() < 0.5:
            drawn(sd15, models[-1])
    for model in chance.sample(models, len(models)):
        drawn(sd15, model)
    plain.is_back()
