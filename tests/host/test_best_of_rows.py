"""Every kept seed equals the same seed sampled by itself, with every kind of sampler."""

from __future__ import annotations

import comfy.model_management
import comfy.samplers
import comfy_extras.nodes_custom_sampler as custom_sampler
import pytest
import torch
from comfy.k_diffusion import sampling as k_diffusion_sampling
from symmetric_attention.nodes.host.best_of import live_rows
from torch.overrides import _get_current_function_mode_stack

from lab.testing.best_of import STEPS, alone, assert_as_alone, best_of, inputs_of, rows_computed
from lab.testing.families.building import build
from lab.testing.families.configs import SD15
from lab.testing.families.family import draw
from lab.testing.prompted import cfg_guider, dual_cfg
from lab.testing.recorder import distance
from lab.testing.run_nodes import execute

# With a history, with several calls a step, with each kind of noise, with a function of its own in the guidance.
SAMPLERS = [
    *("dpmpp_2m", "uni_pc", "res_multistep", "heunpp2", "dpm_fast", "ddim", "euler_ancestral"),
    *("dpmpp_sde", "dpmpp_3m_sde", "er_sde", "lcm", "sa_solver_pece", "euler_ancestral_cfg_pp"),
]
MASK = torch.linspace(0, 1, 64).reshape(1, 8, 8)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_what_is_kept_is_what_its_seed_gives_by_itself(sd15, sampler):
    inputs = inputs_of(sd15, sampler=sampler)
    latent, *_ = best_of(inputs)
    assert len(latent["batch_index"]) == 2
    assert_as_alone(inputs, latent)


def test_a_flow_model_is_sampled_as_well(flux):
    inputs = inputs_of(flux, sampler="er_sde")
    latent, *_ = best_of(inputs)
    assert_as_alone(inputs, latent)


@pytest.mark.newest  # the oldest host has no such family
@pytest.mark.rows(lambda row: row.name == "TripoSplat")
def test_the_parts_of_a_nested_latent_stay_together(runs):
    start = runs.row.empty(runs.row.noise())
    inputs = inputs_of(runs.row, sampler="euler_ancestral", latent={"samples": start})
    latent, *_ = best_of(inputs)
    for row, offset in enumerate(latent["batch_index"]):
        for part, whole in zip(latent["samples"].unbind(), alone(inputs, offset).unbind(), strict=True):
            assert torch.equal(part[row : row + 1], whole)


def test_all_candidates_kept_are_plain_samples(sd15):
    inputs = inputs_of(sd15, sampler="dpmpp_2m_sde")
    latent, *_ = best_of(inputs, candidates=2, keep=2)
    assert latent["batch_index"] == [0, 1]
    assert_as_alone(inputs, latent)


def test_a_run_of_one_step_is_judged_at_its_end(sd15):
    inputs = inputs_of(sd15, steps=1)
    latent, *_ = best_of(inputs)
    assert len(latent["batch_index"]) == 2
    assert_as_alone(inputs, latent)


def test_a_sampler_that_stirs_the_noise_draws_it_by_row(sd15):
    inputs = inputs_of(sd15)
    inputs["sampler"] = comfy.samplers.ksampler("euler", {"s_churn": 2.0})
    latent, *_ = best_of(inputs)
    assert_as_alone(inputs, latent)


def test_a_mask_and_a_place_in_a_batch_are_respected(sd15):
    start = {"samples": draw("start", (1, *sd15.latent)), "noise_mask": MASK, "batch_index": [2]}
    inputs = inputs_of(sd15, sampler="ddim", latent=start)
    latent, *_ = best_of(inputs)
    assert torch.equal(latent["noise_mask"], MASK)
    for row, place in enumerate(latent["batch_index"]):
        assert torch.equal(latent["samples"][row : row + 1], alone(inputs, place - 2))


