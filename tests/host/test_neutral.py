"""γ = 1 and β = 0 leave the model as it was, to the last bit, before and after every other use of it."""

from __future__ import annotations

import comfy.model_management
import pytest
from symmetric_attention.nodes.gamma_schedule import GammaScheduleNode

from lab.testing.recorder import distance
from lab.testing.run_nodes import execute, skew, stop_at

NEUTRAL = {"gamma 1": {"gamma": 1.0, "beta": 3.0}, "beta 0": {"gamma": 1.5, "beta": 0.0}}


@pytest.fixture
def flat_schedule():
    shape = {"shape": "constant", "start_gamma": 1.0, "end_gamma": 2.0, "start": 0.0, "end": 1.0}
    return execute(GammaScheduleNode, **shape)[0]


@pytest.mark.parametrize("setting", NEUTRAL)
def test_neutral_settings_give_the_same_bits(family, setting):
    patched, _ = skew(family.model, **NEUTRAL[setting])
    assert family.sample(patched).equal(family.picture)


@pytest.mark.parametrize("setting", NEUTRAL)
def test_neutral_settings_patch_nothing(family, setting):
    patched, _ = skew(family.model, **NEUTRAL[setting])
    assert patched is not family.model
    assert patched.model is family.model.model
    assert not patched.object_patches
    assert not any(patched.wrappers.values())
    assert patched.model_options == family.model.model_options


def test_a_schedule_that_is_one_all_along_is_neutral(family, flat_schedule):
    patched, _ = skew(family.model, gamma=1.5, schedule=flat_schedule)
    assert not patched.object_patches
    assert family.sample(patched).equal(family.picture)


@pytest.mark.parametrize("adaptive", ["gamma", "gamma and beta"])
def test_gamma_one_is_neutral_when_adaptive_too(family, adaptive):
    patched, _ = skew(family.model, gamma=1.0, beta=3.0, adaptive=adaptive)
    assert not patched.object_patches
    assert family.sample(patched).equal(family.picture)


@pytest.mark.parametrize("gamma", [1.5, 1.05, 0.0, -1.0])
def test_any_other_gamma_changes_the_picture(family, gamma):
    changed = family.sample(skew(family.model, gamma)[0])
    assert distance(changed, family.picture) > 1e-3 * family.picture.norm()


def test_the_plain_model_gives_the_same_bits_after_a_patched_run(family):
    before = family.picture
    family.sample(skew(family.model)[0])
    assert family.sample().equal(before)


def test_the_same_patched_model_gives_the_same_bits_twice(family):
    patched, _ = skew(family.model, beta=3.0)
    assert family.sample(patched).equal(family.sample(patched))


def test_a_cancelled_run_leaves_nothing_behind(family):
    before = family.picture
    patched, _ = skew(family.model)
    whole = family.sample(patched)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        family.sample(patched, callback=stop_at(0))
    assert family.sample().equal(before)
    assert family.sample(patched).equal(whole)


def test_two_gammas_taken_in_turns_stay_apart(family):
    strong, _ = skew(family.model, gamma=1.5)
    weak, _ = skew(family.model, gamma=0.5)
    first = family.sample(strong), family.sample(weak)
    assert family.sample(strong).equal(first[0])
    assert family.sample(weak).equal(first[1])
    assert not first[0].equal(first[1])
