"""γ for every query row, and queries of the last tokens only, against the block definition in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lab.testing import definition
from lab.testing.definition import relative_error
from lab.testing.strategies import betas, calls, gammas, tokens
from sad_core import modal_skew_attention, skew_attention

NUMBERS = {"γ": 0.6, "γ by head": torch.tensor([[1.4, -0.3, 1.0], [0.2, 2.0, 0.9]], dtype=torch.float64)}


def last(mask, queries):
    """The rows of a mask that belong to the last queries."""
    return mask if mask is None or mask.shape[-2] == 1 else mask[..., -queries:, :]


def by_row(draw, call, queries, neutral):
    """A number for every query row, now and then the neutral one."""
    numbers = torch.rand(*call.q.shape[:2], queries, generator=torch.Generator().manual_seed(draw), dtype=torch.float64)
    return torch.where(numbers < 0.2, neutral, 3 * numbers - 1)


@given(call=calls(largest_head_dim=40), data=st.data())
def test_the_last_queries_give_what_the_block_definition_says(call, data):
    batch, heads, length, _ = call.q.shape
    queries = data.draw(st.integers(1, length))
    norm = data.draw(st.sampled_from(["value", "none", "input"]))
    rows = data.draw(st.sampled_from(["γ", "β", "both", "neither"]))
    seed = data.draw(st.integers(0, 99))
    gamma = by_row(seed, call, queries, 1.0) if rows in ("γ", "both") else data.draw(gammas(batch, heads))
    beta = by_row(seed + 1, call, queries, 0.0).abs() if rows in ("β", "both") else data.draw(betas(batch, heads))
    options = {"norm": norm, "x": call.x, "scale": call.scale, "mask": last(call.mask, queries)}
    q = call.q[:, :, -queries:]
    got = skew_attention(q, call.k, call.v, gamma, beta, **options)
    stated = [x[..., None] if x.dim() == 3 else x for x in (expanded(gamma, call), expanded(beta, call))]
    want = definition.skew_attention(q, call.k, call.v, *stated, **options)
    assert got.shape == (batch, heads, queries, call.v.shape[-1])
    assert relative_error(got, want) < 1e-9


def expanded(value, call):
    is_by_row = isinstance(value, torch.Tensor) and value.dim() == 3
    return value if is_by_row else definition.each_head(value, *call.q.shape[:2])


@pytest.mark.parametrize("beta", [1.0, 3.0])
@pytest.mark.parametrize("image_tokens", [slice(0, 4), slice(2, 9), slice(6, 12), slice(0, 12)])
@pytest.mark.parametrize("factors", [{}, {"gamma_text": 0.4, "gamma_cross": 1.7}], ids=["image", "all"])
@pytest.mark.parametrize("gamma", NUMBERS)
def test_the_last_queries_of_joint_attention(gamma, factors, image_tokens, beta):
    call, queries = tokens(), 7
    got = modal_skew_attention(
        call.q[:, :, -queries:], call.k, call.v, NUMBERS[gamma], beta, inner=image_tokens, **factors
    )
    per_pair = definition.each_head(NUMBERS[gamma], 2, 3)
    numbers = [factors.get(name, 1.0) for name in ("gamma_text", "gamma_cross")]
    matrix = definition.gamma_matrix(per_pair, image_tokens, 12, *numbers)[..., -queries:, -queries:]
    want = definition.skew_attention(call.q[:, :, -queries:], call.k, call.v, matrix, beta)
    assert relative_error(got, want) < 1e-9


@pytest.mark.parametrize("beta", [1.0, 3.0, "by row"])
@pytest.mark.parametrize("queries", [7, 12])
@pytest.mark.parametrize("image_tokens", [slice(0, 9), slice(6, 8), slice(6, 12), slice(0, 12)])
def test_every_image_row_of_joint_attention_has_a_gamma_of_its_own(image_tokens, queries, beta):
    """Rows that are no image tokens stay plain, whatever their number says."""
    call = tokens()
    gamma = by_row(5, call, queries, 1.0)
    beta = by_row(6, call, queries, 0.0).abs() if beta == "by row" else beta
    q = call.q[:, :, -queries:]
    got = modal_skew_attention(q, call.k, call.v, gamma, beta, inner=image_tokens)
    inside = torch.zeros(12, dtype=torch.bool)
    inside[image_tokens] = True
    inside = inside[-queries:]
    matrix = torch.where(inside[:, None] & inside, gamma[..., None], 1.0)
    stated = torch.where(inside[:, None], beta[..., None], 1.0) if isinstance(beta, torch.Tensor) else beta
    want = definition.skew_attention(q, call.k, call.v, matrix, stated)
    assert relative_error(got, want) < 1e-9
    plain = torch.nn.functional.scaled_dot_product_attention(q, call.k, call.v)
    still = ~inside | (gamma == 1.0)
    assert torch.equal(got[still.expand(2, 3, -1)], plain[still.expand(2, 3, -1)])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("queries", [5, 12])
def test_rows_at_gamma_1_keep_the_bits_of_the_plain_retrieval(dtype, queries):
    call = tokens(head_dim=16).to(dtype)
    q, gamma = call.q[:, :, -queries:], torch.full((2, 3, queries), 1.6)
    gamma[:, :, 1::2] = 1.0
    plain = torch.nn.functional.scaled_dot_product_attention(q, call.k, call.v)
    out = skew_attention(q, call.k, call.v, gamma, 3.0)
    assert torch.equal(out[:, :, 1::2], plain[:, :, 1::2])
    assert not torch.equal(out[:, :, ::2], plain[:, :, ::2])


def test_many_tokens_by_row_do_without_tiles():
    call, told = tokens(length=140), []
    gamma = 1 + torch.linspace(-1, 1, 140, dtype=torch.float64).expand(2, 3, 140)
    out = skew_attention(call.q, call.k, call.v, gamma, on_tiles=lambda: told.append("tiles"))
    assert relative_error(out, definition.skew_attention(call.q, call.k, call.v, gamma[..., None])) < 1e-9
    skew_attention(call.q, call.k, call.v, 1.5, gamma, on_tiles=lambda: told.append("tiles"))
    skew_attention(call.q[:, :, 4:], call.k, call.v, 1.5, on_tiles=lambda: told.append("tiles"))
    assert not told


def test_a_gradient_reaches_every_row():
    call = tokens()
    gamma = torch.full((2, 3, 7), 1.3, dtype=torch.float64, requires_grad=True)
    q = call.q[:, :, -7:].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda q, gamma: skew_attention(q, call.k, call.v, gamma, 2.0), (q, gamma))


@pytest.mark.parametrize("shape", [(2, 3, 12), (3, 7), (2, 7), (1, 1, 7, 1), (2, 3, 7, 2)])
def test_a_gamma_of_other_rows_is_refused_with_what_is_allowed(shape):
    call = tokens()
    with pytest.raises(ValueError, match=r"gamma has shape .* or \(2, 3, 7\) per query row\."):
        skew_attention(call.q[:, :, -7:], call.k, call.v, torch.ones(shape))
    with pytest.raises(ValueError, match="gamma has shape"):  # only without a γ of the text
        modal_skew_attention(call.q, call.k, call.v, torch.ones(2, 3, 12), inner=slice(0, 5), gamma_text=0.5)


def test_more_queries_than_keys_are_refused():
    call = tokens()
    with pytest.raises(ValueError, match="q has shape"):
        skew_attention(call.q, call.k[:, :, 1:], call.v[:, :, 1:], 0.6)
    with pytest.raises(ValueError, match="q has shape"):
        skew_attention(call.q[:, :, 1:], call.k, call.v[:, :, 1:], 0.6)
