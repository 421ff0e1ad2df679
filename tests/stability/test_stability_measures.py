"""Stability measures: against the authors' numbers, against dense matrices in float64, and the laws they obey."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.testing import definition
from lab.testing.definition import relative_error
from lab.testing.reference_cases import cases, load
from lab.testing.strategies import retrievals, tokens
from sad_core import hopfield_stability, skew_attention, token_alignment
from sad_core.stability.measures import MEASURES

SIZE_FREE = ("instability", "alignment", "depth")


def retrieved(data: dict, case: dict) -> torch.Tensor:
    """The authors' input patterns: P·x blended and after ρ, `(B, H, L, C)`."""
    x = data["x"][:, None].expand(-1, data["q"].shape[1], -1, -1)
    return skew_attention(data["q"], data["k"], x, case["gamma"], case["beta"], norm="value")


@pytest.mark.parametrize(("path", "index"), cases("static"))
def test_the_authors_energy_instability_and_alignment(path, index):
    data, spec = load(path)
    case = spec["static"][index]
    patterns = retrieved(data, case)
    found = hopfield_stability(data["q"], data["k"], patterns, ("energy", "instability", "alignment"))
    assert relative_error(found.energy, data[f"static.{index}.energy_per_head"]) < 1e-5
    assert relative_error(found.energy.mean(1), data[f"static.{index}.energy_map"]) < 1e-5
    assert relative_error(found.alignment.mean(1), data[f"static.{index}.alignment_map"]) < 1e-5
    assert float(found.energy.mean()) == pytest.approx(case["energy"], rel=1e-4, abs=1e-5)
    assert float(found.alignment.mean()) == pytest.approx(case["alignment"], rel=1e-4, abs=1e-5)
    # Exact but for the tokens whose s·h is at rounding, which may fall on either side.
    want = data[f"static.{index}.instability_map"]
    unit = patterns - patterns.mean(dim=-2, keepdim=True)
    unit = unit / unit.norm(dim=-2, keepdim=True)
    product = unit.double() * (definition.landscape(data["q"], data["k"]) @ unit.double())
    at_rounding = product.abs() < 1e-6 * product.abs().amax(dim=-2, keepdim=True)
    undecided = at_rounding.double().mean(dim=-2).mean(dim=1)
    assert ((found.instability.mean(1) - want).abs() <= undecided + 1e-6).all()
    assert (undecided == 0).double().mean() > 0.9


@settings(max_examples=60)
@given(drawn=retrievals())
def test_every_measure_is_the_plain_statement(drawn):
    q, k, patterns = drawn
    found, want = hopfield_stability(q, k, patterns), definition.hopfield_stability(q, k, patterns)
    size = want["spread"].clamp_min(1e-300)
    for name in MEASURES:
        scale = 1.0 if name in SIZE_FREE else size
        close = 1e-6 if name == "curvature" else 1e-9
        difference = ((getattr(found, name) - want[name]) / scale).abs().max()
        assert difference < close or (name == "instability" and difference < 1.01 / q.shape[2]), name
    torch.testing.assert_close(found.relative_curvature, want["curvature"] / size, rtol=0, atol=1e-6)
    torch.testing.assert_close(found.spread.expand_as(size), want["spread"], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("length", "head_dim"), [(3, 6), (8, 4), (9, 4), (12, 4), (40, 16), (20, 160)])
