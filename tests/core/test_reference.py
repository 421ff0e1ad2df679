"""Every published reference case: what the authors' own code gives, within 1e-5."""

from __future__ import annotations

import pytest
import torch

from lab.testing.definition import relative_error
from lab.testing.reference_cases import FILES, cases, load
from sad_core import adapt, skew_attention, symmetricity


def packed(out: torch.Tensor) -> torch.Tensor:
    return out.transpose(1, 2).flatten(2)


@pytest.mark.parametrize("norm", ["input", "projected"])
@pytest.mark.parametrize(("path", "index"), cases("static"))
def test_static_outputs(path, index, norm):
    data, spec = load(path)
    case = spec["static"][index]
    out = skew_attention(data["q"], data["k"], data["v"], case["gamma"], case["beta"], norm=norm, x=data["x"])
    assert relative_error(packed(out), data[f"static.{index}.out"]) < 1e-5


@pytest.mark.parametrize(("path", "index"), cases("adaptive"))
def test_adaptive_outputs_and_symmetricity(path, index):
    data, spec = load(path)
    case = spec["adaptive"][index]
    eta = symmetricity(data["q"], data["k"])
    torch.testing.assert_close(eta, data[f"adaptive.{index}.eta_per_head"], rtol=0, atol=1e-5)
    gamma, beta = adapt(
        case["gamma"],
        case["beta"],
        eta.mean(),  # the authors' averaging, over batch and heads
        rule={"dev": "deviation", "scale": "scale"}[case["mode"]],
        adapt_gamma=case["adapt_gamma"],
        adapt_beta=case["adapt_beta"],
    )
    assert float(gamma) == pytest.approx(case["gamma_eff"], abs=1e-5)
    assert float(beta) == pytest.approx(case["beta_eff"], abs=1e-5)
    out = skew_attention(data["q"], data["k"], data["v"], gamma, beta, norm="input", x=data["x"])
    assert relative_error(packed(out), data[f"adaptive.{index}.out"]) < 1e-5


def test_all_reference_files_are_here():
    assert [path.stem for path in FILES] == ["more_channels_than_tokens", "small", "symmetric_leaning"]
