"""skew_attention against the plain statement, its neutral points, and what it asks of the inner attention."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import sad_core.attention
from lab.testing import definition
from lab.testing.memory import Memory
from lab.testing.strategies import FORMS, MASKS, Call, betas, calls, gammas, tokens
from sad_core import NORMS, skew_attention
from sad_core.inner_attention import pytorch_attend

ALL_MASKS = [None, *MASKS, *(f"{kind} bool" for kind in MASKS)]
# γ, β and the γ it must not be confused with.
TELLING = [(1.05, 1.0), (1.05, 3.0), (1.2, 5.0), (0.0, 1.0), (-1.0, 2.0), (2.5, 0.5)]


def run(call: Call, gamma, beta=1.0, norm="value", **options) -> torch.Tensor:
    x = call.x if norm in ("projected", "input") else None
    return skew_attention(
        call.q, call.k, call.v, gamma, beta, norm=norm, x=x, scale=call.scale, mask=call.mask, **options
    )


def stated(call: Call, gamma, beta=1.0, norm="value") -> torch.Tensor:
    """The same by the plain statement; "projected" is exact at the ranks drawn here."""
    batch, heads = call.q.shape[:2]
    gamma, beta = definition.each_head(gamma, batch, heads), definition.each_head(beta, batch, heads)
    norm = "input" if norm == "projected" else norm
    q, k, v = (tensor.double() for tensor in (call.q, call.k, call.v))
    return definition.skew_attention(
        q,
        k,
        v,
        gamma,
        beta,
        norm=norm,
        x=call.x.double(),
        scale=call.scale,
        mask=call.mask,
    )


def torch_attention(call: Call) -> torch.Tensor:
    return F.scaled_dot_product_attention(call.q, call.k, call.v, attn_mask=call.mask, scale=call.scale)


def form(numbers: list[float], name: str, heads: int) -> float | torch.Tensor:
    """One number a sample, in the form called `name`; the forms without a batch take the first."""
    if name == "float":
        return numbers[0]
    per_sample = torch.tensor(numbers, dtype=torch.float64)
    per_head = per_sample[:, None].repeat(1, heads)
    forms = {"0-d": per_sample[0], "(B,)": per_sample, "(B, H)": per_head, "(B, H, 1, 1)": per_head[..., None, None]}
    return forms[name]


class Spy:
    """An inner attention that remembers what it was given."""

    def __init__(self, answer=pytorch_attend):
        self.answer, self.calls = answer, []

    def __call__(self, q, k, v, mask, scale):
        self.calls.append((q, k, v, mask, scale))
        return self.answer(q, k, v, mask, scale)


# --- the plain statement


@settings(max_examples=100)
@given(data=st.data(), call=calls(), norm=st.sampled_from(NORMS))
def test_every_call_is_the_plain_statement(data, call, norm):
    gamma, beta = data.draw(gammas(*call.q.shape[:2])), data.draw(betas(*call.q.shape[:2]))
    torch.testing.assert_close(run(call, gamma, beta, norm), stated(call, gamma, beta, norm), rtol=1e-9, atol=1e-9)


@settings(max_examples=30)
@given(data=st.data(), call=calls(), norm=st.sampled_from(NORMS))
def test_single_precision_is_the_plain_statement(data, call, norm):
    gamma, beta = data.draw(gammas(*call.q.shape[:2])), data.draw(betas(*call.q.shape[:2]))
    call = call.to(torch.float32)
    out = run(call, gamma, beta, norm)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out.double(), stated(call, gamma, beta, norm), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float32, 1e-5), (torch.float16, 3e-3), (torch.bfloat16, 2e-2)],
)
@pytest.mark.parametrize(("gamma", "beta"), TELLING)
@pytest.mark.parametrize("norm", NORMS)
def test_no_other_gamma_passes_for_the_right_one(norm, gamma, beta, dtype, tolerance):
    call = tokens(length=32, head_dim=40).to(dtype)
    out = run(call, gamma, beta, norm)
    assert out.dtype == dtype
    assert definition.relative_error(out, stated(call, gamma, beta, norm)) < tolerance
    for other in {1.0, 0.9 * gamma, -gamma} - {gamma}:
        assert definition.relative_error(out, stated(call, other, beta, norm)) > 2 * tolerance


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("kind", ALL_MASKS)
def test_no_other_beta_or_mask_passes_for_the_right_one(kind, norm):
    call = tokens(length=32, head_dim=40, mask=kind)
    out = run(call, 1.3, 2.0, norm)
    assert definition.relative_error(out, stated(call, 1.3, 2.0, norm)) < 1e-12
    assert definition.relative_error(out, stated(call, 1.3, 1.8, norm)) > 1e-3
    if kind is not None:
        assert definition.relative_error(out, stated(tokens(length=32, head_dim=40), 1.3, 2.0, norm)) > 0.1


def test_the_norms_differ_from_each_other():
    call = tokens(length=32, head_dim=40, channels=48)
    outs = [stated(call, 1.3, 4.0, norm) for norm in ("none", "value", "input")]
    assert definition.relative_error(outs[0], outs[1]) > 0.01
    assert definition.relative_error(outs[0], outs[2]) > 0.01
    assert definition.relative_error(outs[1], outs[2]) > 0.01


def test_gamma_minus_one_swaps_queries_and_keys():
    call = tokens(length=20)
    swapped = pytorch_attend(call.k, call.q, call.v, None, 8**-0.5)
    torch.testing.assert_close(run(call, -1.0), swapped, rtol=0, atol=1e-12)
    assert definition.relative_error(swapped, torch_attention(call)) > 0.5


def test_one_token_keeps_its_value():
    call = tokens(length=1)
    torch.testing.assert_close(run(call, -0.3, 7.0), call.v, rtol=0, atol=1e-12)


# --- neutral points


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_neutral_numbers_give_the_plain_bits_at_every_head_dim(dtype):
    for head_dim in range(1, 257):
        call = tokens(batch=1, heads=2, length=4, head_dim=head_dim).to(dtype)
        want = F.scaled_dot_product_attention(call.q, call.k, call.v)
        assert torch.equal(run(call, 1.0, 3.0), want), head_dim
        assert torch.equal(run(call, 1.4, 0.0), want), head_dim


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ALL_MASKS)
def test_neutral_numbers_give_the_plain_bits_under_every_mask(kind, dtype):
    call = tokens(length=70, head_dim=16, mask=kind, scale=0.3).to(dtype)
    want = torch_attention(call)
    for norm in NORMS:
        assert torch.equal(run(call, 1.0, 3.0, norm), want)
        assert torch.equal(run(call, 1.4, 0.0, norm), want)


@pytest.mark.parametrize(("gamma", "beta"), [(1.0, 3.0), (1.0, 1.0), (0.3, 0.0)])
@pytest.mark.parametrize("norm", NORMS)
def test_neutral_numbers_cost_one_call_with_the_tensors_untouched(monkeypatch, norm, gamma, beta):
    def unwanted(*_):
        raise AssertionError("x was projected for nothing")

    monkeypatch.setattr(sad_core.attention, "project_input", unwanted)
    call, spy = tokens(mask="(B, 1, L, L)"), Spy()
    out = run(call, gamma, beta, norm, attend=spy)
    ((q, k, v, mask, scale),) = spy.calls
    assert all(got is given for got, given in zip((q, k, v, mask), (call.q, call.k, call.v, call.mask), strict=True))
    assert scale == 1 / math.sqrt(8)
    assert torch.equal(out, torch_attention(call))


@pytest.mark.parametrize("beta", [1.0, 3.0])
def test_doubled_heads_need_eight_times_the_memory_of_q(beta):
    """Queries, keys, values and the result, each of twice the head dim. PyTorch keeps a few numbers for every row."""
    call = tokens(batch=1, heads=2, length=4096, head_dim=64).to(torch.bfloat16)
    with Memory() as memory:
        skew_attention(call.q, call.k, call.v, 1.05, beta, tiles=False)
    assert 7 * call.q.nbytes <= memory.peak <= 8.2 * call.q.nbytes


def test_the_pure_knob_costs_one_call_as_well():
    for norm in NORMS:
        spy = Spy()
        run(tokens(), 1.05, 1.0, norm, attend=spy)
        assert len(spy.calls) == 1


@pytest.mark.parametrize("gamma", [torch.tensor(1.05), torch.tensor([1.0, 0.3]), torch.linspace(0, 2, 72)])
def test_a_gamma_in_a_tensor_costs_one_call_where_rounding_is_allowed(gamma):
    call, spy = tokens(mask="(B, 1, L, L)"), Spy()
    gamma = gamma.reshape(2, 3, 12) if gamma.numel() == 72 else gamma
    out = run(call, gamma, 1.0, attend=spy, neutral_bits=False)
    assert len(spy.calls) == 1
    torch.testing.assert_close(out, run(call, gamma, 1.0), rtol=0, atol=1e-6)
    blended = run(call, gamma, torch.tensor([3.0, 0.0]), neutral_bits=False)
    assert torch.equal(blended, run(call, gamma, torch.tensor([3.0, 0.0])))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", FORMS[1:])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_neutral_samples_keep_their_bits_beside_others(dtype, name, norm):
    call = tokens(batch=3, length=33, head_dim=16).to(dtype)
    want = torch_attention(call)
    lone = name == "0-d"
    gamma = form([1.0, 1.3, 0.4], name, 3)
    out = run(call, gamma, 3.0, norm)
    assert torch.equal(out if lone else out[0], want if lone else want[0])
    assert lone or not torch.isclose(out[1:], want[1:]).all(dim=(1, 2, 3)).any()
    out = run(call, 1.3, form([0.0, 1.0, 2.0], name, 3), norm)
    assert torch.equal(out if lone else out[0], want if lone else want[0])
    assert lone or not torch.isclose(out[1:], want[1:]).all(dim=(1, 2, 3)).any()


def test_neutral_heads_keep_their_bits_beside_others():
    call = tokens(batch=2, heads=3)
    gamma = torch.tensor([[1.0, 1.5, 1.0], [0.0, 1.0, 2.0]])
    same = (run(call, gamma, 2.0) == torch_attention(call)).all(dim=(2, 3))
    assert same.tolist() == [[True, False, True], [False, True, False]]


def test_a_query_that_may_see_nothing_gets_what_plain_attention_gives_it():
    call = tokens(length=9)
    mask = torch.ones(9, 9, dtype=torch.bool)
    mask[4] = False
    out = skew_attention(call.q, call.k, call.v, 0.5, 3.0, mask=mask)
    want = F.scaled_dot_product_attention(call.q, call.k, call.v, attn_mask=mask)
    assert torch.equal(out[:, :, 4], want[:, :, 4])
    assert not torch.isnan(out).any()


# --- one number a sample


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ["(B,)", "(B, H)", "(B, H, 1, 1)"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_gamma_and_beta_per_sample_equal_separate_calls(dtype, name, norm):
    call = tokens(batch=4, channels=30).to(dtype)
    numbers, blends = [1.05, -0.5, 1.0, 2.0], [3.0, 1.0, 2.0, 0.5]
    out = run(call, form(numbers, name, 3), form(blends, name, 3), norm)
    for sample, (gamma, beta) in enumerate(zip(numbers, blends, strict=True)):
        one = slice(sample, sample + 1)
        alone = run(Call(call.q[one], call.k[one], call.v[one], call.x[one]), gamma, beta, norm)
        torch.testing.assert_close(out[one], alone, rtol=1e-5, atol=1e-5 if dtype == torch.float32 else 1e-12)


@pytest.mark.parametrize("tolerance", [0.01, 0.16])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("gamma", [1.05, -0.5])
def test_batch_mates_never_matter(gamma, norm, tolerance):
    call = tokens(batch=4, length=24, channels=40).to(torch.float32)
    x = call.x * torch.tensor([1.0, 5.0, 0.2, 1.0])[:, None, None]
    out = run(Call(call.q, call.k, call.v, x), gamma, 3.0, norm, tolerance=tolerance)
    for sample in range(4):
        one = slice(sample, sample + 1)
        alone = run(Call(call.q[one], call.k[one], call.v[one], x[one]), gamma, 3.0, norm, tolerance=tolerance)
        torch.testing.assert_close(out[one], alone, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("heads", [3, 8])
def test_a_vector_as_long_as_heads_or_head_dim_is_per_sample(heads):
    call = tokens(batch=heads, heads=heads, length=heads, head_dim=heads)
    numbers = torch.linspace(-1, 2, heads)
    torch.testing.assert_close(run(call, numbers), stated(call, numbers), rtol=0, atol=1e-6)
    assert definition.relative_error(stated(call, numbers), stated(call, numbers.expand(heads, heads))) > 0.1


@pytest.mark.parametrize("gamma_dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_gamma_in_any_precision_counts_for_what_it_says(gamma_dtype):
    call = tokens(batch=2).to(torch.float32)
    numbers = torch.tensor([1.0234375, 1.0546875], dtype=gamma_dtype)  # exact in bfloat16 and float16
    blends = torch.tensor([2.0, 3.015625], dtype=gamma_dtype)
    torch.testing.assert_close(run(call, numbers, blends).double(), stated(call, numbers, blends), rtol=0, atol=1e-5)


# --- laws


@pytest.mark.parametrize("kind", [None, "(B, H, L, L)", "(1, 1, 1, L) bool"])
@pytest.mark.parametrize("norm", NORMS)
@given(seed=st.integers(0, 2**16))
@settings(max_examples=5)
def test_permuting_the_tokens_permutes_the_output(norm, kind, seed):
    call = tokens(length=11, seed=seed, mask=kind)
    order = torch.randperm(11, generator=torch.Generator().manual_seed(seed))
    mask = call.mask
    if mask is not None:
        mask = mask[..., order]
        mask = mask if mask.shape[-2] == 1 else mask[..., order, :]
    shuffled = Call(*(tensor[:, :, order] for tensor in (call.q, call.k, call.v)), call.x[:, order], mask)
    want = run(call, 0.3, 2.0, norm)[:, :, order]
    torch.testing.assert_close(run(shuffled, 0.3, 2.0, norm), want, rtol=0, atol=1e-11)


@given(gamma=st.floats(-2, 3), seed=st.integers(0, 2**16))
@settings(max_examples=20)
def test_negating_gamma_is_swapping_queries_and_keys(gamma, seed):
    call = tokens(seed=seed)
    swapped = Call(call.k, call.q, call.v, call.x)
    torch.testing.assert_close(run(call, -gamma), run(swapped, gamma), rtol=0, atol=1e-11)


@given(seed=st.integers(0, 2**16), gamma=st.floats(-2, 3), beta=st.floats(0, 10))
@settings(max_examples=30)
def test_the_norm_guard_holds_the_length_between_a_quarter_and_four_times(seed, gamma, beta):
    call = tokens(seed=seed)
    free, guarded = run(call, gamma, beta, "none"), run(call, gamma, beta, "value")
    ratio = guarded.norm(dim=-1) / free.norm(dim=-1)
    assert float(ratio.min()) >= 0.25 - 1e-9
    assert float(ratio.max()) <= 4 + 1e-9


# --- the inner attention


@settings(max_examples=40)
@given(data=st.data(), call=calls(largest_head_dim=24), norm=st.sampled_from(NORMS))
def test_the_inner_attention_gets_equal_head_dims_and_an_additive_mask(data, call, norm):
    gamma, beta = data.draw(gammas(*call.q.shape[:2])), data.draw(betas(*call.q.shape[:2]))
    call, spy = call.to(torch.float32), Spy()
    out = run(call, gamma, beta, norm, attend=spy)
    assert out.shape == call.v.shape
    assert spy.calls
    for q, k, v, mask, scale in spy.calls:
        assert q.shape == k.shape == v.shape
        assert q.shape[-1] in (call.q.shape[-1], 2 * call.q.shape[-1])
        assert q.dtype == k.dtype == v.dtype == torch.float32
        assert (mask is None) == (call.mask is None)
        assert mask is None or mask.dtype == torch.float32
        assert isinstance(scale, float)
        assert scale == pytest.approx(call.scale or call.q.shape[-1] ** -0.5)


def test_a_mask_in_another_float_dtype_arrives_in_that_of_the_queries():
    call, spy = tokens().to(torch.bfloat16), Spy()
    skew_attention(call.q, call.k, call.v, 1.05, 3.0, mask=torch.zeros(12, 12), attend=spy)
    assert {mask.dtype for _, _, _, mask, _ in spy.calls} == {torch.bfloat16}


def test_the_result_is_that_of_the_inner_attention():
    call = tokens()
    spy = Spy(lambda q, k, v, mask, scale: 1.1 * pytorch_attend(q, k, v, mask, scale))
    for gamma, beta in ((1.0, 3.0), (1.05, 1.0), (1.05, 3.0)):
        out = run(call, gamma, beta, "none", attend=spy)
        torch.testing.assert_close(out, 1.1 * run(call, gamma, beta, "none"), rtol=0, atol=1e-12)


# --- refusals


def refusal(error=ValueError, **changes) -> str:
    call = tokens(batch=2, heads=3, length=5, head_dim=4, channels=6)
    arguments = {"q": call.q, "k": call.k, "v": call.v, "gamma": 1.05, "beta": 3.0, **changes}
    with pytest.raises(error) as caught:
        skew_attention(**arguments)
    return str(caught.value)


@pytest.mark.parametrize("name", ["gamma", "beta"])
@pytest.mark.parametrize("shape", [(3,), (1,), (2, 1), (1, 3), (3, 2), (2, 3, 1), (2, 1, 1, 1), (5, 4), (2, 3, 5, 5)])
def test_a_strength_of_another_shape_is_refused(name, shape):
    message = refusal(**{name: torch.ones(shape)})
    for part in (name, str(shape), "(2,) per sample", "(2, 3) per head"):
        assert part in message


@pytest.mark.parametrize("name", ["gamma", "beta"])
@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_refused(name, number):
    message = refusal(**{name: number})
    assert name in message
    assert str(number) in message
    assert "finite" in message


def test_an_unknown_norm_is_refused():
    message = refusal(norm="values")
    assert '"values"' in message
    assert all(norm in message for norm in NORMS)


@pytest.mark.parametrize("gamma", [1.0, 1.05])
@pytest.mark.parametrize("beta", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("norm", ["projected", "input"])
def test_a_norm_without_its_x_is_refused_at_every_strength(norm, gamma, beta):
    message = refusal(norm=norm, gamma=gamma, beta=beta)
    assert f'"{norm}" needs x' in message
    assert "(B, L, C)" in message


@pytest.mark.parametrize("shape", [(2, 6, 6), (1, 5, 6), (5, 6), (2, 3, 5, 6)])
def test_an_x_of_other_tokens_is_refused(shape):
    message = refusal(norm="input", x=torch.zeros(shape))
    assert str(shape) in message
    assert "(B, L, C)" in message


@pytest.mark.parametrize("tolerance", [0.0, -0.1, 1.5, math.nan])
def test_a_tolerance_that_means_nothing_is_refused(tolerance):
    message = refusal(norm="projected", x=torch.zeros(2, 5, 6), tolerance=tolerance)
    assert str(tolerance) in message


@pytest.mark.parametrize("shape", [(2, 3, 6, 4), (2, 3, 5, 5), (2, 1, 5, 4), (3, 5, 4)])
def test_keys_of_other_tokens_than_the_queries_are_refused(shape):
    message = refusal(k=torch.zeros(shape))
    assert "(2, 3, 5, 4)" in message
    assert str(shape) in message
    assert "self-attention" in message


def test_queries_without_heads_are_refused():
    assert "(2, 5, 4)" in refusal(q=torch.zeros(2, 5, 4), k=torch.zeros(2, 5, 4))


@pytest.mark.parametrize("shape", [(2, 3, 6, 4), (2, 1, 5, 4), (1, 3, 5, 4), (5, 4)])
def test_values_of_other_tokens_are_refused(shape):
    message = refusal(v=torch.zeros(shape))
    assert str(shape) in message
    assert "(B, H, L, dv)" in message


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8])
def test_a_mask_of_whole_numbers_is_refused(dtype):
    message = refusal(mask=torch.ones(5, 5, dtype=dtype))
    assert str(dtype) in message
    assert "bool" in message
