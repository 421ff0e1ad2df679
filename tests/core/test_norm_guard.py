"""ρ itself, and the few directions of x that represent all its channels."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.testing import definition
from lab.testing.strategies import SPREAD, tokens
from sad_core import skew_attention
from sad_core.norm_guard import norm_ratio, project_input, projection_rank

NORM = st.one_of(st.just(0.0), st.floats(1e-9, 1e-4), st.floats(1e-3, 1e3))


def layer(length=256, channels=320, heads=5, directions=24, noise=0.3, seed=0, dtype=torch.float32):
    """q, k, v, x of a layer as they are found in models: x normalised, a few strong directions and noise over them."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    signal = draw(2, length, directions) @ draw(directions, channels) / directions**0.5
    x = F.layer_norm(signal + noise * draw(2, length, channels), (channels,))
    projections = draw(3, channels, channels) / channels**0.5
    q, k, v = ((x @ weight).unflatten(-1, (heads, -1)).transpose(1, 2).to(dtype) for weight in projections)
    return SPREAD * q, SPREAD * k, v, x.to(dtype)


def error_of_projection(gamma, beta, tolerance, **shape) -> float:
    q, k, v, x = layer(**shape)
    exact = skew_attention(q, k, v, gamma, beta, norm="input", x=x)
    return definition.relative_error(
        skew_attention(q, k, v, gamma, beta, norm="projected", x=x, tolerance=tolerance), exact
    )


# --- ρ


@given(wanted=NORM, found=NORM)
def test_rho_is_the_ratio_of_norms_within_a_quarter_and_four(wanted, found):
    direction = torch.tensor([0.6, -0.8], dtype=torch.float64)
    rho = float(norm_ratio(wanted * direction, found * direction))
    assert rho == pytest.approx(min(max(max(wanted, 1e-6) / max(found, 1e-6), 0.25), 4.0), rel=1e-9)


@pytest.mark.parametrize(
    ("wanted", "found", "rho"),
    [(1, 1, 1), (1, 2, 0.5), (3, 1, 3), (9, 1, 4), (1, 9, 0.25), (0, 0, 1), (1, 0, 4), (0, 1, 0.25), (1e-8, 1e-7, 1)],
)
def test_rho_at_its_limits_and_at_tiny_norms(wanted, found, rho):
    ones = torch.ones(1, 1, 1, 1)
    assert norm_ratio(wanted * ones, found * ones).item() == rho


def test_rho_is_one_number_a_token_and_a_head():
    skewed, blended = torch.randn(2, 2, 3, 5, 8, dtype=torch.float64)
    rho = norm_ratio(skewed, blended)
    assert rho.shape == (2, 3, 5, 1)
    for place in ((0, 0, 0), (1, 2, 4), (0, 1, 3)):
        assert rho[place].item() == pytest.approx((skewed[place].norm() / blended[place].norm()).item())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rho_of_large_half_precision_numbers_does_not_overflow(dtype):
    skewed, blended = torch.full((1, 1, 1, 64), 30000.0, dtype=dtype), torch.full((1, 1, 1, 64), 15000.0, dtype=dtype)
    rho = norm_ratio(skewed, blended)
    assert rho.dtype == torch.float32
    assert rho.item() == pytest.approx(float(skewed[0, 0, 0, 0]) / float(blended[0, 0, 0, 0]), rel=1e-5)


@pytest.mark.parametrize(("push", "rho"), [(0.0, 1.0), (-0.99, 4.0), (30.0, 0.25)])
def test_a_blend_that_collapses_or_explodes_is_held_at_the_limits(push, rho):
    q = torch.zeros(1, 1, 2, 4, dtype=torch.float64)
    q[0, 0, 0, 0] = q[0, 0, 1, 1] = 3
    k = torch.stack([-q[..., 1], q[..., 0], q[..., 2], q[..., 3]], dim=-1)
    v = torch.tensor([1.0, 2.0], dtype=torch.float64).reshape(1, 1, 2, 1)
    plain_out, skewed = (definition.skew_attention(q, k, v, gamma, norm="none") for gamma in (1.0, -2.0))
    # The β at which token 0's blend is (1 + push) times its skewed retrieval.
    step = (skewed - plain_out)[0, 0, 0, 0]
    beta = float(((1 + push) * skewed - plain_out)[0, 0, 0, 0] / step)
    free, out = (skew_attention(q, k, v, -2.0, beta, norm=norm) for norm in ("none", "value"))
    assert float(out[0, 0, 0, 0] / free[0, 0, 0, 0]) == pytest.approx(rho)


# --- how many directions


@given(tokens=st.integers(1, 5000), channels=st.integers(1, 3000), tolerance=st.floats(1e-4, 1.0))
def test_the_rank_stays_within_the_shape_and_grows_with_exactness(tokens, channels, tolerance):
    rank = projection_rank(tokens, channels, tolerance)
    assert 1 <= rank <= min(tokens, channels)
    assert projection_rank(tokens, channels, tolerance / 2) >= rank
    assert rank == min(tokens, channels, math.ceil(0.64 / tolerance))


@pytest.mark.parametrize(("tolerance", "rank"), [(0.01, 64), (0.02, 32), (0.64, 1), (1.0, 1), (0.005, 128)])
def test_the_rank_at_chosen_tolerances(tolerance, rank):
    assert projection_rank(4096, 640, tolerance) == rank


