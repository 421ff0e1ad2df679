"""The core inside a compiled model and under autocast."""

from __future__ import annotations

import pytest
import torch

from lab.testing import definition
from lab.testing.strategies import SPREAD, tokens
from sad_core import adapt, joint_skew_attention, modal_skew_attention, skew_attention, symmetricity


@pytest.fixture
def _fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


CALL = tokens(length=30, channels=80).to(torch.float32)


def whole(gamma):
    return skew_attention(CALL.q, CALL.k, CALL.v, gamma, 3.0, norm="projected", x=CALL.x, tolerance=0.05)


def joint(gamma):
    return joint_skew_attention(CALL.q, CALL.k, CALL.v, gamma, 3.0, inner=slice(5, 30))


def adaptive(gamma):
    return skew_attention(CALL.q, CALL.k, CALL.v, *adapt(gamma, 3.0, symmetricity(CALL.q, CALL.k).mean(dim=1)))


@pytest.mark.usefixtures("_fresh_compiler")
@pytest.mark.parametrize("attention", [whole, joint, adaptive])
def test_a_changing_gamma_never_breaks_a_compiled_graph(attention):
    compiled = torch.compile(attention, backend="eager", fullgraph=True)
    for gamma in (1.05, 0.7, 1.0, torch.tensor([1.05, 1.0])):
        torch.testing.assert_close(compiled(gamma), attention(gamma))


@pytest.mark.parametrize("norm", ["value", "projected"])
def test_autocast_changes_the_precision_and_not_the_meaning(norm):
    call = tokens(length=40, channels=48).to(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = skew_attention(call.q, call.k, call.v, 1.3, 3.0, norm=norm, x=call.x)
    norm = "input" if norm == "projected" else norm
    right, near = (definition.skew_attention(call.q, call.k, call.v, g, 3.0, norm=norm, x=call.x) for g in (1.3, 1.17))
    assert definition.relative_error(out, right) < 3e-2
    assert definition.relative_error(near, right) > 6e-2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_does_not_touch_the_symmetricity(dtype):
    q, k = 30 * SPREAD * torch.randn(2, 2, 3, 200, 16)
    with torch.autocast("cpu", dtype=dtype):
        eta = symmetricity(q, k)
    assert eta.dtype == torch.float32
    torch.testing.assert_close(eta, definition.symmetricity(q, k).float(), rtol=0, atol=1e-5)


def plainly(q, k, v, mask, scale):
    return torch.softmax(q @ k.mT * scale, dim=-1) @ v


def of_every_token(q, k, v, gamma, beta, norm):
    return skew_attention(q, k, v, gamma, beta, norm=norm, attend=plainly)


def of_image_tokens(q, k, v, gamma, beta, norm):
    return joint_skew_attention(q, k, v, gamma, beta, norm=norm, inner=slice(3, 25), attend=plainly)


def of_each_group(q, k, v, gamma, beta, norm):
    gammas = {"gamma_text": 0.7, "gamma_cross": gamma}
    return modal_skew_attention(q, k, v, gamma, beta, norm=norm, inner=slice(3, 25), attend=plainly, **gammas)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("norm", ["value", "none"])
@pytest.mark.parametrize("beta", [1.0, 3.0, torch.tensor([3.0, 0.4])])
@pytest.mark.parametrize("gamma", [1.3, torch.tensor([1.05, -0.4])])
@pytest.mark.parametrize("attention", [of_every_token, of_image_tokens, of_each_group])
def test_wanting_a_gradient_changes_no_bit(attention, gamma, beta, norm, dtype):
    call = tokens(length=30, head_dim=16).to(dtype)
    out = attention(call.q, call.k, call.v, gamma, beta, norm)
    q, k, v = (x.clone().requires_grad_() for x in (call.q, call.k, call.v))
    with_gradient = attention(q, k, v, gamma, beta, norm)
    assert torch.equal(with_gradient, out)
    with_gradient.float().square().sum().backward()
    assert all(torch.isfinite(x.grad).all() and x.grad.abs().max() > 0 for x in (q, k, v))


@pytest.mark.parametrize("attention", [of_every_token, of_image_tokens, of_each_group])
def test_gradients_are_those_of_small_steps(attention):
    call = tokens(length=28, head_dim=4)
    wanted = [call.q, call.k, call.v, torch.tensor([1.3, -0.4]), torch.tensor([3.0, 0.4])]
    wanted = [x.double().requires_grad_() for x in wanted]
    assert torch.autograd.gradcheck(
        lambda *x: attention(*x, "value"), wanted, fast_mode=True, check_forward_ad=True, atol=1e-4
    )


def of_each_row(q, k, v, gamma, beta, norm):
    by_row = gamma[:, None, None].expand(*q.shape[:3])
    return skew_attention(q, k, v, by_row, beta, norm=norm, attend=plainly)


@pytest.mark.parametrize("beta", [1.0, 3.0, torch.tensor([3.0, 0.4]).double()], ids=str)
@pytest.mark.parametrize("gamma", [[1.0, 1.3], [1.0, 1.0]], ids=str)
@pytest.mark.parametrize("attention", [of_every_token, of_image_tokens, of_each_group, of_each_row])
def test_a_gamma_of_exactly_one_has_the_gradient_of_small_steps(attention, gamma, beta):
    call = tokens(length=28, head_dim=4)
    wanted = [x.double().requires_grad_() for x in (call.q, call.k, call.v, torch.tensor(gamma))]
    assert torch.autograd.gradcheck(
        lambda *x: attention(*x, beta, "value"), wanted, fast_mode=True, check_forward_ad=True, atol=1e-4
    )
    out = attention(*wanted, beta, "value")
    with torch.no_grad():
        assert torch.equal(out, attention(*wanted, beta, "value"))
    (slope,) = torch.autograd.grad(out.square().sum(), wanted[-1])
    assert (slope != 0).all()


@pytest.mark.parametrize("attention", [of_every_token, of_image_tokens, of_each_group, of_each_row])
def test_a_beta_of_exactly_zero_has_the_gradient_of_plain_attention(attention):
    call = tokens(length=28, head_dim=4)
    wanted = [x.double().requires_grad_() for x in (call.q, call.k, call.v, torch.tensor([1.0, 1.4]))]
    beta = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    found = torch.autograd.grad(attention(*wanted, beta, "value").square().sum(), [*wanted, beta])
    plain = torch.nn.functional.scaled_dot_product_attention(*wanted[:3]).square().sum()
    for one, other in zip(
        found, [*torch.autograd.grad(plain, wanted[:3]), torch.zeros(2), torch.zeros(2)], strict=True
    ):
        torch.testing.assert_close(one, other.double(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("where", ["mask", "inner attention"])
@pytest.mark.parametrize("image_tokens", [slice(0, 6), slice(2, 5)])
def test_what_the_retrieval_depends_on_beside_q_k_and_v_is_trained(where, image_tokens):
    call = tokens(length=6)
    weight = torch.full((6, 6) if where == "mask" else (), 0.5, dtype=call.q.dtype, requires_grad=True)

    def attend(q, k, v, mask, scale):
        return torch.nn.functional.scaled_dot_product_attention(q * weight, k, v, scale=scale)

    options = {"mask": weight} if where == "mask" else {"attend": attend}
    out = modal_skew_attention(call.q, call.k, call.v, 0.6, 3.0, inner=image_tokens, **options)
    if image_tokens.stop == 6:
        out = out + skew_attention(call.q, call.k, call.v, 0.6, 3.0, **options)
    out.square().sum().backward()
    assert float(weight.grad.norm()) > 0
