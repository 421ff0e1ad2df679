"""A guider that samples two MODELs: each is changed by its own nodes only, and each node reports its own calls."""

from __future__ import annotations

import gc
import inspect
import weakref
from contextlib import contextmanager

import comfy.controlnet
import comfy.model_management
import comfy.sampler_helpers
import comfy.samplers
import comfy_extras.nodes_custom_sampler as custom_sampler
import pytest
import torch
from comfy.patcher_extension import WrappersMP, get_all_wrappers

from lab.testing.families.building import build
from lab.testing.families.configs import SD15
from lab.testing.prompted import cfg_guider, sample_by
from lab.testing.recorder import distance, effect, plainly, stated, watch_attention
from lab.testing.run_nodes import execute, probe, skew, stop_at

STEPS = 2
SHARED = "MODEL of the same checkpoint"


@pytest.fixture
def second(sd15):
    """Another checkpoint of the same family."""
    model = build("SD15", SD15)
    with torch.no_grad():
        for name, weight in model.model.diffusion_model.named_parameters():
            if name.endswith("attn1.to_q.weight"):
                weight *= -1.1
    yield model
    comfy.model_management.unload_all_models()


def dual_model(sd15, model, negative):
    if not hasattr(custom_sampler, "DualModelGuider"):
        pytest.skip("this ComfyUI has no Dual Model CFG Guider")
    texts = {"positive": sd15.conditioning("cond"), "negative": sd15.conditioning("uncond")}
    return execute(custom_sampler.DualModelGuider, model=model, model_negative=negative, cfg=3.0, **texts)[0]


@contextmanager
def outputs_of(model):
    """Collect the outputs of a model's network inside the block."""
    outputs = []
    handle = model.model.diffusion_model.register_forward_hook(lambda _, given, out: outputs.append(out.clone()))
    try:
        yield outputs
    finally:
        handle.remove()


def sampled(sd15, model, negative, steps: int = STEPS):
    """The picture, and the outputs of the two networks."""
    with outputs_of(model) as first, outputs_of(negative) as other:
        picture = sample_by(sd15, dual_model(sd15, model, negative), steps=steps)
    return picture, first, other


def assert_acts(sd15, calls, gammas: dict[bool, float]) -> None:
    """Assert that every site of the first and of the second model gives what the definition says for its γ."""
    for is_second, gamma in gammas.items():
        sites = [seen for seen in calls if not seen.is_cross and seen.path.startswith("second.") == is_second]
        assert sites
        for seen in sites:
            want = plainly(seen) if gamma == 1.0 else stated(sd15, seen, gamma)
            assert distance(seen.out, want) <= 1e-3 * effect(sd15, seen, 1.5), seen.path


def assert_reports(sd15, report, calls: int) -> None:
    run = report.runs[-1]
    assert (run.status, run.model_calls) == ("finished", calls)
    assert set(run.site_calls.values()) == {calls}
    assert set(run.site_calls) == set(sd15.sites)
    assert (run.warning, run.remarks) == (None, [])


@pytest.mark.parametrize("apply_to", ["both", "uncond"])
def test_a_node_on_the_negative_model_acts_there_and_nowhere_else(sd15, second, apply_to):
    plain, first, _ = sampled(sd15, sd15.model, second)
    patched, report = skew(second, apply_to=apply_to)
    with watch_attention(sd15.model, second) as calls:
        picture, own, _ = sampled(sd15, sd15.model, patched)
    assert_acts(sd15, calls, {False: 1.0, True: 1.5})
    assert own[0].equal(first[0])
    assert distance(picture, plain) > 1e-3 * plain.norm()
    assert_reports(sd15, report, STEPS)
    assert f"finished: 7 of 7 chosen sites reached, {7 * STEPS} attention calls" in report.describe()
    assert sampled(sd15, sd15.model, second)[0].equal(plain)


def test_a_node_on_the_negative_model_for_cond_says_it_had_none(sd15, second):
    plain = sampled(sd15, sd15.model, second)[0]
    patched, report = skew(second, apply_to="cond")
    assert sampled(sd15, sd15.model, patched)[0].equal(plain)
    assert report.runs[-1].warning.startswith("This run had no cond pass")


@pytest.mark.parametrize("apply_to", ["both", "cond"])
def test_a_plain_negative_model_keeps_its_bits(sd15, second, apply_to):
    _, _, plain = sampled(sd15, sd15.model, second)
    patched, report = skew(sd15.model, apply_to=apply_to)
    with watch_attention(sd15.model, second) as calls:
        _, _, other = sampled(sd15, patched, second)
    assert_acts(sd15, calls, {False: 1.5, True: 1.0})
    assert other[0].equal(plain[0])
    assert_reports(sd15, report, STEPS)


