"""Stability Feedback: γ by step and sample, against plain statements and against runs with the same γ by a schedule."""

from __future__ import annotations

import dataclasses
import math
from bisect import bisect_right
from types import SimpleNamespace

import comfy.model_management
import comfy.samplers
import folder_paths
import pytest
import torch
from symmetric_attention.nodes.host.patches.attention_backend import compiles_whole
from symmetric_attention.nodes.host.patches.probe_patch import ProbePatch
from symmetric_attention.nodes.host.patches.probe_run import ProbeCallState
from symmetric_attention.nodes.host.patches.row_gammas import RowGammas
from symmetric_attention.nodes.load_stability_baseline import LoadStabilityBaselineNode
from symmetric_attention.nodes.save_stability_baseline import SaveStabilityBaselineNode
from symmetric_attention.nodes.stability_baseline import StabilityBaselineNode
from symmetric_attention.sad_core import GammaSchedule
from symmetric_attention.sad_core.stability.batch import StabilityBatch
from symmetric_attention.sad_core.stability.score import SIGNS
from torch._dynamo.utils import counters

from lab.testing.best_of import assert_as_alone, best_of, inputs_of
from lab.testing.device_reads import watched
from lab.testing.run_nodes import compiled, execute, little_memory, probe, skew, stop_at, with_feedback

pytestmark = pytest.mark.newest
STEPS = 7
STRONG = {
    "gain": 0.5,
    "dead_band": 0.0,
    "most_change": 0.2,
    "first_steps": 2,
    "lowest_gamma": 0.2,
    "highest_gamma": 3.0,
}


def feedback(model, **widgets):
    """A model through Stability Feedback, strong: the model and the trace."""
    return with_feedback(model, **{**STRONG, **widgets})


def followed(model, order="skew first", gamma=1.5, beta=1.0, skewed=None, **widgets):
    """A model through both nodes: the model, the trace and the report."""
    if order == "skew first":
        model, report = skew(model, gamma=gamma, beta=beta, **(skewed or {}))
        model, trace = feedback(model, **widgets)
    else:
        model, trace = feedback(model, **widgets)
        model, report = skew(model, gamma=gamma, beta=beta, **(skewed or {}))
    return model, trace, report


def gammas_of(report) -> list[tuple[float, ...]]:
    """γ of the samples at every model call."""
    return [call.by_sample for call in report.runs[-1].calls]


def stated(run, sigmas, measure="alignment", gamma=1.5, gain=0.5, most=0.2, first=2) -> list[list[float]]:
    """γ by sample at every step of the trace, in one plain loop for `STRONG`, from the numbers of the trace."""
    column, places = run.measures.index(measure), [float(-sigma) for sigma in sigmas]
    found: list[list[float]] = [[] for _ in run.steps]
    for sample in sorted({each.number for step in run.steps for each in step.samples}):
        added = 0.0
        seen: dict[int, dict[tuple[str, str], list[float]]] = {}
        decided: dict[int, float] = {}
        for number, step in enumerate(run.steps):
            place = bisect_right(places, -step.sigma * (1 - 1e-5))
            if place not in decided:
                order = sorted(seen)
                if len(order) > first:
                    early = [each for key in order[:first] for each in averaged(seen[key])]
                    zero = sum(early) / len(early)
                    size = math.sqrt(sum(each * each for each in early) / len(early))
                    last = averaged(seen[order[-1]])
                    pull = gain * (sum(last) / len(last) - zero) / size
                    wanted = min(max(abs(gamma - 1) + pull, 0), 2.0) - abs(gamma - 1)
                    added = max(added - most, min(added + most, wanted))
                decided[place] = 1 + abs(gamma - 1) + added
            found[number].append(decided[place])
            rows = [row for row, each in enumerate(step.samples) if each.number == sample]
            for address, _ in step.columns:
                for row in rows:
                    value = SIGNS[measure] * float(step.of(address)[row, column].double().mean())
                    key = address, step.samples[row].pass_name
                    seen.setdefault(place, {}).setdefault(key, []).append(value)
    return found


def averaged(by_key) -> list[float]:
    return [sum(values) / len(values) for values in by_key.values()]


def sigmas_of(family, steps=STEPS, sampler="euler"):
    sampling = comfy.samplers.KSampler(family.model, steps=steps, device="cpu", sampler=sampler, scheduler="normal")
    return sampling.sigmas.tolist()


