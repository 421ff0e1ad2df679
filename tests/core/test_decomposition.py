"""A = S + C, and the doubled head dim that computes S + γC in one product."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.testing import definition
from lab.testing.strategies import Call, calls, gammas, tokens
from sad_core import decompose
from sad_core.decomposition import double_head_dim, triple_head_dim
from sad_core.parameters import per_head

GAMMA = st.floats(-2.0, 3.0)


def written(q, k, gamma) -> tuple[torch.Tensor, torch.Tensor]:
    return double_head_dim(q, k, gamma, in_place=True)


def square_logits(dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return (3 * torch.randn(2, 3, 9, 9, dtype=torch.float64)).to(dtype)


def skewed_product(call: Call, gamma) -> torch.Tensor:
    queries, keys = written(call.q, call.k, per_head(gamma, "gamma", *call.q.shape[:2]))
    return call.q.shape[-1] ** -0.5 * queries @ keys.mT


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_the_two_parts_add_up_to_the_logits(dtype):
    logits = square_logits(dtype)
    symmetric, skew = decompose(logits)
    assert symmetric.dtype == skew.dtype == dtype
    step = torch.finfo(dtype).eps * 20
    torch.testing.assert_close(symmetric + skew, logits, rtol=0, atol=step)
    torch.testing.assert_close(symmetric.double(), (logits.double() + logits.double().mT) / 2, rtol=0, atol=step)


def test_one_part_is_symmetric_and_the_other_skew_to_the_last_bit():
    symmetric, skew = decompose(square_logits(torch.float32))
    assert torch.equal(symmetric, symmetric.mT)
    assert torch.equal(skew, -skew.mT)
    assert skew.abs().max() > 1
    assert symmetric.abs().max() > 1


def test_large_half_precision_logits_do_not_overflow():
    logits = torch.tensor([[40000.0, 49152.0], [57344.0, -40000.0]], dtype=torch.float16)
    symmetric, skew = decompose(logits)
    assert torch.equal(symmetric, torch.tensor([[40000.0, 53248.0], [53248.0, -40000.0]], dtype=torch.float16))
    assert torch.equal(skew, torch.tensor([[0.0, -4096.0], [4096.0, 0.0]], dtype=torch.float16))


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (4, 5), (4,), ()])
def test_logits_that_are_not_square_are_refused(shape):
    with pytest.raises(ValueError, match="square logits") as refusal:
        decompose(torch.zeros(shape))
    assert str(shape) in str(refusal.value)


@settings(max_examples=60)
@given(data=st.data(), call=calls())
def test_the_doubled_heads_multiply_to_the_skewed_logits(data, call):
    batch, heads = call.q.shape[:2]
    gamma = data.draw(gammas(batch, heads))
    symmetric, skew = decompose(definition.skewed_logits(call.q, call.k, 1.0))
    want = symmetric + definition.each_head(gamma, batch, heads) * skew
    torch.testing.assert_close(skewed_product(call, gamma), want, rtol=0, atol=1e-11)


@settings(max_examples=30)
@given(gamma=GAMMA)
def test_negating_gamma_transposes_the_logits(gamma):
    call = tokens()
    torch.testing.assert_close(skewed_product(call, -gamma), skewed_product(call, gamma).mT, rtol=0, atol=1e-12)


def test_gamma_minus_one_is_the_transposed_logits_and_one_the_logits():
    call = tokens()
    logits = definition.skewed_logits(call.q, call.k, 1.0)
    torch.testing.assert_close(skewed_product(call, -1.0), logits.mT, rtol=0, atol=1e-12)
    torch.testing.assert_close(skewed_product(call, 1.0), logits, rtol=0, atol=1e-12)
    assert (logits - logits.mT).abs().max() > 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("gamma_dtype", [None, torch.float32, torch.float16, torch.bfloat16])
def test_half_precision_queries_and_keys_are_rounded_only_once(dtype, gamma_dtype):
    gamma = 1.0234375  # 1 + 3/128: a number of bfloat16, whose c₊ is none
    call = tokens(length=48, head_dim=64).to(dtype)
    given_gamma = gamma if gamma_dtype is None else torch.tensor(gamma, dtype=gamma_dtype)
    queries, keys = written(call.q, call.k, per_head(given_gamma, "gamma", *call.q.shape[:2]))
    share = abs((1 - gamma) / 2) ** 0.5
    wanted_queries = torch.cat([call.q.double(), share * call.k.double()], dim=-1).to(dtype)
    wanted_keys = torch.cat([(1 + gamma) / 2 * call.k.double(), -share * call.q.double()], dim=-1).to(dtype)
    assert queries.dtype == keys.dtype == dtype
    assert float((queries != wanted_queries).double().mean()) < 1e-3
    assert float((keys != wanted_keys).double().mean()) < 1e-3


@pytest.mark.parametrize("gamma", [0.95, 1.05])
def test_near_gamma_one_the_small_part_survives_quantised_keys(gamma):
    call = tokens(length=48, head_dim=64)
    queries, keys = written(call.q, call.k, gamma)

    def quantised(vectors):
        scale = vectors.abs().amax(dim=(-2, -1), keepdim=True) / 127
        return (vectors / scale).round() * scale

    plain_error = quantised(call.q) @ quantised(call.k).mT - call.q @ call.k.mT
    error = quantised(queries) @ quantised(keys).mT - queries @ keys.mT
    # The plain split, k̃ = [c₊·k, c₋·q], comes out at 1.26 times here.
    assert error.norm() < 1.15 * plain_error.norm()


# --- two forms, and the bits of the formula


def doubled_through_float32(q, k, gamma) -> tuple[torch.Tensor, torch.Tensor]:
    """The formula with every step in float32 at least and one rounding at its end."""
    precise = torch.promote_types(k.dtype, torch.float32)
    q, k, dtype = q.to(precise), k.to(precise), q.dtype
    c_plus, c_minus = (1 + gamma) / 2, (1 - gamma) / 2
    if isinstance(gamma, torch.Tensor):
        root, sign = c_minus.abs().sqrt(), c_minus.sign()
    else:
        root, sign = abs(c_minus) ** 0.5, 1.0 if c_minus >= 0 else -1.0
    queries = torch.cat([q, k * root], dim=-1)
    return queries.to(dtype), torch.cat([k * c_plus, q * (root * sign)], dim=-1).to(dtype)


def joined(q, k, gamma) -> tuple[torch.Tensor, torch.Tensor]:
    queries, keys = double_head_dim(q.requires_grad_(), k.requires_grad_(), gamma, in_place=False)
    assert queries.requires_grad
    assert keys.requires_grad
    return queries.detach(), keys.detach()


def assert_bits_of_the_formula(form, dtype, gamma, shape) -> None:
    call = tokens(length=40, head_dim=24).to(dtype)
    if shape is not None:
        numbers = gamma + 0.01 * torch.arange(6).reshape(2, 3)
        gamma = per_head(numbers[0, 0] if shape == () else numbers[:, 0] if shape == (2,) else numbers, "gamma", 2, 3)
    queries, keys = form(call.q.clone(), call.k.clone(), gamma)
    wanted_queries, wanted_keys = doubled_through_float32(call.q, call.k, gamma)
    assert queries.dtype == keys.dtype == dtype
    assert torch.equal(queries, wanted_queries)
    assert torch.equal(keys, wanted_keys)


@pytest.mark.parametrize("form", [written, joined])
@pytest.mark.parametrize("shape", [None, (), (2,), (2, 3)])
@pytest.mark.parametrize("gamma", [1.05, 0.9, 0.0, -1.0, 2.7])  # of most, c₊ and √|c₋| are no numbers of half precision
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_both_forms_have_the_bits_of_the_formula(dtype, gamma, shape, form):
    assert_bits_of_the_formula(form, dtype, gamma, shape)


@pytest.mark.parametrize("shape", [None, (2,)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_compiled_graph_has_the_bits_of_the_formula(dtype, shape):
    torch._dynamo.reset()
    form = torch.compile(partial(double_head_dim, in_place=False), backend="eager", fullgraph=True)
    assert_bits_of_the_formula(form, dtype, 1.05, shape)
    torch._dynamo.reset()


def tripled_through_float32(q, k, gamma) -> tuple[torch.Tensor, torch.Tensor]:
    """The formula of a γ for every row, with every step in float32 at least and one rounding at its end."""
    precise, dtype = torch.promote_types(k.dtype, torch.float32), q.dtype
    q, k, c_minus = q.to(precise), k.to(precise), (1 - gamma) / 2
    largest = [[float(head.abs().max()) or 1.0 for head in sample] for sample in c_minus]
    share = torch.tensor(largest, dtype=gamma.dtype)[:, :, None, None].sqrt()
    queries = torch.cat([q, k * (c_minus / share), q * -(c_minus / share)], dim=-1)
    return queries.to(dtype), torch.cat([k, q * share, k * share], dim=-1).to(dtype)


@pytest.mark.parametrize("form", ["written", "joined", "compiled"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_rows_with_a_gamma_each_have_the_bits_of_the_formula(dtype, form):
    call = tokens(length=40, head_dim=24).to(dtype)
    precise = torch.promote_types(dtype, torch.float32)
    gamma = torch.linspace(-1, 3, 2 * 3 * 40, dtype=precise).reshape(2, 3, 40, 1)
    gamma[1, 2] = 1.0  # a head in which nothing is skewed
    build = partial(triple_head_dim, in_place=form == "written")
    if form == "compiled":
        torch._dynamo.reset()
        build = torch.compile(build, backend="eager", fullgraph=True)
    for got, want in zip(build(call.q, call.k, gamma), tripled_through_float32(call.q, call.k, gamma), strict=True):
        assert got.dtype == dtype
        assert torch.equal(got, want)
    torch._dynamo.reset()
