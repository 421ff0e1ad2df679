"""Patches belong to one module and one run: clones on another module run that module, and nothing stays behind."""

from __future__ import annotations

import copy
import gc
import sys
import weakref

import comfy.model_management
import pytest
import torch
from symmetric_attention.nodes.host.run_report import RunRecord
from symmetric_attention.sad_core.stability.run import StabilityRun

from lab.testing.devices import dynamic_on_cpu, on_two_devices
from lab.testing.families.building import build
from lab.testing.families.configs import FLUX, SD15
from lab.testing.families.rows import STEPS
from lab.testing.in_process_host import PACK
from lab.testing.recorder import distance, effect, plainly, stated, watch_attention
from lab.testing.run_nodes import patches_of, probe, skew, stop_at, through

CONFIGS = {"SD15": SD15, "Flux": FLUX}


@pytest.fixture(params=list(CONFIGS))
def family(request, families):
    return families[request.param]


@pytest.fixture
def other(family):
    """The same architecture with other weights."""
    return build(family.name, CONFIGS[family.name], salt="other")


@pytest.fixture
def dynamic(family, other, monkeypatch):
    """The plain model behind ComfyUI's dynamic-VRAM patcher, whose classic clones hold the module of `other`."""
    return dynamic_on_cpu(build(family.name, CONFIGS[family.name]).model, monkeypatch, classic=other)


def tripled(forward):
    """Another pack's object patch around the `forward` of a site."""

    def patched(*args, **kwargs):
        out = forward(*args, **kwargs)
        return tuple(3 * part for part in out) if isinstance(out, tuple) else 3 * out

    return patched


def test_the_dynamic_patcher_gives_the_pictures_of_the_classic_one(family, dynamic):
    assert family.sample(dynamic).equal(family.sample())
    assert family.sample(skew(dynamic)[0]).equal(family.sample(skew(family.model)[0]))


def test_a_clone_on_another_module_runs_its_own_weights(family, dynamic, other):
    patched, _ = skew(dynamic)
    clone = patched.clone(disable_dynamic=True)
    assert clone.model is other.model
    assert clone.model is not patched.model
    assert family.sample(clone).equal(family.sample(skew(other)[0]))
    assert distance(family.sample(clone), family.sample(other)) > 1e-3 * family.sample(other).norm()


def test_the_old_clone_keeps_its_own_module(family, dynamic):
    patched, _ = skew(dynamic)
    before = family.sample(patched)
    clone = patched.clone(disable_dynamic=True)
    family.sample(clone)
    assert family.sample(patched).equal(before)
    assert before.equal(family.sample(skew(family.model)[0]))


def test_a_clone_of_a_clone_on_another_module_runs_its_own_weights(family, dynamic, other):
    clone = skew(dynamic)[0].clone().clone(disable_dynamic=True).clone()
    assert family.sample(clone).equal(family.sample(skew(other)[0]))


def test_two_nodes_in_a_row_move_to_another_module(family, dynamic, other):
    first, second = family.sites[0], family.sites[-1]

    def through_both(model):
        return skew(skew(model, gamma=1.5, blocks=f"{first}, {second}")[0], gamma=0.4, beta=3.0, blocks=second)[0]

    clone = through_both(dynamic).clone(disable_dynamic=True)
    assert family.sample(clone).equal(family.sample(through_both(other)))


def test_another_packs_patch_below_ours_stays_in_the_chain(family, dynamic, other):
    path = next(iter(skew(family.model, blocks=family.sites[0])[0].object_patches))
    theirs = tripled(other.get_model_object(path))  # a pack that knows which module the clone will hold
    below, wanted = dynamic.clone(), other.clone()
    for model in (below, wanted):
        model.add_object_patch(path, theirs)
    clone = skew(below)[0].clone(disable_dynamic=True)
    assert family.sample(clone).equal(family.sample(skew(wanted)[0]))
    assert not family.sample(clone).equal(family.sample(skew(dynamic)[0].clone(disable_dynamic=True)))


def test_a_clone_on_another_module_has_its_own_state_and_the_same_report(dynamic):
    patched, report = skew(dynamic)
    clone = patched.clone(disable_dynamic=True)
    (mine,), (theirs,) = patches_of(patched), patches_of(clone)
    assert mine is not theirs
    assert mine.handle is theirs.handle is report
    assert patches_of(patched.clone()) == [mine]


def test_every_run_of_a_moved_clone_is_reported_once(family, dynamic):
    patched, report = skew(dynamic)
    clone = patched.clone(disable_dynamic=True)
    family.sample(clone)
    assert len(report.runs) == 1
    assert set(report.runs[0].site_calls) == set(family.sites)
    family.sample(patched)
    assert len(report.runs) == 2


def test_an_ordinary_clone_shares_patches_and_needs_no_rebuilding(family):
    patched, _ = skew(family.model)
    assert patched.clone().object_patches == patched.object_patches
    assert family.sample(patched.clone()).equal(family.sample(patched))


@pytest.mark.parametrize("is_cancelled", [False, True], ids=["finished", "cancelled"])
def test_no_state_is_left_after_a_run(family, is_cancelled):
    patched, _ = skew(family.model, beta=3.0, adaptive="gamma")
    options = copy.deepcopy({key: str(value) for key, value in patched.model_options["transformer_options"].items()})
    if is_cancelled:
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            family.sample(patched, callback=stop_at(1))
    else:
        family.sample(patched)
    (patch,) = patches_of(patched)
    assert patch.run is None
    assert patch.state.active is False
    assert patch.state.context is None
    assert {key: str(value) for key, value in patched.model_options["transformer_options"].items()} == options
    assert "optimized_attention_override" not in family.model.model_options["transformer_options"]


