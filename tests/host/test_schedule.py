"""γ of every model call is the curve at the progress of its noise level, whatever the sampler does."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from comfy.model_management import load_models_gpu
from comfy_extras.nodes_model_advanced import ModelSamplingSD3
from symmetric_attention.nodes.gamma_schedule import GammaScheduleNode
from symmetric_attention.nodes.host.settings import SkewSettings
from symmetric_attention.sad_core import GammaSchedule

from lab.testing.families.family import draw
from lab.testing.recorder import distance, effect, plainly, stated, watch_attention
from lab.testing.run_nodes import execute, skew

# Never the same γ twice on the way down or up, and 1 nowhere but where it crosses.
POINTS = [(0.0, 1.6), (0.5, 0.3), (1.0, 2.0)]
NAMES = ["SD15", "SD3", "Flux"]
# The host's Brownian noise rounds the ends of its interval.
pytestmark = pytest.mark.filterwarnings("ignore:Should have t[ab]")


@pytest.fixture(params=NAMES)
def family(request, families):
    return families[request.param]


@pytest.fixture(scope="module")
def schedule():
    text = ", ".join(f"{progress}:{gamma}" for progress, gamma in POINTS)
    shape = {"shape": "keyframes", "start_gamma": 1.0, "end_gamma": 1.0, "start": 0.0, "end": 1.0, "keyframes": text}
    return execute(GammaScheduleNode, **shape)[0]


PROGRESS = np.linspace(0, 1, 1999).clip(1e-7, 1 - 1e-7)  # its ends are special in ComfyUI and left out


@functools.lru_cache(maxsize=8)
def noise_levels(model_sampling) -> np.ndarray:
    return np.log([float(model_sampling.percent_to_sigma(place)) for place in PROGRESS])


def progress_of(model_sampling, sigmas) -> np.ndarray:
    """The p with `percent_to_sigma(p) = sigma`, from a table."""
    return np.interp(np.log(sigmas), noise_levels(model_sampling)[::-1], PROGRESS[::-1])


def curve(progress) -> np.ndarray:
    places, gammas = zip(*POINTS, strict=True)
    return np.interp(progress, places, gammas)


def assert_curve_was_applied(model, record, sigmas) -> None:
    """Every model call the host made, at these sigmas, is in the report with the γ of the curve."""
    assert [call.sigma for call in record.calls] == pytest.approx(sigmas, rel=1e-6)
    progress = progress_of(model.get_model_object("model_sampling"), sigmas)
    assert [call.progress for call in record.calls] == pytest.approx(progress.tolist(), abs=2e-4)
    assert [call.gamma for call in record.calls] == pytest.approx(curve(progress).tolist(), abs=1e-3)


def count_sigmas(model) -> list[float]:
    """The sigmas of all model calls to come, written down by ComfyUI's own hook."""
    sigmas: list[float] = []

    def wrapper(apply_model, call):
        sigmas.append(float(call["timestep"].max()))
        return apply_model(call["input"], call["timestep"], **call["c"])

    model.set_model_unet_function_wrapper(wrapper)
    return sigmas


# What a sampler asks of the model does not depend on the model, nor what a noise level means on the sampler.
SAMPLERS = [
    *((name, "euler", 4) for name in NAMES),
    ("SD15", "dpmpp_sde", 7),
    ("SD3", "dpmpp_2s_ancestral", 7),
    ("Flux", "heun", 7),
]


@pytest.mark.parametrize(("name", "sampler", "calls"), SAMPLERS)
def test_gamma_follows_the_curve_for_every_sampler(families, schedule, name, sampler, calls):
    family = families[name]
    patched, report = skew(family.model, schedule=schedule)
    sigmas = count_sigmas(patched)
    family.sample(patched, sampler=sampler, steps=4)
    assert len(sigmas) == calls
    assert_curve_was_applied(patched, report.runs[-1], sigmas)


def test_gamma_follows_the_curve_from_image_to_image(family, schedule):
    patched, report = skew(family.model, schedule=schedule)
    sigmas = count_sigmas(patched)
    family.sample(patched, steps=4, denoise=0.5, latent=draw("an image", (1, *family.latent)))
    assert_curve_was_applied(patched, report.runs[-1], sigmas)
    assert report.runs[-1].calls[0].progress > 0.2


def test_a_run_split_over_two_samplers_takes_the_gammas_of_the_whole(family, schedule):
    patched, report = skew(family.model, schedule=schedule)
    whole = family.sample(patched, steps=5)
    half = family.sample(patched, steps=5, last_step=2)
    rest = family.sample(patched, steps=5, start_step=2, noise=torch.zeros_like(half), latent=half, disable_noise=True)
    one, first, second = report.runs[-3:]
    assert (len(first.calls), len(second.calls)) == (2, 3)
    assert [call.gamma for call in one.calls] == pytest.approx([call.gamma for call in (*first.calls, *second.calls)])
    assert distance(whole, rest) < 1e-3 * distance(whole, family.sample(steps=5))


