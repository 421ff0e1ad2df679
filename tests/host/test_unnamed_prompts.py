"""Model calls whose rows a guider does not name, and what the probe calls those that it does."""

from __future__ import annotations

import comfy.samplers
import comfy_extras.nodes_custom_sampler as custom_sampler
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from symmetric_attention.nodes.host.patches.feedback_patch import NOT_BY_SAMPLE, NOTHING_FOLLOWS
from symmetric_attention.nodes.host.patches.side_runs import KEY

from lab.testing.prompted import AREA, TEXTS, assert_acts_on, cfg_guider, dual_cfg, sample_by, watch_texts
from lab.testing.recorder import distance, effect, plainly
from lab.testing.run_nodes import execute, probe, skew, with_feedback


def in_two_tiles(apply_model, arguments):
    """Sample in tiles as packs do: the tiles of all prompts in one model call, ComfyUI's marks as they were."""
    x, given = arguments["input"], dict(arguments["c"])
    options = given.pop("transformer_options")
    half = x.shape[-1] // 2
    tiles = torch.cat([x[..., :half], x[..., half:]])
    given = {name: torch.cat([value, value]) for name, value in given.items()}
    sigma = arguments["timestep"].repeat(2)
    left, right = apply_model(tiles, sigma, **given, transformer_options=options).chunk(2)
    return torch.cat([left, right], dim=-1)


@pytest.mark.parametrize("apply_to", ["cond", "uncond"])
def test_tiles_in_one_call_are_skipped_by_one_side_and_said_so(sd15, memory, apply_to):
    theirs = sd15.model.clone()
    theirs.set_model_unet_function_wrapper(in_two_tiles)
    plain = sd15.sample(theirs)
    patched, report = skew(theirs, apply_to=apply_to)
    assert sd15.sample(patched).equal(plain)
    assert "did not have one row for each prompt and image" in report.runs[-1].warning
    assert report.runs[-1].warning.endswith(
        f'Set "apply_to" to "both" to change them too. No other images belong to the {apply_to} pass, so the image is '
        "that of the unpatched model."
    )
    on_both, report = skew(theirs)
    with watch_texts(on_both, sd15, TEXTS) as calls:
        assert not sd15.sample(on_both).equal(plain)
    assert_acts_on(sd15, calls, lambda name: True)
    assert report.runs[-1].warning is None


def test_feedback_beside_tiles_does_not_say_that_nothing_acted(sd15):
    """Skew Attention acts with a γ of its own where it is not known to which images a call belongs."""
    theirs = sd15.model.clone()
    theirs.set_model_unet_function_wrapper(in_two_tiles)
    model, trace = with_feedback(skew(theirs, gamma=1.5)[0])
    assert not sd15.sample(model).equal(sd15.sample(theirs))
    assert NOT_BY_SAMPLE in trace.summary()
    assert NOTHING_FOLLOWS not in trace.summary()


class ByHand(comfy.samplers.CFGGuider):
    """A guider that evaluates its prompts the other way round, and those it is given by `extra` besides."""

    extra = ()

    def predict_noise(self, x, timestep, model_options, seed=None):
        lists = [self.conds["negative"], None, self.conds["positive"], *self.extra]
        out = comfy.samplers.calc_cond_batch(self.inner_model, lists, x, timestep, model_options)
        return out[0] + 3.0 * (out[2] - out[0]) + sum(out[3:])


def by_hand(model, sd15):
    guider = ByHand(model)
    guider.set_conds(sd15.conditioning("cond"), sd15.conditioning("uncond"))
    return guider


@pytest.mark.parametrize("apply_to", ["cond", "uncond"])
def test_a_guider_may_evaluate_its_prompts_in_any_order(sd15, memory, apply_to):
    patched, _ = skew(sd15.model, apply_to=apply_to)
    with watch_texts(patched, sd15, TEXTS) as calls:
        sample_by(sd15, by_hand(patched, sd15), batch=2)
    assert_acts_on(sd15, calls, lambda name: name == apply_to)


def test_ids_changed_during_the_run_are_those_the_guider_has_now(sd15):
    patched, report = skew(sd15.model, apply_to="cond")
    guider = by_hand(patched, sd15)

    def renew(x, timestep, model_options, seed=None):
        guider.conds = {name: [{**each, "uuid": object()} for each in guider.conds[name]] for name in guider.conds}
        return ByHand.predict_noise(guider, x, timestep, model_options, seed)

    guider.predict_noise = renew
    with watch_texts(patched, sd15, TEXTS) as calls:
        sample_by(sd15, guider, steps=2)
    assert_acts_on(sd15, calls, lambda name: name == "cond")
    assert not report.runs[-1].unplaced