def test_two_nodes_on_two_models_act_each_on_its_own(sd15, second):
    one, its_report = skew(sd15.model, 1.5)
    other, other_report = skew(second, 0.4)
    for _ in range(2):
        with watch_attention(sd15.model, second) as calls:
            sampled(sd15, one, other)
        assert_acts(sd15, calls, {False: 1.5, True: 0.4})
        assert_reports(sd15, its_report, STEPS)
        assert_reports(sd15, other_report, STEPS)
    assert (len(its_report.runs), len(other_report.runs)) == (2, 2)


def test_probes_on_two_models_measure_each_its_own(sd15, second):
    plain = sampled(sd15, sd15.model, second)[0]
    one, its_trace = probe(sd15.model)
    other, other_trace = probe(second)
    assert sampled(sd15, one, other)[0].equal(plain)
    for trace, name in ((its_trace, "positive"), (other_trace, "negative")):
        (run,) = trace.runs
        assert (run.status, run.passes, len(run.steps)) == ("finished", (name,), STEPS)
        assert set(run.addresses) == set(sd15.sites)
    assert not torch.equal(its_trace.runs[0].matrix("energy"), other_trace.runs[0].matrix("energy"))


@pytest.mark.parametrize("stop", ["cancelled", "failed"])
def test_a_run_that_ends_early_says_so_on_both_models(sd15, second, stop):
    plain = sampled(sd15, sd15.model, second)[0]
    one, its_report = skew(sd15.model)
    other, other_report = skew(second)
    guider = dual_model(sd15, one, other)

    def fail(step, *_):
        raise RuntimeError("no disk")

    callback = stop_at(0) if stop == "cancelled" else fail
    noise, sigmas = sd15.noise(), torch.tensor([5.0, 2.0, 0.0])
    sampler = comfy.samplers.sampler_object("euler")
    expected = comfy.model_management.InterruptProcessingException if stop == "cancelled" else RuntimeError
    with pytest.raises(expected):
        guider.sample(noise, torch.zeros_like(noise), sampler, sigmas, callback=callback, disable_pbar=True, seed=0)
    status = "interrupted" if stop == "cancelled" else "failed (RuntimeError)"
    assert [report.runs[-1].status for report in (its_report, other_report)] == [status, status]
    assert sampled(sd15, sd15.model, second)[0].equal(plain)


def test_the_negative_model_is_sampled_by_itself_afterwards(sd15, second):
    patched, report = skew(second)
    alone = sd15.sample(patched)
    sampled(sd15, sd15.model, patched)
    assert sd15.sample(patched).equal(alone)
    assert [run.model_calls for run in report.runs] == [sd15.steps, STEPS, sd15.steps]
    clone = patched.clone()
    with watch_attention(sd15.model, second) as calls:
        sampled(sd15, sd15.model, clone)
    assert_acts(sd15, calls, {False: 1.0, True: 1.5})
    assert len(report.runs) == 4


# --- one checkpoint for both


def test_of_one_checkpoint_the_first_node_holds_for_both_and_says_so(sd15):
    patched, report = skew(sd15.model)
    with watch_attention(sd15.model) as calls:
        sampled(sd15, patched, sd15.model)
    assert_acts(sd15, calls, {False: 1.5})
    assert report.runs[-1].model_calls == 2 * STEPS
    assert SHARED in report.describe()
    assert "a MODEL of the same checkpoint that did not go through this node" in report.describe()


def test_of_one_checkpoint_a_node_on_the_second_says_it_did_nothing(sd15):
    plain = sampled(sd15, sd15.model, sd15.model.clone())[0]
    patched, report = skew(sd15.model)
    assert sampled(sd15, sd15.model, patched)[0].equal(plain)
    assert SHARED in report.describe()
    assert "did nothing in this run" in report.describe()
    first, its_report = skew(sd15.model, 0.4)
    with watch_attention(sd15.model) as calls:
        sampled(sd15, first, patched)
    assert_acts(sd15, calls, {False: 0.4})
    assert all(SHARED in each.describe() for each in (its_report, report))


def test_one_patched_model_on_both_sides_needs_no_remark(sd15):
    patched, report = skew(sd15.model)
    sampled(sd15, patched, patched)
    assert report.runs[-1].model_calls == 2 * STEPS
    assert SHARED not in report.describe()
    assert len(report.runs) == 1


# --- other ways to a second model


class Refined(comfy.samplers.CFGGuider):
    """A guider that goes on with another MODEL from the second step on, as nodes for refiners do."""

    def __init__(self, model, refiner):
        super().__init__(model)
        self.refiner = refiner
        self.steps = 0

    def outer_sample(self, *args, **kwargs):
        comfy.model_management.load_models_gpu([self.refiner])
        self.refiner.pre_run()
        try:
            return super().outer_sample(*args, **kwargs)
        finally:
            self.refiner.cleanup()

    def predict_noise(self, *args, **kwargs):
        self.steps += 1
        if self.steps == 2:
            self.inner_model = self.refiner.model
        return super().predict_noise(*args, **kwargs)


