"""Copies: of the options of a model call in the middle of a run, of the network, of the patcher and of our handles.

A copy of the options reports to the same run. A copy of the network runs its own weights, and holds nothing of ours
that acts.
"""

from __future__ import annotations

import copy
import io

import comfy.samplers
import pytest
import torch
from comfy.patcher_extension import WrappersMP

from lab.testing.families.building import on_cpu
from lab.testing.families.rows import STEPS
from lab.testing.prompted import cfg_guider, sample_by
from lab.testing.run_nodes import patches_of, probe, skew, through

NODES = {
    "skew": lambda model: skew(model),
    "adaptive": lambda model: skew(model, beta=3.0, adaptive="gamma and beta"),
    "probe": lambda model: probe(model),
    "both": lambda model: through("probe first", model),
    "two": lambda model: skew(skew(model, gamma=0.4, apply_to="cond")[0], apply_to="uncond"),
}


@pytest.fixture(params=["SD15", "Flux"])
def family(request, families):
    return families[request.param]


def call_network(family, network):
    """Return the output of a network that a script calls directly."""
    x, text = family.noise(), family.conditioning("cond")
    extra = {} if family.name == "SD15" else {"y": text[0][1]["pooled_output"], "guidance": torch.tensor([3.5])}
    with torch.no_grad():
        return network(x, torch.tensor([0.5]), text[0][0], **extra, transformer_options={})


def faded(network):
    """The network with other weights, as after some steps of an average over training."""
    with torch.no_grad():
        for weight in network.parameters():
            weight.mul_(0.9)
    return network


def copied_with_its_configuration(model):
    """A copy of a model or a patcher. The host's configuration answers any name with None, so it cannot be copied."""
    config = getattr(model, "model", model).model_config
    return copy.deepcopy(model, {id(config): config})


def saved_and_loaded(network):
    """The network through PyTorch's own file of a whole module."""
    file = io.BytesIO()
    torch.save(network, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = {"copied": copy.deepcopy, "saved": saved_and_loaded}


@pytest.fixture(scope="module")
def fresh_outputs() -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """By family, what a network that nothing was ever done to gives, and what it gives once it is faded."""
    return {}


def of_a_fresh_network(family, fresh_outputs):
    if family.name not in fresh_outputs:
        network = family.build().model.diffusion_model
        fresh_outputs[family.name] = (call_network(family, network), call_network(family, faded(network)))
    return fresh_outputs[family.name]


@pytest.mark.parametrize("node", NODES)
def test_options_are_copied_in_the_middle_of_a_run(family, node):
    """Packs for InstructPix2Pix and guiders copy in a post-CFG function, others at a block."""
    model, _ = NODES[node](family.model)
    wanted = family.sample(model)
    copies = []

    def after_cfg(args):
        copies.append(copy.deepcopy(args["model_options"]))
        return args["denoised"]

    def around_the_model(apply_model, args):
        copies.append(copy.deepcopy(args["c"]["transformer_options"]))
        return apply_model(args["input"], args["timestep"], **copy.deepcopy(args["c"]))

    def at_a_block(q, k, v, extra_options):
        copies.append(copy.deepcopy(extra_options))
        return q, k, v

    def after_a_block(out, extra_options):
        copies.append(copy.deepcopy(extra_options))
        return out

    copying = model.clone()
    copying.set_model_sampler_post_cfg_function(after_cfg)
    copying.set_model_unet_function_wrapper(around_the_model)
    if family.name == "SD15":
        copying.set_model_attn1_output_patch(after_a_block)
        copying.set_model_attn2_patch(at_a_block)
    assert family.sample(copying).equal(wanted)
    assert len(copies) > STEPS


class NotCopied:
    """An object that another pack may keep beside a prompt or in a noise schedule."""

    def __deepcopy__(self, memo):
        raise TypeError("cannot be copied")


@pytest.mark.parametrize("node", NODES)
def test_a_copy_of_the_options_copies_nothing_of_other_packs(sd15, node, monkeypatch):
    monkeypatch.setattr(sd15.model.model.model_sampling, "of_another_pack", NotCopied(), raising=False)
    prompts = [sd15.conditioning(name) for name in ("cond", "uncond")]
    for (_, extra), *_ in prompts:
        extra["of_another_pack"] = NotCopied()
    model, _ = NODES[node](sd15.model)
    copies = []

    def copying(executor, *args, **kwargs):
        options = kwargs.get("transformer_options") or next(each for each in args if isinstance(each, dict))
        copies.append(copy.deepcopy({name: each for name, each in options.items() if "symmetric" in str(name)}))
        return executor(*args, **kwargs)

    model = model.clone()
    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "a pack", copying)
    sample_by(sd15, cfg_guider(model, *prompts))
    assert any(copies)