@pytest.mark.parametrize("node", [skew, probe])
def test_no_run_is_left_on_the_second_device(sd15, node):
    model, _ = node(on_two_devices(sd15))
    sd15.sample(model)
    (second,) = model.get_additional_models_with_key("multigpu")
    (mine,), (theirs,) = patches_of(model), patches_of(second)
    assert mine is not theirs
    assert mine.run is theirs.run is None


def test_nothing_is_active_between_two_model_calls(family):
    patched, _ = skew(family.model, adaptive="gamma")
    (patch,) = patches_of(patched)
    states = []
    family.sample(patched, callback=lambda *_: states.append((patch.state.active, patch.state.context)))
    assert states == [(False, None)] * STEPS


def test_an_error_in_the_middle_of_a_model_call_leaves_no_state(family):
    def fails(*args, **kwargs):
        raise ArithmeticError("in a block")

    patched, report = skew(family.model)
    broken = patched.clone()
    broken.add_object_patch(list(broken.object_patches)[-1], fails)
    with pytest.raises(ArithmeticError):
        family.sample(broken)
    for patch in patches_of(patched):
        assert patch.run is None
        assert patch.state.active is False
    assert report.runs[-1].status == "failed (ArithmeticError)"
    assert family.sample(patched).equal(family.sample(skew(family.model)[0]))


@pytest.mark.parametrize(("node", "record", "text"), [(skew, RunRecord, "describe"), (probe, StabilityRun, "summary")])
def test_the_samplers_error_wins_over_one_in_our_description(sd15, monkeypatch, caplog, node, record, text):
    def undescribed(*_):
        raise TypeError("no words for it")

    def fails(*_):
        raise ArithmeticError("in the sampler")

    patched, _ = node(sd15.model)
    picture = sd15.sample(patched)
    monkeypatch.setattr(record, text, undescribed)
    with pytest.raises(ArithmeticError, match="in the sampler"):
        sd15.sample(patched, callback=fails)
    assert sd15.sample(patched).equal(picture)
    assert "no words for it" in caplog.text
    assert all(patch.run is None for patch in patches_of(patched))


def test_a_model_called_outside_of_sampling_is_plain(family):
    """Some packs call the network themselves; without a sigma there is no progress and so no γ."""
    patched, _ = skew(family.model)
    network = family.model.model.diffusion_model
    family.sample(patched, steps=1)
    x, text = family.noise(), family.conditioning("cond")
    extra = {} if family.name == "SD15" else {"y": text[0][1]["pooled_output"], "guidance": torch.tensor([3.5])}
    with torch.no_grad():
        while_patched = network(x, torch.tensor([0.5]), text[0][0], **extra, transformer_options={})
        family.sample(steps=1)
        plain = network(x, torch.tensor([0.5]), text[0][0], **extra, transformer_options={})
    assert while_patched.equal(plain)


def test_a_plain_run_takes_our_functions_off_the_module(family):
    family.sample(skew(family.model)[0])
    family.sample()
    for module in family.model.model.diffusion_model.modules():
        assert not hasattr(module.forward, "patched_forward")


def test_a_dropped_model_is_freed(family):
    patched, report = skew(family.model)
    family.sample(patched)
    patch = weakref.ref(patches_of(patched)[0])
    del patched, report
    family.sample()
    gc.collect()
    assert patch() is None


def test_nothing_of_a_run_is_kept_at_module_level(family):
    def kept():
        return {
            (name, key): repr(value)
            for name, module in list(sys.modules.items())
            if name.partition(".")[0] == PACK
            for key, value in vars(module).items()
            if not key.startswith("__")
        }

    family.sample(skew(family.model, beta=3.0, adaptive="gamma")[0])
    before = kept()
    family.sample(skew(family.model, gamma=0.4)[0])
    assert kept() == before


def test_two_models_of_one_run_each_keep_their_own_gamma(family):
    """Some packs sample from another model in the middle of a run."""
    inner, inner_report = skew(family.model, gamma=0.4)
    outer, outer_report = skew(build(family.name, CONFIGS[family.name], salt="other"), gamma=1.5)
    alone = family.sample(outer), family.sample(inner)
    pictures = []
    picture = family.sample(outer, callback=lambda step, *_: pictures.append(family.sample(inner)))
    assert picture.equal(alone[0])
    assert all(each.equal(alone[1]) for each in pictures)
    assert {call.gamma for call in outer_report.runs[-1].calls} == {1.5}
    assert {call.gamma for call in inner_report.runs[-1].calls} == {0.4}


def test_the_sites_of_a_moved_clone_give_what_the_definition_says(family, dynamic):
    clone = skew(dynamic)[0].clone(disable_dynamic=True)
    with watch_attention(clone) as calls:
        family.sample(clone, steps=1)
    for seen in (seen for seen in calls if not seen.is_cross):
        assert distance(seen.out, stated(family, seen, 1.5)) <= 1e-3 * effect(family, seen, 1.5), seen.path
        assert distance(seen.out, plainly(seen)) > 0.01 * plainly(seen).norm(), seen.path


@pytest.mark.parametrize("order", ["probe first", "skew first", "between"])
def test_a_probe_on_a_moved_clone_measures_its_own_weights(family, dynamic, other, order):
    model, trace = through(order, dynamic, beta=3.0)
    wanted, want = through(order, other, beta=3.0)
    assert family.sample(model.clone(disable_dynamic=True)).equal(family.sample(wanted))
    for step, same in zip(trace.runs[-1].steps, want.runs[-1].steps, strict=True):
        assert torch.equal(step.values, same.values)