@pytest.mark.parametrize("is_before", [True, False], ids=["shift before ours", "shift after ours"])
def test_gamma_follows_a_patched_shift(sd3, schedule, is_before):
    def shifted(model):
        return ModelSamplingSD3().patch(model, shift=9.0)[0]

    model = shifted(sd3.model) if is_before else sd3.model
    patched, report = skew(model, schedule=schedule)
    patched = patched if is_before else shifted(patched)
    sigmas = count_sigmas(patched)
    sd3.sample(patched, steps=4)
    assert_curve_was_applied(patched, report.runs[-1], sigmas)
    unshifted = curve(progress_of(sd3.model.get_model_object("model_sampling"), sigmas))
    assert np.abs(unshifted - [call.gamma for call in report.runs[-1].calls]).max() > 0.2


def test_two_shifts_of_one_patched_model_have_progress_of_their_own(sd3, schedule):
    patched, report = skew(sd3.model, schedule=schedule)
    sigmas = torch.tensor([1.0, 0.7, 0.3, 0.0])
    for shift in (1.0, 9.0):
        model = ModelSamplingSD3().patch(patched, shift=shift)[0]
        sd3.sample(model, sigmas=sigmas)
        assert_curve_was_applied(model, report.runs[-1], sigmas[:-1].tolist())


@torch.no_grad()
def test_a_model_called_by_hand_has_the_progress_of_its_own_shift(sd3, schedule):
    """Outside a run, as a script does, through two clones of one patched model in turn."""
    patched, _ = skew(sd3.model, schedule=schedule)
    ((text, others),) = sd3.conditioning("cond")
    for shift in (1.0, 9.0):
        model = ModelSamplingSD3().patch(patched, shift=shift)[0]
        load_models_gpu([model])
        options = {**model.model_options["transformer_options"], "wrappers": model.wrappers}
        given = {"c_crossattn": text, "y": others["pooled_output"], "transformer_options": options}
        with watch_attention(model) as calls:
            model.model.apply_model(sd3.noise(), torch.tensor([0.4]), **given)
        gamma = float(curve(progress_of(model.get_model_object("model_sampling"), 0.4)))
        assert len(calls) == sd3.calls
        for seen in calls:
            assert distance(seen.out, stated(sd3, seen, gamma)) <= 1e-3 * effect(sd3, seen, gamma), (shift, seen.path)


@pytest.mark.parametrize(("name", "sampler"), [("SD15", "dpmpp_sde"), ("SD3", "heun"), ("Flux", "heun")])
def test_the_gamma_of_the_report_is_the_one_in_the_attention(families, schedule, name, sampler):
    family = families[name]
    patched, report = skew(family.model, schedule=schedule)
    with watch_attention(patched) as calls:
        family.sample(patched, sampler=sampler, steps=3)
    calls = [seen for seen in calls if not seen.is_cross]
    gammas = [call.gamma for call in report.runs[-1].calls for _ in range(call.attention_calls)]
    assert len(gammas) == len(calls)
    for seen, gamma in zip(calls, gammas, strict=True):
        allowed = 1e-3 * effect(family, seen, gamma) + 1e-5 * plainly(seen).norm()
        assert distance(seen.out, stated(family, seen, gamma)) <= allowed, (seen.path, gamma)
        assert distance(seen.out, stated(family, seen, gamma + 0.05)) > allowed, (seen.path, gamma)


def test_nothing_happens_outside_the_window(family):
    patched, report = skew(family.model, gamma=1.5, start_percent=0.3, end_percent=0.7)
    with watch_attention(patched) as calls:
        family.sample(patched, steps=6)
    record = report.runs[-1]
    inside = [call for call in record.calls if 0.3 <= call.progress < 0.7]
    assert 0 < len(inside) < len(record.calls)
    for call in record.calls:
        assert (call.gamma, call.attention_calls > 0) == ((1.5, True) if call in inside else (1.0, False))
    model_sampling = patched.get_model_object("model_sampling")
    for seen in (seen for seen in calls if seen.path == calls[0].path):
        is_inside = 0.3 <= progress_of(model_sampling, [seen.sigma])[0] < 0.7
        want = stated(family, seen, 1.5) if is_inside else plainly(seen)
        assert distance(seen.out, want) <= 1e-3 * effect(family, seen, 1.5), (seen.path, is_inside)


@pytest.mark.parametrize(("end", "gamma_at_end"), [(0.5, 1.0), (1.0, 1.5)])
def test_the_end_of_a_window_lies_outside_unless_the_run_ends_there(end, gamma_at_end):
    settings = SkewSettings(GammaSchedule.from_preset("constant", 1.5), start=0.25, end=end)
    gammas = [settings.gammas_at(progress).image for progress in (0.0, 0.25, end - 1e-9, end)]
    assert gammas == [1.0, 1.5, 1.5, gamma_at_end]


def test_a_window_that_holds_no_step_changes_no_bit_and_says_so(family):
    patched, report = skew(family.model, start_percent=0.5, end_percent=0.501)
    assert family.sample(patched, steps=2).equal(family.sample(steps=2))
    assert "γ was 1 at every step of this run" in report.describe()


def test_a_schedule_and_a_window_meet(sd15, schedule):
    patched, report = skew(sd15.model, schedule=schedule, end_percent=0.5)
    sd15.sample(patched, steps=6)
    for call in report.runs[-1].calls:
        want = curve(call.progress) if call.progress < 0.5 else 1.0
        assert call.gamma == pytest.approx(want, abs=1e-3)
