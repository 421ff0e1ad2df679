"""The choices, the cost and the texts of Best Of Sampler."""

from __future__ import annotations

import csv
import io
import re

import comfy.model_management
import comfy.samplers
import comfy_extras.nodes_custom_sampler as custom_sampler
import latent_preview
import pytest
import torch
from symmetric_attention.nodes.host.rows import named_rows, numbers_of
from symmetric_attention.nodes.stability_plot import StabilityPlotNode

from lab.testing.best_of import SEED, STEPS, alone, assert_as_alone, best_of, inputs_of, rows_computed
from lab.testing.prompted import cfg_guider
from lab.testing.recorder import distance
from lab.testing.run_nodes import execute, probe, skew
from lab.testing.vision_models import tiny_clip_vision
from sad_core.evaluation.diversity import cosines, rms_distances
from sad_core.evaluation.selection import choose, plan_rounds, rows_through_model
from sad_core.stability.score import StabilityScore

PROBED = "middle.0.0"


@pytest.fixture
def probed(sd15):
    """A probe on one site of the model: the inputs of a sampler, and its trace."""
    model, trace = probe(sd15.model, blocks=PROBED)
    return inputs_of(sd15, model), trace


def scores_alone(inputs, trace, count, steps):
    """The score of each seed over the first steps of its own run."""
    found = []
    for offset in range(count):
        alone(inputs, offset)
        run = trace.runs[-1]
        part = type(run)(run.model, run.sites, run.measures)
        part.restore(run.steps[:steps])
        found.append(StabilityScore().of_run(part)[0])
    return torch.tensor(found, dtype=torch.float64)


def read_csv(table):
    return list(csv.DictReader(io.StringIO(table)))


