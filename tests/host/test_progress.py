"""The progress of a noise level is what bisection finds, for every kind of noise scale, in fewer values of it."""

from __future__ import annotations

import math
from types import SimpleNamespace

import comfy.model_sampling as kinds
import pytest
from comfy.patcher_extension import WrappersMP
from symmetric_attention.nodes.gamma_schedule import GammaScheduleNode
from symmetric_attention.nodes.host.progress import progress_at

from lab.testing.run_nodes import execute, skew


def shaped(**settings):
    return SimpleNamespace(sampling_settings=settings)


SCALES = {
    "discrete": lambda: kinds.ModelSamplingDiscrete(),
    "zero terminal SNR": lambda: kinds.ModelSamplingDiscrete(zsnr=True),
    "EDM": lambda: kinds.ModelSamplingContinuousEDM(),
    "V": lambda: kinds.ModelSamplingContinuousV(shaped(sigma_min=0.03, sigma_max=500.0)),
    "flow": lambda: kinds.ModelSamplingDiscreteFlow(),
    "shifted flow": lambda: kinds.ModelSamplingDiscreteFlow(shaped(shift=12.0)),
    "Flux": lambda: kinds.ModelSamplingFlux(),
    "Cascade": lambda: kinds.StableCascadeSampling(),
    "Cosmos": lambda: kinds.ModelSamplingCosmosRFlow(shaped(sigma_min=0.002, sigma_max=80.0)),
    "a pole": lambda: SimpleNamespace(percent_to_sigma=lambda p: math.inf if p < 0.1 else 1 / p - 1, sigmas=(0.0, 9.0)),
    "steps": lambda: SimpleNamespace(percent_to_sigma=lambda p: math.floor(10 * (1 - p)), sigmas=(0.0, 9.5)),
    "two lines": lambda: SimpleNamespace(percent_to_sigma=lambda p: max(1 - p, 1e4 * (0.3 - p)), sigmas=(0.0, 2e3)),
}


def bisected(scale, sigma: float) -> float:
    low, high = 0.0, 1.0
    for _ in range(22):
        middle = (low + high) / 2
        low, high = (middle, high) if float(scale.percent_to_sigma(middle)) > sigma else (low, middle)
    return round(high, 6)


def levels(scale) -> list[float]:
    """Noise levels from one end of the scale to the other and beyond, even and even in the logarithm."""
    bottom, top = float(scale.sigmas[0]), float(scale.sigmas[-1])
    shares = [index / 12 for index in range(13)]
    even = [bottom + share * (top - bottom) for share in shares]
    logarithmic = [max(bottom, 1e-4) ** (1 - share) * top**share for share in shares]
    return [*even, *logarithmic, 0.0, 2 * top, math.inf]


@pytest.mark.parametrize("kind", SCALES)
def test_the_progress_is_that_of_bisection(kind):
    scale = SCALES[kind]()
    sigmas = levels(scale)
    assert [progress_at(scale, sigma) for sigma in sigmas] == [bisected(scale, sigma) for sigma in sigmas]


@pytest.mark.parametrize(
    ("kind", "mean", "most"), [("discrete", 8, 9), ("EDM", 9, 13), ("Flux", 8, 10), ("steps", 24, 40)]
)
def test_few_values_of_the_scale_are_asked_for(kind, mean, most):
    scale, asked = SCALES[kind](), []
    counting = SimpleNamespace(percent_to_sigma=lambda p: asked.append(p) or scale.percent_to_sigma(p))
    counts = []
    for sigma in levels(scale):
        asked.clear()
        progress_at(counting, sigma)
        counts.append(len(asked))
    assert sum(counts) / len(counts) <= mean
    assert max(counts) <= most


def test_the_first_model_call_finds_the_progress_of_all_steps(sd15, monkeypatch):
    """Later calls look it up. dpm_2 calls the model between the steps as well, and that progress is found there."""
    asked, plain, counts = [], kinds.ModelSamplingDiscrete.percent_to_sigma, []
    monkeypatch.setattr(
        kinds.ModelSamplingDiscrete, "percent_to_sigma", lambda self, p: asked.append(p) or plain(self, p)
    )

    def counting(executor, *args, **kwargs):
        before = len(asked)
        result = executor(*args, **kwargs)
        counts.append(len(asked) - before)
        return result

    model = sd15.model.clone()
    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "counting", counting)
    curve, _ = execute(GammaScheduleNode, shape="linear", start_gamma=2.0, end_gamma=0.2, start=0.0, end=1.0)
    patched, report = skew(model, schedule=curve)
    sd15.sample(patched, steps=3, sampler="dpm_2")
    assert [count > 0 for count in counts] == [True, True, False, True, False]
    calls, scale = report.runs[-1].calls, model.get_model_object("model_sampling")
    assert [call.progress for call in calls] == [progress_at(scale, call.sigma) for call in calls]