@pytest.mark.parametrize("order", ["skew first", "feedback first"])
def test_gain_0_keeps_the_bits_of_skew_attention(sd15, order):
    for widgets in ({}, {"beta": 3.0, "skewed": {"adaptive": "gamma", "apply_to": "cond"}}):
        noise = sd15.noise(2)
        skewed = skew(sd15.model, beta=widgets.get("beta", 1.0), **widgets.get("skewed", {}))[0]
        model, trace, report = followed(sd15.model, order, gain=0.0, **widgets)
        assert sd15.sample(model, steps=3, noise=noise).equal(sd15.sample(skewed, steps=3, noise=noise))
        assert {gamma for gammas in gammas_of(report) for gamma in gammas} == {1.5}
        assert {gamma for step in trace.runs[-1].steps for gamma in step.gammas} == {1.5}


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpmpp_2s_ancestral", "dpm_adaptive"])
def test_gamma_is_what_a_plain_loop_over_the_trace_says(sd15, sampler):
    model, trace, report = followed(sd15.model)
    noise = sd15.noise(2)
    sd15.sample(model, steps=STEPS, sampler=sampler, noise=noise)
    run, got = trace.runs[-1], gammas_of(report)
    want = stated(run, sigmas_of(sd15, sampler=sampler))
    assert len(got) == len(want) == len(run.steps)
    for gammas, wanted, step in zip(got, want, run.steps, strict=True):
        assert gammas == pytest.approx(wanted, abs=1e-6)
        by_sample = step.gamma_by_sample()
        assert tuple(by_sample[number] for number in sorted(by_sample)) == gammas
    assert len({gammas[0] for gammas in got}) > 2
    assert any(gammas[0] != gammas[1] for gammas in got)


def test_it_is_skew_attention_with_the_schedule_it_reports(sd15):
    noise = sd15.noise()
    model, _, report = followed(sd15.model, beta=3.0)
    got = sd15.sample(model, steps=STEPS, noise=noise)
    frames = {call.progress: call.by_sample[0] for call in report.runs[-1].calls}
    schedule = GammaSchedule(tuple(frames.items()), easing="hold")
    wanted = sd15.sample(skew(sd15.model, beta=3.0, schedule=schedule)[0], steps=STEPS, noise=noise)
    assert got.equal(wanted)


def test_batch_mates_do_not_change_the_gamma_of_a_sample(sd15):
    model, _, report = followed(sd15.model)
    noise = sd15.noise(3)
    whole = sd15.sample(model, steps=STEPS, noise=noise)
    together = gammas_of(report)
    for index in range(len(together[0])):
        alone = sd15.sample(model, steps=STEPS, noise=noise[index : index + 1])
        by_itself = [gammas[0] for gammas in gammas_of(report)]
        assert by_itself == pytest.approx([each[index] for each in together], abs=1e-4)
        torch.testing.assert_close(alone, whole[index : index + 1], rtol=1e-3, atol=1e-3)


def test_a_kept_seed_has_the_gamma_it_has_by_itself(sd15):
    """Best Of Sampler leaves the rows of dropped seeds out, so a row's place is not the number of its sample."""
    inputs = inputs_of(sd15, followed(sd15.model)[0], steps=STEPS)
    latent, *_ = best_of(inputs)
    assert_as_alone(inputs, latent)


def test_prompts_in_calls_of_their_own_share_the_gamma_of_their_sample(sd15):
    model, _, report = followed(sd15.model)
    sd15.sample(model, steps=STEPS, noise=sd15.noise(2))
    joined = gammas_of(report)
    with little_memory(sd15.model):
        sd15.sample(model, steps=STEPS, noise=sd15.noise(2))
    split = gammas_of(report)
    assert len(split) == 2 * len(joined)
    for one, other, wanted in zip(split[::2], split[1::2], joined, strict=True):
        assert one == other == pytest.approx(wanted, abs=1e-5)


def test_outside_its_window_gamma_is_that_of_skew_attention(sd15):
    model, _, report = followed(sd15.model, start_percent=0.3, end_percent=0.8, first_steps=1)
    sd15.sample(model, steps=10)
    calls = report.runs[-1].calls
    outside = [call for call in calls if not 0.3 <= call.progress < 0.8]
    assert len(outside) > 3
    assert all(set(call.by_sample) == {1.5} for call in outside)
    assert any(set(call.by_sample) != {1.5} for call in calls)