@pytest.mark.parametrize("node", NODES)
def test_options_that_are_not_of_the_run_stay_as_they_are(sd15, node):
    """The default argument of the host's guider is one dictionary for all runs."""
    model, _ = NODES[node](sd15.model)
    other = {}

    class Guider(comfy.samplers.CFGGuider):
        def predict_noise(self, x, timestep, model_options={}, seed=None):  # noqa: B006, as the host has it
            super().predict_noise(x, timestep, other)
            return super().predict_noise(x, timestep, model_options, seed)

    guider = Guider(model)
    guider.set_conds(sd15.conditioning("cond"), sd15.conditioning("uncond"))
    guider.set_cfg(3.0)
    sample_by(sd15, guider)
    assert other == {}


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_a_call_with_copied_options_is_reported_with_its_run(sd15, copied):
    """Model calls of another pack's guider with copied options are skewed and counted in their run."""
    model, report = skew(sd15.model)
    results = []

    def again(args):
        cond, options = args["cond"], args["model_options"]
        arguments = args["model"], [cond], args["input"], args["sigma"]
        for each in (copied(options), options):
            results.append(comfy.samplers.calc_cond_batch(*arguments, each)[0])
        return args["denoised"]

    plain = sd15.sample(model)
    calls = report.runs[-1].model_calls
    guided = model.clone()
    guided.set_model_sampler_post_cfg_function(again)
    assert sd15.sample(guided).equal(plain)
    assert len(report.runs) == 2
    assert report.runs[-1].model_calls == calls + len(results)
    for one, other in zip(results[::2], results[1::2], strict=True):
        assert one.equal(other)


@pytest.mark.parametrize("node", ["skew", "probe", "two"])
@pytest.mark.parametrize("way", COPIES)
def test_a_copied_network_runs_its_own_weights(family, fresh_outputs, node, way):
    """A copy made while the model is sampled, and one made after it."""
    plain, wanted = of_a_fresh_network(family, fresh_outputs)
    model, _ = NODES[node](family.model)
    copies = []

    def copied(*_):
        copies.append(COPIES[way](family.model.model.diffusion_model))

    family.sample(model, steps=1, callback=copied)
    copied()
    assert len(copies) == 2
    for network in copies:
        assert call_network(family, network).equal(plain)
        assert call_network(family, faded(network)).equal(wanted)
    assert call_network(family, family.model.model.diffusion_model).equal(plain)


def test_a_copied_network_is_plain_and_can_be_patched_anew(family):
    fresh = family.build()
    plain, wanted = family.sample(fresh), family.sample(skew(fresh, gamma=0.4)[0])
    family.sample(skew(family.model)[0])
    copied = on_cpu(copied_with_its_configuration(family.model.model))
    assert family.sample(copied).equal(plain)
    patched, report = skew(copied, gamma=0.4)
    assert family.sample(patched).equal(wanted)
    assert set(report.runs[-1].site_calls) == set(family.sites)
    assert family.sample(copied).equal(plain)
    for path, module in copied.model.named_modules():
        assert not hasattr(module.forward, "patched_forward"), path


def test_a_copied_patcher_acts_on_its_own_weights_for_the_same_report(family):
    wanted = family.sample(skew(on_cpu(faded(family.build().model)))[0])
    patched, report = skew(family.model)
    here = family.sample(patched)
    copied = copied_with_its_configuration(patched)
    assert copied.model is not patched.model
    faded(copied.model)
    assert family.sample(copied).equal(wanted)
    assert len(report.runs) == 2
    assert set(report.runs[-1].site_calls) == set(family.sites)
    assert family.sample(patched).equal(here)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_a_copied_handle_gets_the_runs_of_its_node(sd15, copied):
    patched, report = skew(sd15.model)
    told = copied(report)
    sd15.sample(patched)
    assert told.describe() == report.describe()
    assert "7 of 7 chosen sites reached" in told.describe()
    assert copied(report.runs[-1]).describe() == report.runs[-1].describe()


def test_a_copied_patch_is_the_same_patch(sd15):
    (patch,) = patches_of(skew(sd15.model)[0])
    assert copy.deepcopy(patch) is copy.copy(patch) is patch