def test_every_row_gets_the_prompt_and_the_mask_of_a_batch_of_one(sd15):
    """Of a prompt with several rows, and of several masks, a batch of one gets the first."""
    text, options = sd15.conditioning("cond")[0]
    several = [
        [torch.cat([text, draw("another", text.shape)]), {**options, "mask": torch.stack([MASK[0], 1 - MASK[0]])}]
    ]
    inputs = inputs_of(sd15, guider=cfg_guider(sd15.model, several, sd15.conditioning("uncond")))
    latent, *_ = best_of(inputs, images_at_once=1)
    assert_as_alone(inputs, latent)
    together, *_ = best_of(inputs, images_at_once=0)
    assert distance(together["samples"], latent["samples"]) <= 1e-4 * latent["samples"].norm()


def test_three_prompts_and_two_models_leave_the_same_rows_out(sd15):
    second = build("SD15", SD15, salt="another")
    guiders = [dual_cfg(sd15, sd15.model)]
    if hasattr(custom_sampler, "DualModelGuider"):
        texts = {"positive": sd15.conditioning("cond"), "negative": sd15.conditioning("uncond")}
        guiders += execute(custom_sampler.DualModelGuider, model=sd15.model, model_negative=second, cfg=3.0, **texts)
    for guider, prompts in zip(guiders, (3, 1), strict=False):
        inputs = inputs_of(sd15, guider=guider)
        with rows_computed(sd15.model) as rows, rows_computed(second) as others:
            latent, *_ = best_of(inputs)
        assert sum(rows) == prompts * (3 * 2 + 2 * 2)
        assert sum(others) == (0 if prompts == 3 else 3 * 2 + 2 * 2)
        assert_as_alone(inputs, latent)
    comfy.model_management.unload_all_models()


def test_no_result_depends_on_how_many_are_computed_at_once(sd15, monkeypatch):
    inputs = inputs_of(sd15, sampler="dpmpp_2m")
    one_by_one, *_ = best_of(inputs)
    with rows_computed(sd15.model) as rows:
        together, *_ = best_of(inputs, images_at_once=0)
    assert rows == [6, 6, 4, 4]  # both prompts in one call

    def network(executor, x, *args, **kwargs):
        if len(x) > 4:
            raise torch.OutOfMemoryError("no room for three images")
        return executor(x, *args, **kwargs)

    small = sd15.model.clone()
    small.add_wrapper("apply_model", network)
    monkeypatch.setattr(live_rows, "is_out_of_memory", lambda error: isinstance(error, torch.OutOfMemoryError))
    cramped = {**inputs, "guider": cfg_guider(small, sd15.conditioning("cond"), sd15.conditioning("uncond"))}
    with rows_computed(sd15.model) as rows:
        split, *_ = best_of(cramped, images_at_once=0)
    assert rows == [4, 2, 4, 2, 4, 4]
    for other in (together, split):
        assert other["batch_index"] == one_by_one["batch_index"]
        assert distance(other["samples"], one_by_one["samples"]) <= 1e-4 * one_by_one["samples"].norm()


def test_a_cancelled_run_leaves_nothing_behind(sd15, monkeypatch):
    inputs = inputs_of(sd15, sampler="dpmpp_sde")
    before, *_ = best_of(inputs)
    tree, options = k_diffusion_sampling.BatchedBrownianTree, sd15.model.model_options
    calls = []

    def interrupt(*args, **kwargs):
        calls.append(args)
        if len(calls) == STEPS:
            raise comfy.model_management.InterruptProcessingException

    handle = sd15.model.model.diffusion_model.register_forward_pre_hook(interrupt)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        best_of(inputs)
    handle.remove()
    assert k_diffusion_sampling.BatchedBrownianTree is tree
    assert not _get_current_function_mode_stack()
    assert "best_of" not in str(options)
    after, *_ = best_of(inputs)
    assert torch.equal(before["samples"], after["samples"])
    assert before["batch_index"] == after["batch_index"]
    assert_as_alone(inputs, after)