def test_a_sample_that_falls_back_stays_at_1_and_the_others_do_not(sd15):
    model, trace, report = followed(sd15.model, gain=0.0, fall_back=1e-4)
    sd15.sample(model, steps=STEPS, noise=sd15.noise(4))
    got = list(zip(*gammas_of(report), strict=True))
    for gammas in got:
        assert set(gammas) <= {1.0, 1.5}
        fallen = gammas.index(1.0) if 1.0 in gammas else len(gammas)
        assert set(gammas[fallen:]) <= {1.0}
    assert any(1.0 in gammas for gammas in got)
    said = "Feedback set γ of image 1 to these values, each with the progress of the run: 1.5 at 0.000"
    assert said in report.describe()
    assert (
        trace.runs[-1]
        .notes[0]
        .startswith("γ follows alignment, compared with the first 2 steps: gain 0, direction toward 1")
    )


def test_a_part_of_a_run_goes_by_its_own_steps_in_the_window_of_the_whole(sd15):
    model, trace, report = followed(sd15.model, start_percent=0.4, first_steps=1)
    sd15.sample(model, steps=10, start_step=3)
    run = trace.runs[-1]
    inside = [step for step in run.steps if step.progress >= 0.4]
    assert run.steps[0].progress > 0.2
    assert 3 < len(inside) < len(run.steps)
    part = type(run)(run.model, run.sites, run.measures)
    part.restore(inside)
    want = stated(part, sigmas_of(sd15, 10), first=1)
    got = gammas_of(report)
    assert all(set(gammas) == {1.5} for gammas in got[: -len(inside)])
    for gammas, wanted in zip(got[-len(inside) :], want, strict=True):
        assert gammas == pytest.approx(wanted, abs=1e-6)


def test_a_cancelled_run_leaves_nothing_behind(sd15):
    model, _, report = followed(sd15.model)
    first, gammas = sd15.sample(model, steps=STEPS), gammas_of(report)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        sd15.sample(model, steps=STEPS, callback=stop_at(3))
    assert sd15.sample(model, steps=STEPS).equal(first)
    assert gammas_of(report) == gammas
    assert sd15.sample().equal(sd15.picture)


def test_without_skew_attention_nothing_changes_and_the_trace_says_so(sd15):
    model, trace = feedback(sd15.model)
    assert sd15.sample(model).equal(sd15.picture)
    assert "No Skew Attention (SAD) acted on this model in this run, so feedback changed nothing." in (trace.summary())
    assert all(step.gammas == () for step in trace.runs[-1].steps)


def test_gamma_1_stays_1(sd15):
    model, _, report = followed(sd15.model, gamma=1.0)
    assert sd15.sample(model).equal(sd15.picture)
    assert report.runs == ()


def test_it_waits_for_the_device_no_more_often_than_a_probe(flux):
    counts = []
    for patch in (probe, lambda model: feedback(model, gain=0.1)):
        model, reads = watched(flux.model)
        model, _ = skew(patch(model)[0], schedule=GammaSchedule.from_keyframes("0:1.5, 1:1.2"))
        flux.sample(model, steps=4)
        counts.append(reads)
    assert counts[0] == counts[1]


def test_a_compiled_model_follows_without_compiling_again(sd3):
    if not compiles_whole():
        pytest.skip("only PyTorch's attention is compiled with the sites")
    torch._dynamo.reset()
    model, _, report = followed(sd3.model, first_steps=1)
    wanted, gammas = sd3.sample(model, steps=4, noise=sd3.noise(2)), gammas_of(report)
    counters.clear()
    fast = compiled(model, fullgraph=True)
    sd3.sample(fast, steps=2, noise=sd3.noise(2))
    graphs = counters["stats"]["unique_graphs"]
    got = sd3.sample(fast, steps=4, noise=sd3.noise(2))
    assert counters["stats"]["unique_graphs"] == graphs
    torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-3)
    for one, other in zip(gammas_of(report), gammas, strict=True):
        assert one == pytest.approx(other, abs=1e-4)
    assert len({each[0] for each in gammas}) > 2
    torch._dynamo.reset()


