"""A circulation of its own for each pair of modalities, against the plain statement with a matrix Γ."""

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

INNER = slice(3, 9)
GAMMAS = (1.4, 0.7, -0.6)  # among the inner tokens, among the others, across


def run(call: Call, gamma, text, cross, beta=1.0, inner=INNER, **options) -> torch.Tensor:
    gammas = {"gamma_text": text, "gamma_cross": cross}
    common = {"inner": inner, "scale": call.scale, "mask": call.mask, **options}
    return modal_skew_attention(call.q, call.k, call.v, gamma, beta, **gammas, **common)


def stated(call: Call, gamma, text, cross, beta=1.0, inner=INNER, norm="value") -> torch.Tensor:
    batch, heads, length, _ = call.q.shape
    gamma, text, cross, beta = (definition.each_head(each, batch, heads) for each in (gamma, text, cross, beta))
    gammas = definition.gamma_matrix(gamma, inner, length, text, cross)
    assert torch.equal(gammas, gammas.mT)
    options = {"norm": norm, "scale": call.scale, "mask": call.mask}
    return definition.skew_attention(call.q, call.k, call.v, gammas, beta, **options)


@settings(max_examples=80)
@given(data=st.data(), call=calls(largest_head_dim=48), norm=st.sampled_from(JOINT_NORMS))
def test_every_call_is_the_plain_statement(data, call, norm):
    batch, heads, length, _ = call.q.shape
    start = data.draw(st.integers(0, length - 1))
    inner = slice(start, data.draw(st.integers(start + 1, length)))
    gamma, text, cross = (data.draw(gammas(batch, heads)) for _ in range(3))
    beta = data.draw(betas(batch, heads))
    out = run(call, gamma, text, cross, beta, inner, norm=norm)
    torch.testing.assert_close(out, stated(call, gamma, text, cross, beta, inner, norm), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", [None, *MASKS, "(B, 1, L, L) bool"])
@pytest.mark.parametrize("beta", [1.0, 3.0])
def test_no_other_gammas_pass_for_the_right_ones(beta, kind):
    call = tokens(mask=kind)
    out, want = run(call, *GAMMAS, beta), stated(call, *GAMMAS, beta)
    assert definition.relative_error(out, want) < 1e-12
    for place in range(3):
        for other in (1.0, 0.9 * GAMMAS[place], -GAMMAS[place]):
            changed = [*GAMMAS[:place], other, *GAMMAS[place + 1 :]]
            assert definition.relative_error(stated(call, *changed, beta), want) > 1e-3, changed
    assert definition.relative_error(stated(call, *GAMMAS, beta, slice(2, 9)), want) > 1e-3


@pytest.mark.parametrize("beta", [1.0, 3.0])
def test_gammas_of_one_leave_it_joint_attention_to_the_bit(beta):
    call = tokens(mask="(B, 1, L, L)").to(torch.float32)
    want = joint_skew_attention(call.q, call.k, call.v, 1.3, beta, inner=INNER, mask=call.mask)
    assert torch.equal(run(call, 1.3, 1.0, 1.0, beta), want)


@pytest.mark.parametrize("beta", [1.0, 3.0])
def test_one_gamma_everywhere_is_skew_attention(beta):
    call = tokens(mask="(B, H, L, L)")
    want = skew_attention(call.q, call.k, call.v, 1.3, beta, mask=call.mask)
    torch.testing.assert_close(run(call, 1.3, 1.3, 1.3, beta), want, rtol=0, atol=1e-12)
    torch.testing.assert_close(run(call, 1.3, 0.2, -0.4, beta, slice(0, 12)), want, rtol=0, atol=1e-12)


@pytest.mark.parametrize("beta", [1.0, 3.0])
def test_inner_and_text_change_places_with_their_gammas(beta):
    call = tokens(mask="(L, L)")
    one = run(call, 1.4, 0.7, -0.6, beta, slice(0, 5))
    other = run(call, 0.7, 1.4, -0.6, beta, slice(5, 12))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_rows_whose_gammas_are_one_are_plain_attention():
    call = tokens().to(torch.float32)
    want = F.scaled_dot_product_attention(call.q, call.k, call.v)
    out = run(call, 1.0, 0.3, 1.0, 3.0)
    assert torch.equal(out[:, :, INNER], want[:, :, INNER])
    assert not torch.isclose(out[:, :, :3], want[:, :, :3]).all()
    out = run(call, 1.0, 0.3, 1.0)
    torch.testing.assert_close(out[:, :, INNER], want[:, :, INNER], rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_neutral_samples_keep_their_bits_beside_others(dtype):
    call = tokens(batch=3).to(dtype)
    want = F.scaled_dot_product_attention(call.q, call.k, call.v)
    neutral_but = torch.tensor([1.0, 1.0, 0.4])
    out = run(call, torch.tensor([1.0, 1.4, 1.0]), 1.0, neutral_but, 2.0)
    assert (out == want).all(dim=(1, 2, 3)).tolist() == [True, False, False]
    assert run(call, *GAMMAS, 0.0).equal(want)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float16, 3e-3), (torch.bfloat16, 2e-2)])
def test_half_precision_is_near_the_plain_statement(dtype, tolerance):
    call = tokens(length=40, head_dim=32).to(dtype)
    out, want = run(call, 1.2, 0.9, 1.1, 3.0), stated(call, 1.2, 0.9, 1.1, 3.0)
    assert out.dtype == dtype
    assert definition.relative_error(out, want) < tolerance


@pytest.mark.parametrize("beta", [1.0, 3.0])
def test_every_group_of_rows_is_one_call(beta):
    call, seen = tokens(), []

    def attend(q, k, v, mask, scale):
        seen.append((q.shape[2], q.shape[3]))
        return pytorch_attend(q, k, v, mask, scale)

    run(call, *GAMMAS, beta, attend=attend)
    assert seen == [(12, 8)] * (beta != 1) + [(6, 16), (6, 16)]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"text": float("nan")}, "gamma_text is nan"),
        ({"cross": torch.ones(5)}, "gamma_cross has shape"),
        ({"inner": slice(9, 3)}, "inner is"),
        ({"norm": "input"}, 'norm is "input"'),
    ],
)
def test_wrong_gammas_are_refused_by_name(changes, words):
    with pytest.raises(ValueError, match="must be") as refusal:
        run(tokens(), **{"gamma": 1.05, "text": 1.1, "cross": 1.0, **changes})
    assert words in str(refusal.value)
