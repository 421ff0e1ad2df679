"""γ among only the inner tokens, against the plain statement with a matrix Γ."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.testing import definition
from lab.testing.strategies import MASKS, Call, betas, calls, gammas, tokens
from sad_core import joint_skew_attention, modal_skew_attention, skew_attention
from sad_core.inner_attention import pytorch_attend
from sad_core.joint_attention import JOINT_NORMS

PLACES = {"start": slice(0, 7), "middle": slice(3, 9), "end": slice(5, 12), "one token": slice(4, 5)}
ALL_MASKS = [None, *MASKS, *(f"{kind} bool" for kind in MASKS)]


def run(call: Call, gamma, beta, inner: slice, norm="value", **options) -> torch.Tensor:
    return joint_skew_attention(
        call.q, call.k, call.v, gamma, beta, inner=inner, norm=norm, scale=call.scale, mask=call.mask, **options
    )


def stated(call: Call, gamma, beta, inner: slice, norm="value") -> torch.Tensor:
    batch, heads, length, _ = call.q.shape
    gammas = definition.gamma_matrix(definition.each_head(gamma, batch, heads), inner, length)
    beta = definition.each_head(beta, batch, heads)
    options = {"norm": norm, "scale": call.scale, "mask": call.mask}
    return definition.skew_attention(call.q, call.k, call.v, gammas, beta, **options)


def torch_attention(call: Call) -> torch.Tensor:
    return F.scaled_dot_product_attention(call.q, call.k, call.v, attn_mask=call.mask, scale=call.scale)


def outer_rows(out: torch.Tensor, inner: slice) -> torch.Tensor:
    return torch.cat([out[:, :, : inner.start], out[:, :, inner.stop :]], dim=2)


@settings(max_examples=60)
@given(data=st.data(), call=calls(largest_head_dim=48), norm=st.sampled_from(JOINT_NORMS))
def test_every_call_is_the_plain_statement(data, call, norm):
    batch, heads, length, _ = call.q.shape
    start = data.draw(st.integers(0, length - 1))
    inner = slice(start, data.draw(st.integers(start + 1, length)))
    gamma, beta = data.draw(gammas(batch, heads)), data.draw(betas(batch, heads))
    out, want = run(call, gamma, beta, inner, norm), stated(call, gamma, beta, inner, norm)
    torch.testing.assert_close(out, want, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", ALL_MASKS)
@pytest.mark.parametrize("place", PLACES)
def test_no_other_gamma_and_no_other_place_passes_for_the_right_one(place, kind):
    call, inner = tokens(mask=kind), PLACES[place]
    for gamma, beta in ((1.4, 1.0), (-0.6, 3.0)):
        out, want = run(call, gamma, beta, inner), stated(call, gamma, beta, inner)
        assert definition.relative_error(out, want) < 1e-12
        if place == "one token":
            continue  # a single token has no circulation
        others = [stated(call, other, beta, inner) for other in (1.0, 0.9 * gamma, -gamma)]
        others += [stated(call, gamma, beta, slice(0, 12)), stated(call, gamma, beta, slice(2, 8))]
        assert min(definition.relative_error(other, want) for other in others) > 1e-3


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float16, 3e-3), (torch.bfloat16, 2e-2)])
def test_half_precision_is_near_the_plain_statement(dtype, tolerance):
    call, inner = tokens(length=40, head_dim=32).to(dtype), slice(6, 40)
    out, want = run(call, 1.2, 3.0, inner), stated(call, 1.2, 3.0, inner)
    assert out.dtype == dtype
    assert definition.relative_error(out, want) < tolerance
    assert definition.relative_error(stated(call, 1.08, 3.0, inner), want) > 2 * tolerance


@pytest.mark.parametrize("norm", JOINT_NORMS)
@pytest.mark.parametrize("place", PLACES)
def test_rows_outside_are_plain_attention(place, norm):
    call, inner = tokens(mask="(B, H, L, L)").to(torch.float32), PLACES[place]
    rows = outer_rows(torch_attention(call), inner)
    assert torch.equal(outer_rows(run(call, 0.3, 3.0, inner, norm), inner), rows)
    assert torch.equal(outer_rows(run(call, torch.tensor([0.3, 2.0]), 3.0, inner, norm), inner), rows)
    torch.testing.assert_close(outer_rows(run(call, 0.3, 1.0, inner, norm), inner), rows, rtol=0, atol=1e-6)


@pytest.mark.parametrize("everything", [slice(None), slice(0, 12), slice(None, None, 1), slice(0, None)])
@pytest.mark.parametrize("kind", [None, "(B, 1, L, L)", "(1, 1, 1, L) bool"])
@pytest.mark.parametrize("beta", [1.0, 3.0])
def test_all_tokens_inside_is_skew_attention(everything, kind, beta):
    call = tokens(mask=kind)
    want = skew_attention(call.q, call.k, call.v, 1.3, beta, mask=call.mask)
    torch.testing.assert_close(run(call, 1.3, beta, everything), want, rtol=0, atol=1e-12)


def test_an_open_slice_reaches_the_ends():
    call = tokens()
    assert torch.equal(run(call, 0.3, 2.0, slice(5, None)), run(call, 0.3, 2.0, slice(5, 12)))
    assert torch.equal(run(call, 0.3, 2.0, slice(None, 5)), run(call, 0.3, 2.0, slice(0, 5)))


def test_what_text_tokens_say_to_each_other_does_not_matter():
    """Only ‘inner × inner’ logits are skewed, so a longer text changes inner rows only by its plain weight."""
    call, inner = tokens(), slice(4, 12)
    shut = torch.zeros(12, 12, dtype=torch.float64)
    shut[4:, :4] = float("-inf")
    alone = skew_attention(*(tensor[:, :, inner] for tensor in (call.q, call.k, call.v)), 0.3, 2.0)
    out = joint_skew_attention(call.q, call.k, call.v, 0.3, 2.0, inner=inner, mask=shut)
    torch.testing.assert_close(out[:, :, inner], alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("gamma", "beta"), [(1.0, 3.0), (0.3, 0.0)])
def test_neutral_numbers_cost_one_call_with_the_tensors_untouched(gamma, beta):
    call, seen = tokens(mask="(B, 1, L, L)").to(torch.float32), []

    def attend(*arguments):
        seen.append(arguments)
        return pytorch_attend(*arguments)

    out = run(call, gamma, beta, slice(3, 9), attend=attend)
    ((q, k, v, mask, _),) = seen
    assert all(got is given for got, given in zip((q, k, v, mask), (call.q, call.k, call.v, call.mask), strict=True))
    assert torch.equal(out, torch_attention(call))


def test_a_tensor_gamma_costs_one_retrieval_where_rounding_is_allowed():
    call, rows = tokens(mask="(B, 1, L, L)"), []

    def attend(q, *others):
        rows.append(q.shape[2])
        return pytorch_attend(q, *others)

    gamma, tensors, options = torch.tensor([1.0, 0.3]), (call.q, call.k, call.v), {"inner": slice(3, 9)}
    out = modal_skew_attention(*tensors, gamma, mask=call.mask, attend=attend, neutral_bits=False, **options)
    assert sorted(rows) == [3, 3, 6]
    torch.testing.assert_close(out, stated(call, gamma, 1.0, slice(3, 9)), rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_neutral_samples_and_heads_keep_their_bits_beside_others(dtype):
    call, inner = tokens(batch=3).to(dtype), slice(3, 9)
    want = torch_attention(call)
    out = run(call, torch.tensor([1.0, 1.4, -0.5]), 2.0, inner)
    assert (out == want).all(dim=(1, 2, 3)).tolist() == [True, False, False]
    out = run(call, 1.4, torch.tensor([[1.0, 0.0, 2.0]] * 3), inner)
    assert (out == want).all(dim=(0, 2, 3)).tolist() == [False, True, False]


def test_a_gamma_per_sample_equals_separate_calls():
    call, inner = tokens(batch=3), slice(3, 9)
    out = run(call, torch.tensor([1.05, -0.5, 2.0], dtype=torch.float64), 3.0, inner)
    for sample, gamma in enumerate((1.05, -0.5, 2.0)):
        one = slice(sample, sample + 1)
        alone = run(Call(call.q[one], call.k[one], call.v[one], call.x[one]), gamma, 3.0, inner)
        torch.testing.assert_close(out[one], alone, rtol=0, atol=1e-12)


@settings(max_examples=40)
@given(data=st.data(), call=calls(largest_head_dim=16))
def test_the_inner_attention_gets_the_mask_of_its_rows(data, call):
    batch, heads, length, head_dim = call.q.shape
    start = data.draw(st.integers(0, length - 1))
    inner = slice(start, data.draw(st.integers(start + 1, length)))
    seen = []

    def attend(q, k, v, mask, scale):
        seen.append((q, k, v, mask, scale))
        return pytorch_attend(q, k, v, mask, scale)

    run(call, data.draw(gammas(batch, heads)), data.draw(betas(batch, heads)), inner, attend=attend)
    assert seen
    for q, k, v, mask, scale in seen:
        assert k.shape == v.shape == (batch, heads, length, q.shape[-1])
        assert q.shape[-1] in (head_dim, 2 * head_dim)
        assert isinstance(scale, float)
        assert (mask is None) == (call.mask is None)
        assert mask is None or (mask.dtype == q.dtype and mask.shape[-2] in (1, q.shape[2]))


@pytest.mark.parametrize(
    "inner",
    [(5, 5), (9, 3), (0, 13), (12, 13), (-4, None), (0, -1), (0, 8, 2), (8, 0, -1)],
)
def test_an_inner_that_is_no_run_of_tokens_is_refused(inner):
    inner = slice(*inner)
    with pytest.raises(ValueError, match="inner is") as refusal:
        run(tokens(), 1.05, 3.0, inner)
    assert str(inner) in str(refusal.value)
    assert "0 … 12" in str(refusal.value)


@pytest.mark.parametrize("norm", ["input", "projected", "values"])
def test_a_norm_that_needs_one_input_is_refused(norm):
    with pytest.raises(ValueError, match=f'norm is "{norm}"') as refusal:
        run(tokens(), 1.05, 3.0, slice(0, 5), norm)
    assert "value, none" in str(refusal.value)


@pytest.mark.parametrize(
    "changes", [{"gamma": torch.ones(3)}, {"beta": float("nan")}, {"mask": torch.ones(12, 12).int()}]
)
def test_errors_of_skew_attention_are_raised_here_too(changes):
    call = tokens()
    with pytest.raises(ValueError, match=next(iter(changes))):
        joint_skew_attention(
            **{"q": call.q, "k": call.k, "v": call.v, "gamma": 1.05, "beta": 3.0, "inner": slice(0, 5), **changes}
        )