def test_the_most_stable_are_those_whose_own_runs_score_highest(sd15, probed):
    inputs, trace = probed
    latent, scores, table, measured, summary = best_of(inputs, "most stable", candidates=4)
    want = scores_alone(inputs, trace, 4, STEPS // 2)
    assert latent["batch_index"] == choose("most stable", 2, want)
    assert scores == pytest.approx(want[latent["batch_index"]].tolist(), abs=1e-12)
    assert_as_alone(inputs, latent)
    lines = read_csv(table)
    assert [int(line["seed"]) for line in lines] == [SEED, SEED + 1, SEED + 2, SEED + 3]
    assert [offset for offset, line in enumerate(lines) if line["kept"] == "1"] == latent["batch_index"]
    assert [float(line["score"]) for line in lines] == pytest.approx(want.tolist(), rel=1e-5)
    assert {line["judged_after_step"] for line in lines} == {str(STEPS // 2)}
    (run,) = measured.runs
    assert run.status == "finished"
    for number, step in enumerate(run.steps):
        alive = range(4) if number < STEPS // 2 else latent["batch_index"]
        assert {sample.number for sample in step.samples} == set(alive)
    assert f"{SEED + latent['batch_index'][0]} ({scores[0]:.4g})" in summary
    assert "sites × 4 steps" in execute(StabilityPlotNode, trace=measured)[1]


def test_the_most_different_are_those_whose_predicted_latents_are(sd15):
    inputs = inputs_of(sd15)
    predicted = []
    for offset in range(4):
        x0 = {}
        noise = execute(custom_sampler.RandomNoise, noise_seed=SEED + offset)[0].generate_noise(inputs["latent_image"])
        inputs["guider"].sample(
            noise,
            inputs["latent_image"]["samples"],
            inputs["sampler"],
            inputs["sigmas"],
            callback=lambda step, each, x, steps, x0=x0: x0.setdefault(step, each.clone()),
            disable_pbar=True,
            seed=SEED + offset,
        )
        predicted.append(x0[STEPS // 2 - 1].flatten())
    distances = rms_distances(torch.stack(predicted), torch.stack(predicted))
    latent, scores, *_ = best_of(inputs, candidates=4)
    assert latent["batch_index"] == choose("most different", 2, distances=distances)
    one, other = latent["batch_index"]
    assert scores == pytest.approx([float(distances[one, other])] * 2, rel=1e-6)


class ForgetfulVAE:
    """Decodes a latent to its first channels, and takes all the memory for it."""

    def __init__(self):
        self.seen = []

    def decode(self, latent):
        comfy.model_management.unload_all_models()
        self.seen.append(latent)
        return latent[:, :3].movedim(1, -1).sigmoid()


def test_with_clip_vision_they_are_those_that_show_different_things(sd15):
    """The run goes on as it was, though the model and its patches had to make room."""
    patched, report = skew(sd15.model)
    inputs, vae, vision = inputs_of(sd15, patched), ForgetfulVAE(), tiny_clip_vision()
    latent, scores, *_ = best_of(inputs, candidates=4, vae=vae, clip_vision=vision)
    pictures = [each[:, :3].movedim(1, -1).sigmoid() for each in vae.seen]
    features = torch.cat([vision.encode_image(each)["image_embeds"].float().cpu() for each in pictures])
    distances = (1 - cosines(features, features)).fill_diagonal_(0)
    assert latent["batch_index"] == choose("most different", 2, distances=distances)
    one, other = latent["batch_index"]
    assert scores == pytest.approx([float(distances[one, other])] * 2, abs=1e-5)
    assert report.runs[-1].model_calls == 4 * STEPS // 2 + 2 * STEPS // 2
    assert_as_alone(inputs, latent)


def test_the_model_computes_what_the_plan_says(sd15):
    inputs, steps = inputs_of(sd15, steps=10), 10
    with rows_computed(sd15.model) as rows:
        _, _, _, _, summary = best_of(inputs, candidates=8, decide_at=0.3, images_at_once=0)
    assert sum(rows) == 2 * rows_through_model(plan_rounds(8, 2, 0.3, 1, steps), 8, steps)
    assert sum(rows) / 2 <= 4.0 * steps
    assert "This cost as much as 3.8 finished images. The model computed 38 image steps (one image in one" in summary
    assert summary.endswith(" Finishing every candidate would have taken 80.")


@pytest.mark.newest
def test_several_rounds_drop_some_earlier(sd15):
    inputs = inputs_of(sd15, steps=8)
    with rows_computed(sd15.model) as rows:
        latent, *_ = best_of(inputs, candidates=8, decide_at=0.5, rounds=2, images_at_once=0)
    assert [count // 2 for count in rows] == [8, 8, 4, 4, 2, 2, 2, 2]
    assert len(latent["samples"]) == 2


def test_the_gate_draws_again_until_the_score_is_high_enough(probed):
    inputs, trace = probed
    want = scores_alone(inputs, trace, 4, STEPS // 2)
    first, second = want[:2].max(), want[2:].max()
    settings = {"candidates": 2, "keep": 1, "max_tries": 2}
    low, high = sorted([float(first), float(second)])
    latent, scores, table, _, summary = best_of(inputs, "most stable", threshold=(low + high) / 2, **settings)
    tries = 1 if first > second else 2
    assert scores == [pytest.approx(high)]
    assert latent["batch_index"] == [int(want.argmax())]
    assert f"The gate was passed after {tries} of 2 tries" in summary
    assert len(read_csv(table)) == 2 * tries
    assert_as_alone(inputs, latent)


def test_where_the_gate_is_never_passed_the_best_run_is_gone_on_with(sd15, probed):
    inputs, trace = probed
    want = scores_alone(inputs, trace, 4, STEPS // 2)
    tries = next(count for count in range(2, 5) if want[:count].argmax() < count - 1)  # the last one is not the best
    settings = {"candidates": 1, "keep": 1, "max_tries": tries, "threshold": 1e6}
    with rows_computed(sd15.model) as rows:
        latent, scores, table, measured, summary = best_of(inputs, "most stable", **settings)
    assert sum(rows) == 2 * (tries * STEPS // 2 + STEPS // 2)  # no step of any seed twice
    best = int(want[:tries].argmax())
    assert latent["batch_index"] == [best]
    assert scores == [pytest.approx(float(want[best]))]
    assert f"The gate was not passed in {tries} of {tries} tries. These are the best so far" in summary
    assert [line["kept"] for line in read_csv(table)] == [str(int(row == best)) for row in range(tries)]
    assert_as_alone(inputs, latent)
    assert [run.status for run in measured.runs] == ["stopped early"] * tries + ["finished"]
    assert {sample.number for step in measured.runs[-1].steps for sample in step.samples} == {best}


@pytest.mark.newest
def test_one_bar_shows_the_whole_and_a_row_that_goes_on(sd15, monkeypatch):
    shown = []

    def prepare(model, steps, x0_output_dict=None):
        def callback(step, x0, x, total):
            shown.append((step + 1, total, x0.clone()))

        return callback

    inputs = inputs_of(sd15)
    monkeypatch.setattr(latent_preview, "prepare_callback", prepare)
    latent, *_ = best_of(inputs, candidates=2, keep=2, max_tries=3, threshold=1e6)
    total = STEPS + 2 * (STEPS // 2)
    assert {each for _, each, _ in shown} == {total}
    values = [value for value, _, _ in shown]
    assert values == list(range(1, total + 1))
    assert all(len(x0) == 1 for _, _, x0 in shown)
    first = sd15.model.model.process_latent_in(latent["samples"][:1])
    assert distance(shown[-1][2], first) <= 1e-4 * first.norm()


def wrong_inputs(sd15):
    model = sd15.model
    plain = inputs_of(sd15)
    text, options = sd15.conditioning("cond")[0]
    hint = type("Control", (), {"cond_hint_original": torch.zeros(2, 3, 8, 8), "previous_controlnet": None})()
    guided = cfg_guider(model, [[text, {**options, "control": hint}]], sd15.conditioning("uncond"))
    still = execute(custom_sampler.DisableNoise)[0]
    return {
        "no probe": ({}, {"choose": "most stable"}, "Put a Stability Probe (SAD) between the model and the guider"),
        "not measured": (
            {"guider": inputs_of(sd15, probe(model, blocks=PROBED)[0])["guider"]},
            {"choose": "most stable", "measure": "depth"},
            'turn on "depth_and_curvature" on the probe',
        ),
        "no such site": (
            {"guider": inputs_of(sd15, probe(model, blocks=PROBED)[0])["guider"]},
            {"choose": "most stable", "sites": "output"},
            'sites is "output", but the trace has none of these',
        ),
        "one is not different": ({}, {"keep": 1}, 'Set "keep" to 2 or more'),
        "too many kept": ({}, {"keep": 4}, '"keep" is 4, but it must be from 1 to 3, the number of candidates'),
        "none to choose from": ({}, {"candidates": 0}, '"candidates" is 0'),
        "too late": ({}, {"decide_at": 1.0}, '"decide_at" is 1, but it must lie between 0 and 1'),
        "no number": ({}, {"max_tries": 2, "threshold": float("nan")}, '"threshold" is not a number'),
        "no steps": ({"sigmas": plain["sigmas"][:1]}, {}, '"sigmas" has no step'),
        "several images": (
            {"latent_image": {"samples": torch.zeros(2, *sd15.latent)}},
            {},
            '"latent_image" holds 2 images',
        ),
        "all alike": ({"noise": still}, {}, '"noise" gives the same noise for every seed'),
        "one step size": (
            {"sampler": comfy.samplers.sampler_object("dpm_adaptive")},
            {},
            "dpm_adaptive chooses its steps for all images of a batch together",
        ),
        "no guider of ComfyUI": ({"guider": object()}, {}, "is not built on ComfyUI's CFGGuider"),
        "half of a pair": ({}, {"vae": ForgetfulVAE()}, '"vae" is wired, but "clip_vision" is not'),
        "control by image": ({"guider": guided}, {}, "A ControlNet has 2 control images"),
    }


@pytest.mark.newest
def test_what_does_not_fit_is_refused_with_a_sentence(sd15):
    plain = inputs_of(sd15)
    for name, (inputs, widgets, sentence) in wrong_inputs(sd15).items():
        with pytest.raises(ValueError, match=re.escape(sentence)):
            best_of({**plain, **inputs}, **{"choose": "most different", **widgets})
        assert name


@pytest.mark.newest
def test_named_rows_are_told_apart_however_many_there_are():
    options = {}
    with named_rows(options, range(100, 140)):
        assert list(numbers_of(options, 80, 2, 64)) == list(range(100, 140))
        with named_rows(options, [7]):
            assert list(numbers_of(options, 2, 2, 64)) == [7]
        assert list(numbers_of(options, 40, 1, 64)) == list(range(100, 140))
        assert list(numbers_of(options, 6, 2, 64)) == [0, 1, 2]  # another node's call
    assert options == {}
    assert list(numbers_of(options, 80, 2, 64)) == [0]
    assert list(numbers_of(options, 64, 2, 64)) == list(range(32))


@pytest.mark.newest
def test_a_model_that_gives_nan_is_refused(sd15):
    broken = sd15.model.clone()
    broken.add_wrapper("apply_model", lambda executor, *args, **kwargs: executor(*args, **kwargs) * float("nan"))
    with pytest.raises(ValueError, match="because the model returned NaN"):
        best_of(inputs_of(sd15, broken))