def shows_other_models(model) -> bool:
    """Return whether this ComfyUI tells the wrappers of a run about a MODEL that is not the guider's."""
    return "model_options" in inspect.signature(model.prepare_state).parameters


@pytest.mark.parametrize("nodes", ["first", "refiner", "both"])
def test_a_model_that_takes_over_in_a_run_acts_by_its_own_nodes(sd15, second, nodes):
    is_shown = shows_other_models(sd15.model)
    first, its_report = skew(sd15.model, 1.5) if nodes != "refiner" else (sd15.model, None)
    refiner, refiner_report = skew(second, 0.4) if nodes != "first" else (second, None)
    guider = Refined(first, refiner)
    guider.set_conds(sd15.conditioning("cond"), sd15.conditioning("uncond"))
    guider.set_cfg(3.0)
    with watch_attention(sd15.model, second) as calls:
        sample_by(sd15, guider, steps=3)
    refined = 1.0 if nodes == "first" or not is_shown else 0.4
    assert_acts(sd15, calls, {False: 1.0 if nodes == "refiner" else 1.5, True: refined})
    if its_report is not None:
        assert_reports(sd15, its_report, 1)
    if refiner_report is not None and is_shown:
        assert_reports(sd15, refiner_report, 2)
    elif refiner_report is not None:
        text = refiner_report.describe()
        assert "This version of ComfyUI does not let a node act in such calls" in text
        assert "the model was not called" not in text


class WithOwnOptions(Refined):
    """A guider that calls another MODEL besides, with options that it keeps."""

    def __init__(self, model, other):
        super().__init__(model, other)
        self.own = {"transformer_options": {}}

    def predict_noise(self, x, timestep, model_options={}, seed=None):  # noqa: B006
        comfy.samplers.calc_cond_batch(self.refiner.model, [self.conds["positive"]], x, timestep, self.own)
        return comfy.samplers.CFGGuider.predict_noise(self, x, timestep, model_options, seed)


@pytest.mark.newest
def test_nothing_of_ours_stays_in_the_options_of_somebody_else(sd15, second):
    if not shows_other_models(sd15.model):
        pytest.skip("this ComfyUI does not let a node act in such calls")
    patched, report = skew(second)
    guider = WithOwnOptions(sd15.model, patched)
    guider.set_conds(sd15.conditioning("cond"), sd15.conditioning("uncond"))
    for runs in (1, 2):
        sample_by(sd15, guider, steps=STEPS)
        assert_reports(sd15, report, STEPS)
        assert len(report.runs) == runs
        assert not get_all_wrappers(WrappersMP.APPLY_MODEL, guider.own, is_model_options=True)


@pytest.mark.newest
def test_prompts_of_a_run_that_never_came_are_not_held(sd15, second):
    patched, _ = skew(second, apply_to="cond")
    text = torch.ones(1, 77, 64)
    held = weakref.ref(text)
    conds = {"positive": [{"cross_attn": text, "uuid": 1}], "middle": [{"cross_attn": text.clone(), "uuid": 2}]}
    comfy.sampler_helpers.prepare_sampling(patched, (1, 4, 8, 8), conds, patched.model_options)
    del text, conds
    gc.collect()
    assert held() is None


class ModelControl(comfy.controlnet.ControlBase):
    """A control net that carries a whole model and calls it with the options of the run."""

    def __init__(self, model):
        super().__init__()
        self.carried = model
        self.outputs = []

    def get_control(self, x_noisy, t, cond, batched_number, transformer_options):
        given = {"c_crossattn": cond["c_crossattn"], "transformer_options": {**transformer_options}}
        self.outputs.append(self.carried.model.apply_model(x_noisy, t, **given))
        return {"middle": [0.01 * self.outputs[-1].mean(dim=1, keepdim=True)[..., ::2, ::2].expand(-1, 64, -1, -1)]}

    def copy(self):
        return self

    def get_models(self):
        return [self.carried]


def test_a_model_of_a_control_net_stays_plain_and_is_not_counted(sd15, second):
    control = ModelControl(second)
    texts = [sd15.conditioning(name, control=control, control_apply_to_uncond=True) for name in ("cond", "uncond")]
    sample_by(sd15, cfg_guider(sd15.model, *texts), steps=STEPS)
    plain = control.outputs[0]
    patched, report = skew(sd15.model)
    control.outputs.clear()
    with watch_attention(sd15.model, second) as calls:
        sample_by(sd15, cfg_guider(patched, *texts), steps=STEPS)
    assert_acts(sd15, calls, {False: 1.5, True: 1.0})
    assert control.outputs[0].equal(plain)
    assert_reports(sd15, report, STEPS)
