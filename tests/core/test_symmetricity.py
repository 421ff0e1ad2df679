"""η from d×d Gram matrices against η from the L×L logits, and the adaptive rule."""

from __future__ import annotations

import sys

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lab.testing import definition
from lab.testing.strategies import calls, tokens
from sad_core import adapt, average, skew_attention, symmetricity

ETAS = st.floats(-1.0, 1.0)
WAYS = sys.modules["sad_core.symmetricity"]  # the package's attribute of this name is the function


@pytest.fixture(params=["on the CPU", "on a card"])
def either_way(request, monkeypatch):
    """The two ways to take the sums, whatever the device."""
    monkeypatch.setattr(WAYS, "CHEAP_OPERATIONS", ("cpu",) if request.param == "on the CPU" else ())


@pytest.mark.usefixtures("either_way")
@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(call=calls())
def test_eta_is_the_plain_statement(call):
    eta = symmetricity(call.q, call.k)
    assert eta.shape == call.q.shape[:2]
    torch.testing.assert_close(eta, definition.symmetricity(call.q, call.k), rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float64, 1e-13), (torch.float32, 1e-6), (torch.float16, 1e-6), (torch.bfloat16, 1e-6)],
)
@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("lean", [-1.0, -0.4, 0.0, 0.4, 1.0])
def test_a_lean_to_either_side_shows_in_any_precision(lean, dtype, tolerance):
    call = tokens(length=40, head_dim=16)
    turned = torch.cat([-call.q[..., 8:], call.q[..., :8]], dim=-1)
    q, k = call.q.to(dtype), (call.k + 2 * (max(lean, 0) * call.q + max(-lean, 0) * turned)).to(dtype)
    eta, want = symmetricity(q, k), definition.symmetricity(q, k)
    assert eta.dtype == (dtype if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(eta.double(), want, rtol=0, atol=tolerance)
    assert ((want > 0.1) == (lean > 0)).all()
    assert ((want < -0.1) == (lean < 0)).all()


@pytest.mark.parametrize("length", [2, 7, 100])
def test_equal_queries_and_keys_are_symmetric(length):
    q = tokens(length=length).q
    torch.testing.assert_close(symmetricity(q, q), torch.ones(2, 3, dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("length", [2, 7, 100])
def test_a_quarter_turn_between_queries_and_keys_is_skew(length):
    q = tokens(length=length, head_dim=6).q
    turned = torch.stack([-q[..., 1::2], q[..., ::2]], dim=-1).flatten(-2)
    logits = q @ turned.mT
    torch.testing.assert_close(logits, -logits.mT)
    torch.testing.assert_close(symmetricity(q, turned), -torch.ones(2, 3, dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.usefixtures("either_way")
def test_zero_queries_or_keys_have_no_leaning():
    call = tokens()
    nothing = torch.zeros_like(call.q)
    for q, k in ((nothing, call.k), (call.q, nothing), (nothing, nothing)):
        assert torch.equal(symmetricity(q, k), torch.zeros(2, 3, dtype=torch.float64))


@pytest.mark.usefixtures("either_way")
def test_one_zero_head_does_not_change_the_others():
    call = tokens()
    q = call.q.clone()
    q[0, 1] = 0
    want = definition.symmetricity(call.q, call.k)
    want[0, 1] = 0
    torch.testing.assert_close(symmetricity(q, call.k), want, rtol=0, atol=1e-12)


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_large_half_precision_tokens_do_not_overflow(dtype):
    call = tokens(length=500, head_dim=16)
    q, k = (8000 * call.q).to(dtype), (8000 * call.k).to(dtype)
    assert torch.isfinite(q).all()
    assert torch.isfinite(k).all()
    assert q.abs().max() > 40000
    torch.testing.assert_close(symmetricity(q, k).double(), definition.symmetricity(q, k), rtol=0, atol=1e-5)


@settings(max_examples=30)
@given(first=st.floats(1e-3, 1e3), second=st.floats(-1e3, -1e-3), seed=st.integers(0, 2**16))
def test_scaling_and_swapping_queries_and_keys_changes_nothing(first, second, seed):
    call = tokens(seed=seed)
    eta = symmetricity(call.q, call.k)
    torch.testing.assert_close(symmetricity(first * call.q, second * call.k), eta, rtol=0, atol=1e-12)
    torch.testing.assert_close(symmetricity(call.k, call.q), eta, rtol=0, atol=1e-12)


@settings(max_examples=20)
@given(seed=st.integers(0, 2**16))
def test_permuting_the_tokens_and_turning_the_head_space_changes_nothing(seed):
    call = tokens(seed=seed)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(12, generator=generator)
    turn = torch.linalg.qr(torch.randn(8, 8, generator=generator, dtype=torch.float64)).Q
    q, k = (tensor[:, :, order] @ turn for tensor in (call.q, call.k))
    torch.testing.assert_close(symmetricity(q, k), symmetricity(call.q, call.k), rtol=0, atol=1e-12)


def in_comfyui_s_layout(x):
    return x.transpose(1, 2).contiguous().transpose(1, 2)


def test_on_the_cpu_queries_and_keys_are_copied_once_or_not_at_all():
    call = tokens()
    q, k = in_comfyui_s_layout(call.q), in_comfyui_s_layout(call.k)
    for given_q, given_k, copies in ((call.q, call.k, 0), (q, k, 2), (q[:1], k[:1], 0)):
        with torch.profiler.profile() as profiled:
            eta = symmetricity(given_q, given_k)
        counts = {event.key: event.count for event in profiled.key_averages()}
        assert counts["aten::bmm"] == 3
        assert counts.get("aten::copy_", 0) == copies
        assert torch.equal(eta, symmetricity(given_q.contiguous(), given_k.contiguous()))


def test_batch_mates_never_matter():
    call = tokens(batch=4).to(torch.float32)
    eta = symmetricity(call.q, call.k)
    for sample in range(4):
        alone = symmetricity(call.q[sample, None], call.k[sample, None])
        torch.testing.assert_close(eta[sample, None], alone, rtol=0, atol=1e-6)


# --- the adaptive rule


@given(gamma=st.floats(-2, 3), beta=st.floats(0, 10), etas=st.lists(ETAS, min_size=6, max_size=6))
@pytest.mark.parametrize("shape", [(2, 3), (6,), (2, 3, 1, 1)])
def test_both_rules_number_by_number(shape, gamma, beta, etas):
    eta = torch.tensor(etas, dtype=torch.float64).reshape(shape)
    deviation, blend = adapt(gamma, beta, eta)
    scaled, same_blend = adapt(gamma, beta, eta, rule="scale")
    assert deviation.shape == blend.shape == scaled.shape == shape
    assert torch.equal(blend, same_blend)
    for number, got_deviation, got_scaled, got_blend in zip(
        etas, deviation.flatten().tolist(), scaled.flatten().tolist(), blend.flatten().tolist(), strict=True
    ):
        assert got_deviation == pytest.approx(1 + (gamma - 1) * number, abs=1e-12)
        assert got_scaled == pytest.approx(gamma * number, abs=1e-12)
        assert got_blend == pytest.approx(beta * (1 - number), abs=1e-12)


@pytest.mark.parametrize("shape", [(), (2,), (2, 3)])
@pytest.mark.parametrize("rule", ["deviation", "scale"])
def test_what_is_not_adapted_comes_back_as_given(rule, shape):
    eta = torch.full(shape, 0.3)
    gamma, beta = adapt(1.4, 3.0, eta, rule=rule, adapt_gamma=False)
    assert torch.equal(gamma, torch.full(shape, 1.4))
    torch.testing.assert_close(beta, torch.full(shape, 2.1))
    gamma, beta = adapt(1.4, 3.0, eta, rule=rule, adapt_beta=False)
    assert torch.equal(beta, torch.full(shape, 3.0))
    torch.testing.assert_close(gamma, torch.full(shape, 1.12 if rule == "deviation" else 0.42))


@given(eta=ETAS)
def test_gamma_one_is_neutral_by_deviation_and_not_by_scale(eta):
    eta = torch.tensor([eta])
    assert adapt(1.0, 3.0, eta)[0].tolist() == [1.0]
    assert torch.equal(adapt(1.0, 3.0, eta, rule="scale")[0], eta)


def test_a_neutral_sample_keeps_its_bits_through_the_adaptive_rule():
    call = tokens().to(torch.float32)
    gamma, beta = adapt(torch.tensor([1.0, 1.3]), 3.0, symmetricity(call.q, call.k).mean(1))
    out = skew_attention(call.q, call.k, call.v, gamma, beta)
    want = torch.nn.functional.scaled_dot_product_attention(call.q, call.k, call.v)
    assert torch.equal(out[0], want[0])
    assert not torch.equal(out[1], want[1])


def test_eta_is_averaged_per_sample_per_head_or_over_the_batch():
    eta = torch.tensor([[0.1, 0.3], [-0.5, 0.9]])
    torch.testing.assert_close(average(eta), torch.tensor([0.2, 0.2]))
    torch.testing.assert_close(average(eta[:, :1]), torch.tensor([0.1, -0.5]))
    assert torch.equal(average(eta, "head"), eta)
    torch.testing.assert_close(average(eta, "batch"), torch.tensor(0.2))
    with pytest.raises(ValueError, match='over is "layer"') as refusal:
        average(eta, "layer")
    assert "sample, head, batch" in str(refusal.value)


def test_an_unknown_rule_is_refused():
    with pytest.raises(ValueError, match='rule is "dev"') as refusal:
        adapt(1.05, 3.0, torch.zeros(2), rule="dev")
    assert "deviation, scale" in str(refusal.value)