@pytest.mark.parametrize("tolerance", [0.0, -1.0, 1.01, math.nan, math.inf])
def test_a_tolerance_outside_zero_and_one_is_refused(tolerance):
    with pytest.raises(ValueError, match="above 0 and at most 1") as refusal:
        projection_rank(10, 10, tolerance)
    assert str(tolerance) in str(refusal.value)


def test_the_rank_is_the_same_whatever_the_data_says():
    seen = []

    def attend(q, k, v, mask, scale):
        seen.append(v.shape)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)

    q, k, v, x = layer()
    for data in (x, torch.zeros_like(x), torch.ones_like(x), torch.randn_like(x)):
        skew_attention(q, k, v, 1.05, 3.0, norm="projected", x=data, attend=attend)
    assert seen == seen[:3] * 4  # the values and 64 patterns: once 128 wide, twice 64 wide


# --- the projection


@pytest.mark.parametrize(("length", "channels"), [(12, 40), (40, 12), (20, 20), (1, 7), (7, 1), (64, 200), (300, 64)])
@pytest.mark.parametrize(("gamma", "beta"), [(1.05, 3.0), (-0.5, 5.0)])
def test_projected_is_exact_once_the_rank_reaches_the_shape(length, channels, gamma, beta):
    call = tokens(length=length, channels=channels)
    exact, near = (
        skew_attention(call.q, call.k, call.v, gamma, beta, norm=norm, x=call.x) for norm in ("input", "projected")
    )
    torch.testing.assert_close(near, exact, rtol=1e-10, atol=1e-10)


@settings(max_examples=30)
@given(length=st.integers(1, 30), channels=st.integers(1, 30), rank=st.integers(1, 30), seed=st.integers(0, 2**16))
def test_a_projected_retrieval_is_never_longer_and_at_full_rank_as_long(length, channels, rank, seed):
    rank = min(rank, length, channels)
    x = tokens(length=length, channels=channels, seed=seed).x
    projected = project_input(x, rank)
    assert projected.shape == (2, length, rank)
    retrieval = torch.softmax(torch.randn(2, 5, length, dtype=torch.float64), dim=-1)
    lengths, full = (retrieval @ projected).norm(dim=-1), (retrieval @ x).norm(dim=-1)
    assert (lengths <= full + 1e-9).all()
    if rank == min(length, channels):
        torch.testing.assert_close(lengths, full, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("rank", [16, 32, 64])
def test_the_directions_hold_nearly_all_that_so_many_can(rank):
    x = layer(noise=1.0, dtype=torch.float64)[3]
    best = torch.linalg.svdvals(x)[:, :rank].square().sum(-1)
    held = project_input(x, rank).square().sum((-2, -1))
    assert (held <= best * (1 + 1e-9)).all()
    assert (held > 0.9 * best).all()


def test_directions_that_no_starting_cosine_sees_are_found():
    """The iteration starts from slow cosines over the channels; x made only of fast ones is their worst case."""
    position = torch.arange(128, dtype=torch.float64) + 0.5
    fast = torch.cos(position * torch.arange(100, 108, dtype=torch.float64)[:, None] * math.pi / 128)
    x = torch.randn(2, 60, 8, dtype=torch.float64) @ fast
    for dtype in (torch.float64, torch.float32):
        got = project_input(x.to(dtype), 16).double()
        torch.testing.assert_close(got.norm(dim=-1), x.norm(dim=-1), rtol=1e-4, atol=0)


@pytest.mark.parametrize("same", ["zeros", "one direction", "equal tokens"])
def test_an_x_of_few_directions_is_still_exact(same):
    x = {
        "zeros": torch.zeros(2, 100, 90),
        "one direction": torch.randn(2, 100, 1) * torch.randn(90),
        "equal tokens": torch.randn(2, 1, 90).expand(-1, 100, -1),
    }[same]
    got = project_input(x, 20)
    torch.testing.assert_close(got @ got.mT, x @ x.mT, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_inputs_are_projected_in_single_precision(dtype):
    x = (100 * layer()[3]).to(dtype)
    got = project_input(x, 64)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, project_input(x.float(), 64))


def test_the_projection_draws_no_random_numbers():
    x = layer()[3]
    before = torch.get_rng_state()
    first = project_input(x, 32)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert torch.equal(project_input(x, 32), first)


@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"noise": 1.0},
        {"noise": 3.0},
        {"directions": 120},
        {"seed": 1},
        {"length": 128, "channels": 640, "heads": 10},
    ],
)
def test_the_default_tolerance_keeps_the_output_within_a_hundredth(shape):
    """Measured at γ = 1.05, β = 3: up to 7e-4 with 24 strong directions in x, 3e-3 with 120, 4e-3 with as much noise as
    signal, 6e-3 with three times as much. Norms of values: 7e-3 to 8e-3; no norm guard: 5e-2 to 8e-2.
    """
    assert error_of_projection(1.05, 3.0, 0.01, **shape) < 1e-2


def test_the_error_falls_with_the_tolerance():
    errors = [error_of_projection(1.05, 3.0, tolerance, noise=1.0) for tolerance in (0.16, 0.04, 0.01, 0.0025)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 0.02 > 0.01 > errors[2]
    assert errors[-1] < 1e-5  # 256 directions, all that 256 tokens have