def test_a_row_of_an_unknown_prompt_changes_nothing_for_the_others(sd15, memory):
    """Joined with them in one call or in a call of its own, it is skipped and they are not."""
    patched, report = skew(sd15.model, apply_to="cond")
    guider = by_hand(patched, sd15)

    def predict(x, timestep, model_options, seed=None):
        guider.extra = [[{**guider.conds["positive"][0], "uuid": object()}]]
        return ByHand.predict_noise(guider, x, timestep, model_options, seed)

    guider.predict_noise = predict
    with watch_texts(patched, sd15, TEXTS) as calls:
        sample_by(sd15, guider)
    sites = [(seen, names) for seen, names in calls if not seen.is_cross]
    acted = 0
    for seen, names in sites:
        for row, name in enumerate(names):
            acted += distance(seen.out[row], plainly(seen)[row]) > 0.1 * effect(sd15, seen, 1.5) / len(names)
            if name == "uncond":
                assert distance(seen.out[row], plainly(seen)[row]) <= 1e-3 * effect(sd15, seen, 1.5)
    assert acted == len(sd15.sites)
    assert "the guider did not say which prompt one of them is" in report.describe()


def without_ids(apply_model, arguments):
    """Call the model without the ids of the prompts."""
    given = dict(arguments["c"])
    options = {name: each for name, each in given.pop("transformer_options").items() if name != "uuids"}
    return apply_model(arguments["input"], arguments["timestep"], **given, transformer_options=options)


def test_a_call_without_ids_is_skipped_by_one_side_and_said_so(sd15):
    theirs = sd15.model.clone()
    theirs.set_model_unet_function_wrapper(without_ids)
    patched, report = skew(theirs, apply_to="cond")
    assert sd15.sample(patched).equal(sd15.sample())
    assert "without the ids of its prompts" in report.runs[-1].warning
    assert not sd15.sample(skew(theirs)[0]).equal(sd15.sample())


class CallsTheModel(comfy.samplers.CFGGuider):
    """A guider that calls the model itself, once for each prompt, and says nothing of them."""

    def predict_noise(self, x, timestep, model_options, seed=None):
        given = dict(model_options["transformer_options"])
        texts = [self.conds[name][0]["model_conds"]["c_crossattn"].cond for name in ("negative", "positive")]
        out = [self.inner_model.apply_model(x, timestep, c_crossattn=text, transformer_options=given) for text in texts]
        return out[0] + 3.0 * (out[1] - out[0])


@pytest.mark.parametrize("apply_to", ["both", "cond", "uncond"])
def test_a_guider_that_calls_the_model_itself_is_skipped_by_one_side(sd15, apply_to):
    patched, report = skew(sd15.model, apply_to=apply_to)
    guider = CallsTheModel(patched)
    guider.set_conds(sd15.conditioning("cond"), sd15.conditioning("uncond"))
    with watch_texts(patched, sd15, TEXTS) as calls:
        sample_by(sd15, guider)
    assert {name for _, names in calls for name in names} == {"cond", "uncond"}
    assert_acts_on(sd15, calls, lambda name: apply_to == "both")
    assert ("without the ids of its prompts" in (report.runs[-1].warning or "")) == (apply_to != "both")


def test_where_gamma_acts_on_all_nothing_is_asked_of_the_prompts(sd15):
    for apply_to, count in (("both", 0), ("cond", 1)):
        patched, report = skew(sd15.model, apply_to=apply_to)
        assert len(patched.get_wrappers(WrappersMP.CALC_COND_BATCH, KEY)) == count
        sd15.sample(patched)
        assert bool(report.runs[-1].prompts) == bool(count)
    assert not sd15.model.get_wrappers(WrappersMP.CALC_COND_BATCH, KEY)


# --- the probe


def test_the_probe_calls_prompts_as_the_guider_does(sd15, memory):
    model, trace = probe(sd15.model)
    sample_by(sd15, dual_cfg(sd15, model), steps=2)
    (run,) = trace.runs
    assert set(run.passes) == {"positive", "middle", "negative"}
    assert len(run.steps) == 2
    for name, own in zip(TEXTS, ("positive", "middle", "negative"), strict=True):
        alone, other = probe(sd15.model)
        guider = execute(custom_sampler.BasicGuider, model=alone, conditioning=sd15.conditioning(name))[0]
        sample_by(sd15, guider)
        got, want = run.matrix("energy", own)[:, 0], other.runs[0].matrix("energy", "positive")[:, 0]
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-3 * float(want.abs().max()))


def test_the_probe_does_not_mix_an_area_with_its_copy(sd15, memory):
    model, trace = probe(sd15.model)
    positive = [*sd15.conditioning("cond", **AREA), *sd15.conditioning("more of cond")]
    sample_by(sd15, cfg_guider(model, positive, sd15.conditioning("uncond")))
    assert set(trace.runs[0].passes) == {"positive", "positive 2", "negative", "negative 2"}


def test_the_probe_says_where_a_pass_is_unknown(sd15):
    theirs = sd15.model.clone()
    theirs.set_model_unet_function_wrapper(in_two_tiles)
    model, trace = probe(theirs)
    assert sd15.sample(model).equal(sd15.sample(theirs))
    (run,) = trace.runs
    assert run.passes == ("pass unknown",)
    assert [len(step.samples) for step in run.steps] == [4] * len(run.steps)
    assert any("one row for each prompt and image" in note for note in run.notes)