def test_a_baseline_gives_the_zero_from_the_first_step_on(sd15):
    runs = []
    for seed in range(3):
        model, trace = probe(sd15.model)
        sd15.sample(model, steps=STEPS, noise=torch.randn(2, 4, 8, 12, generator=torch.Generator().manual_seed(seed)))
        runs.append(trace)
    baseline = None
    for trace in runs:
        baseline, summary = execute(StabilityBaselineNode, trace=trace, baseline=baseline)
    assert "6 samples of 3 runs at" in summary
    model, trace, report = followed(sd15.model, baseline=baseline)
    sd15.sample(model, steps=STEPS)
    assert gammas_of(report)[1] != (1.5,)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"model": "Flux"},
            "The baseline was made on Flux with energy, instability, alignment, symmetricity and value",
        ),
        (
            {"patterns": "input"},
            "on SD15 with .* and input patterns, but SD15 is now measured with alignment",
        ),
        ({"sites": ("", "x.1", "x.2")}, "The baseline has none of the chosen sites, only x.1, x.2. Choose blocks"),
        ({"measure": "depth"}, 'measure is "depth", but the baseline has only energy'),
    ],
)
def test_a_baseline_of_something_else_is_refused(sd15, change, sentence):
    model, trace = probe(sd15.model, blocks="middle, input.1.0" if "sites" in change else "")
    sd15.sample(model, steps=2, noise=sd15.noise(2))
    baseline, _ = execute(StabilityBaselineNode, trace=trace)
    measure = {"measure": change.pop("measure")} if "measure" in change else {}
    if "sites" in change:
        change = {"sites": (*change["sites"], "x.3", "x.4")[: len(baseline.sites)]}
        sentence = f"The baseline has none of the chosen sites, only {', '.join(change['sites'][1:])}"
    with pytest.raises(ValueError, match=sentence):
        feedback(sd15.model, baseline=dataclasses.replace(baseline, **change), **measure)


def test_a_run_with_gamma_is_no_part_of_a_baseline(sd15):
    model, trace = probe(skew(sd15.model)[0])
    with pytest.raises(ValueError, match="No sampling run has gone through this probe yet"):
        execute(StabilityBaselineNode, trace=trace)
    sd15.sample(model, steps=1)
    with pytest.raises(ValueError, match="has no finished run at γ 1"):
        execute(StabilityBaselineNode, trace=trace)


def test_a_baseline_comes_back_from_its_file(sd15, tmp_path, monkeypatch):
    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path))
    model, trace = probe(sd15.model)
    sd15.sample(model, steps=2)
    baseline, summary = execute(StabilityBaselineNode, trace=trace)
    (name,) = execute(SaveStabilityBaselineNode, baseline=baseline)
    assert name == "stability/baseline_00001_.safetensors"
    again, told = execute(LoadStabilityBaselineNode, file=name)
    assert told == summary
    assert again.mean.equal(baseline.mean)
    (blocked,) = execute(SaveStabilityBaselineNode)
    assert type(blocked).__name__ == "ExecutionBlocker"
    for text in execute(StabilityBaselineNode):
        assert type(text).__name__ == "ExecutionBlocker"


def test_rows_of_folded_frames_have_the_gamma_of_their_video():
    by_itself = RowGammas.of([1.2], 2, 1.5, torch.device("cpu"))
    assert by_itself.at(slice(None), 8, compiling=False) == 1.2
    assert by_itself.at(slice(0, 4), 8, compiling=True).tolist() == pytest.approx([1.2] * 4)
    several = RowGammas.of([1.2, 1.3], 2, 1.5, torch.device("cpu"))
    assert several.at(slice(None), 4, compiling=False).tolist() == pytest.approx([1.2, 1.3, 1.2, 1.3])
    assert several.at(slice(2, 4), 4, compiling=False).tolist() == pytest.approx([1.2, 1.3])
    assert several.at(slice(None), 8, compiling=False) == 1.5  # frames or pixels: not known whose
    assert float(several.at(slice(None), 8, compiling=True)) == 1.5
    assert several.furthest == 1.3


def test_measures_that_mix_images_are_told_apart():
    q, k, patterns = torch.randn(3, 8, 2, 6, 4, generator=torch.Generator().manual_seed(0))
    for samples, mixed in ((1, set()), (2, {"input.1.0"}), (4, set())):
        call = ProbeCallState(passes=("positive", "negative"), samples=samples, batch=StabilityBatch(("alignment",)))
        call.found.append(("input.1.0", [(call.batch.take(q, k, patterns), 4)]))
        assert ProbePatch._values(SimpleNamespace(), call)["input.1.0"].shape[0] == 2 * samples
        assert call.mixed == mixed