@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-9), (torch.float32, 2e-5)])
def test_depth_and_curvature_in_either_precision(length, head_dim, dtype, close):
    call = tokens(length=length, head_dim=head_dim, value_dim=4).to(dtype)
    found = hopfield_stability(call.q, call.k, call.v)
    want = definition.hopfield_stability(call.q, call.k, call.v)
    assert found.depth.dtype == found.curvature.dtype == dtype
    torch.testing.assert_close(found.depth.double(), want["depth"], rtol=0, atol=close)
    torch.testing.assert_close(
        found.relative_curvature.double(), want["curvature"] / want["spread"], rtol=0, atol=close
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_directions_of_very_different_size_lose_no_accuracy(dtype):
    call = tokens(length=60, head_dim=8)
    sizes = 10 ** torch.linspace(0, -4, 8, dtype=torch.float64)
    q, k, patterns = (call.q * sizes).to(dtype), (1e3 * call.k * sizes.flip(0)).to(dtype), call.v.to(dtype)
    found, want = hopfield_stability(q, k, patterns), definition.hopfield_stability(q, k, patterns)
    torch.testing.assert_close(found.depth.double(), want["depth"], rtol=0, atol=1e-6)
    torch.testing.assert_close(found.relative_curvature.double(), want["curvature"] / want["spread"], rtol=0, atol=1e-6)


@settings(max_examples=20)
@given(length=st.integers(3, 30), head_dim=st.integers(1, 10), seed=st.integers(0, 2**16))
def test_the_top_eigenvector_is_the_deepest_minimum(length, head_dim, seed):
    call = tokens(length=length, head_dim=head_dim, seed=seed)
    k = call.k + 4 * call.q  # so that the top is not the constant vector, which is no pattern
    eigenvalues, vectors = torch.linalg.eigh(definition.landscape(call.q, k))
    found = hopfield_stability(call.q, k, vectors[..., [-1, 0]])
    size = eigenvalues[..., -1] - eigenvalues[..., 0]
    torch.testing.assert_close(found.depth[..., 0], torch.zeros_like(size), rtol=0, atol=1e-9)
    has_hills = eigenvalues[..., 0] < -1e-9 * size
    torch.testing.assert_close(found.depth[..., 1][has_hills], -torch.ones_like(size[has_hills]), rtol=0, atol=1e-9)
    gap = eigenvalues[..., -1] - eigenvalues[..., -2]
    torch.testing.assert_close(found.curvature[..., 0] / size, gap / size, rtol=0, atol=1e-6)
    torch.testing.assert_close(found.energy[..., 0], -eigenvalues[..., -1] / 2)
    assert (found.alignment[..., 0] > 1 - 1e-9).all()
    assert (found.instability[..., 0] < 0.34).all()  # none but tokens where the eigenvector is 0 to rounding


@settings(max_examples=20)
@given(seed=st.integers(0, 2**16), factor=st.floats(0.01, 100.0), shift=st.floats(-3.0, 3.0))
def test_sizes_and_shifts_change_only_the_energy(seed, factor, shift):
    call = tokens(seed=seed)
    found = hopfield_stability(call.q, call.k, call.v)
    other = hopfield_stability(factor * call.q + shift, call.k - shift, -7 * call.v + shift)
    torch.testing.assert_close(other.energy, factor * found.energy, rtol=1e-6, atol=1e-6 * factor)
    torch.testing.assert_close(other.curvature, factor * found.curvature, rtol=1e-5, atol=1e-5 * factor)
    for name in ("instability", "alignment", "depth", "relative_curvature"):
        torch.testing.assert_close(getattr(other, name), getattr(found, name), rtol=0, atol=1e-6)


def test_queries_and_keys_may_be_swapped_and_tokens_reordered():
    call = tokens(length=30)
    order = torch.randperm(30)
    found = hopfield_stability(call.q, call.k, call.v)
    for other in (
        hopfield_stability(call.k, call.q, call.v),
        hopfield_stability(call.q[:, :, order], call.k[:, :, order], call.v[:, :, order]),
    ):
        for name in MEASURES:
            torch.testing.assert_close(getattr(other, name), getattr(found, name), rtol=1e-8, atol=1e-8)


def test_batch_mates_and_other_heads_never_matter():
    call = tokens(batch=3, heads=2)
    found = hopfield_stability(call.q, call.k, call.v)
    for sample in range(3):
        for head in range(2):
            one = (slice(sample, sample + 1), slice(head, head + 1))
            alone = hopfield_stability(call.q[one], call.k[one], call.v[one])
            for name in MEASURES:
                torch.testing.assert_close(getattr(alone, name), getattr(found, name)[one], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_lower_precision_input_is_summed_in_float32(dtype):
    call = tokens(length=100, head_dim=16).to(dtype)
    found, want = (
        hopfield_stability(call.q, call.k, call.v),
        definition.hopfield_stability(call.q, call.k, call.v),
    )
    for name in ("energy", "alignment", "depth"):
        assert getattr(found, name).dtype == torch.float32
        assert relative_error(getattr(found, name), want[name]) < 1e-5, name


def test_under_autocast_nothing_is_summed_in_half_precision():
    call = tokens(length=200, head_dim=16).to(torch.float32)
    want = hopfield_stability(call.q, call.k, call.v)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = hopfield_stability(call.q, call.k, call.v)
    for name in MEASURES:
        assert torch.equal(getattr(found, name), getattr(want, name)), name


def test_constant_patterns_and_single_tokens_have_nothing_to_measure():
    call = tokens(length=12, value_dim=3)
    patterns = call.v.clone()
    patterns[..., 1] = 0.1  # a mean that rounds
    patterns[..., 2] = 0.0
    for dtype in (torch.float64, torch.float32):
        found = hopfield_stability(call.q.to(dtype), call.k.to(dtype), patterns.to(dtype))
        for name in MEASURES:
            assert not getattr(found, name)[..., 1:].any(), name
            assert getattr(found, name)[..., 0].any(), name
    alone = tokens(length=1)
    for name in MEASURES:
        assert not getattr(hopfield_stability(alone.q, alone.k, alone.v), name).any(), name


def test_queries_or_keys_without_a_landscape_give_zeros():
    call = tokens()
    one, other = call.q.clone(), call.k.clone()
    one[..., 0::2], other[..., 1::2] = 0.0, 0.0  # neither is 0, but q kᵀ is
    for q, k in ((torch.zeros_like(call.q), call.k), (call.q, torch.ones_like(call.k)), (one, other)):
        found = hopfield_stability(q, k, call.v)
        for name in MEASURES:
            assert torch.equal(getattr(found, name), torch.zeros_like(found.energy)), name
        assert torch.equal(found.relative_curvature, torch.zeros_like(found.energy))


def test_a_broken_head_gives_undefined_numbers_there_and_no_error():
    call = tokens(heads=2)
    q = call.q.clone()
    q[0, 0, 3, 2] = float("nan")
    q[1, 1, 0, 0] = float("inf")
    found, want = hopfield_stability(q, call.k, call.v), hopfield_stability(call.q, call.k, call.v)
    broken = torch.eye(2, dtype=torch.bool)
    for name in MEASURES:
        assert not getattr(found, name)[broken].isfinite().any(), name
        torch.testing.assert_close(getattr(found, name)[~broken], getattr(want, name)[~broken])


def test_energy_and_alignment_have_the_gradients_they_should():
    call = tokens(length=6, value_dim=3)
    given = [x.requires_grad_() for x in (call.q, call.k, call.v)]

    def measured(q, k, patterns):
        found = hopfield_stability(q, k, patterns, ("energy", "instability", "alignment"))
        return found.energy, found.alignment, token_alignment(q, k, patterns)

    assert torch.autograd.gradcheck(measured, given)
    patterns = torch.cat([call.v.detach()[..., 1:], torch.zeros_like(call.v[..., :1])], dim=-1).requires_grad_()
    zeros = torch.zeros_like(call.q).requires_grad_()
    for q, k in ((call.q, call.k), (zeros, call.k)):
        total = sum(x.sum() for x in measured(q, k, patterns))
        assert all(x.isfinite().all() for x in torch.autograd.grad(total, (q, k, patterns)))


def test_only_what_is_asked_for_is_computed(monkeypatch):
    call = tokens()
    whole = hopfield_stability(call.q, call.k, call.v)
    monkeypatch.setattr(torch.linalg, "eigh", None)  # calling it would fail
    found = hopfield_stability(call.q, call.k, call.v, ("energy", "alignment"))
    assert torch.equal(found.energy, whole.energy)
    assert torch.equal(found.alignment, whole.alignment)
    assert (found.instability, found.depth, found.curvature, found.relative_curvature) == (None,) * 4
    monkeypatch.undo()
    monkeypatch.setattr(torch.linalg, "eigh", None)  # without the curvature the eigenvalues are enough
    found = hopfield_stability(call.q, call.k, call.v, ("depth",))
    torch.testing.assert_close(found.depth, whole.depth, rtol=0, atol=1e-12)
    monkeypatch.undo()
    found = hopfield_stability(call.q, call.k, call.v, ("curvature",))
    assert found.depth is None
    assert torch.equal(found.curvature, whole.curvature)


def test_token_alignment_says_where_the_alignment_comes_from():
    call = tokens(length=15)
    found = token_alignment(call.q, call.k, call.v)
    assert found.shape == (2, 3, 15)
    torch.testing.assert_close(found.mean(-1), hopfield_stability(call.q, call.k, call.v).alignment.mean(-1))
    unit = call.v - call.v.mean(dim=-2, keepdim=True)
    unit = unit / unit.norm(dim=-2, keepdim=True)
    field = definition.landscape(call.q, call.k) @ unit
    for token in range(15):
        want = (15 * unit[:, :, token] * field[:, :, token] / field.norm(dim=-2)).mean(dim=-1)
        torch.testing.assert_close(found[:, :, token], want)
    assert not token_alignment(*(tokens(length=1).to(torch.float32).__dict__[name] for name in "qkv")).any()


def test_wrong_shapes_and_measures_are_refused_in_a_sentence():
    call = tokens()
    with pytest.raises(ValueError, match=r"q has shape .* and k"):
        hopfield_stability(call.q, call.k[:, :, 1:], call.v)
    with pytest.raises(ValueError, match="v has shape"):
        hopfield_stability(call.q, call.k, call.v[:, :, 1:])
    with pytest.raises(ValueError, match='measure is "entropy", but it must be one of energy, instability'):
        hopfield_stability(call.q, call.k, call.v, ["entropy"])
