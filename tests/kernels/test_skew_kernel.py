"""The fused kernel, run by Triton's interpreter, against the slow float64 statement."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lab.testing import definition
from lab.testing.strategies import MASKS, SPREAD, make_mask, tokens
from sad_core import modal_skew_attention, skew_attention
from sad_core.kernels import operation
from sad_core.kernels.call import FusedCall
from sad_core.kernels.choice import Blocks
from sad_core.kernels.launch import launch
from sad_core.kernels.operation import fused_retrieve, skew_attention_operation, variant_of
from sad_core.kernels.unfused import retrieve_unfused

pytest.importorskip("triton", reason="Triton is not installed, so there is no interpreter to run the kernel")

GAMMA = 0.6
LENGTH = 37  # of no block a multiple; two blocks of rows and three of columns
TOLERANCE = {torch.float32: 1e-5, torch.float16: 3e-3, torch.bfloat16: 2e-2}  # those of the unfused way


def draw(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


def qkv(head_dim: int, length: int = LENGTH, batch: int = 1, heads: int = 1) -> list[Tensor]:
    q, k, v = (draw(batch, heads, length, head_dim, seed=seed) for seed in range(3))
    return [SPREAD * q, SPREAD * k, v]


def stated(call: FusedCall, **changes) -> Tensor:
    """The float64 statement of a call. Where queries are fewer than keys, the keys before them have γ 1."""
    call = call._replace(**changes)
    batch, heads, queries, dim = call.q.shape
    keys, prefix = call.k.shape[2], call.prefix

    def everywhere(value) -> Tensor:
        """γ or β for the rows of all keys."""
        filled = torch.ones(batch, heads, keys, 1, dtype=torch.float64)
        filled[:, :, prefix:] = torch.as_tensor(value, dtype=torch.float64).expand(batch, heads, queries, 1)
        return filled

    image, text, cross = map(everywhere, (call.gamma, call.gamma_text, call.gamma_cross))
    gammas = definition.gamma_matrix(image, slice(call.start, call.stop), keys, text, cross)
    gammas = torch.where(torch.arange(keys) < prefix, 1.0, gammas)
    q = torch.cat([torch.zeros(batch, heads, prefix, dim, dtype=call.q.dtype), call.q], dim=2)
    mask = call.mask
    if mask is not None and mask.dim() > 1 and mask.shape[-2] == queries:
        mask = F.pad(mask, (0, 0, prefix, 0))
        mask[..., :prefix, 0] = mask.dtype == torch.bool
    beta = everywhere(call.beta)
    scale: dict[str, Any] = {"scale": call.scale, "norm": call.norm, "mask": mask}
    return definition.skew_attention(q, call.k, call.v, gammas, beta, **scale)[:, :, prefix:]


def assert_right(call: FusedCall, out: Tensor | None = None) -> None:
    out = launch(call) if out is None else out
    assert out.dtype == call.q.dtype
    assert out.shape == call.q.shape
    assert definition.relative_error(out, stated(call)) < TOLERANCE[out.dtype]


@pytest.mark.parametrize("head_dim", [40, 64, 80, 96, 128, 160, 256])
@pytest.mark.parametrize("beta", [1.0, 3.0])
def test_every_head_dim_is_the_plain_statement_and_no_other_gamma(beta, head_dim):
    call = FusedCall.of(*qkv(head_dim), GAMMA, beta)
    out = launch(call)
    assert_right(call, out)
    for other in (1.0, 0.9 * GAMMA, -GAMMA):
        assert definition.relative_error(out, stated(call, gamma=other)) > 100 * TOLERANCE[torch.float32]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("beta", [1.0, 3.0])
def test_half_precision_is_near_the_plain_statement(beta, dtype):
    call = FusedCall.of(*(x.to(dtype) for x in qkv(40)), GAMMA, beta)
    out = launch(call)
    assert_right(call, out)
    for other in (1.0, -GAMMA):
        assert definition.relative_error(out, stated(call, gamma=other)) > 2 * TOLERANCE[dtype]


@pytest.mark.parametrize("length", [1, 16, 17, 64])
def test_any_number_of_tokens(length):
    for beta in (1.0, 3.0):
        assert_right(FusedCall.of(*qkv(16, length), GAMMA, beta))


@pytest.mark.parametrize("kind", [*MASKS, "(B, 1, L, L) bool", "(1, 1, 1, L) bool"])
def test_masks_broadcast(kind):
    mask = make_mask(kind, 2, 2, 21, torch.Generator().manual_seed(7))
    mask = mask if mask.dtype == torch.bool else mask.float()
    for beta in (1.0, 3.0):
        assert_right(FusedCall.of(*qkv(16, 21, 2, 2), GAMMA, beta, mask=mask))


def test_a_mask_of_a_transposed_matrix_is_read_by_its_strides():
    mask = draw(21, 21, seed=5).mT
    assert_right(FusedCall.of(*qkv(16, 21), GAMMA, 3.0, mask=mask))


@pytest.mark.parametrize("beta", [1.0, 3.0])
def test_a_row_may_first_meet_masked_tokens_or_none_at_all(beta):
    mask = torch.ones(LENGTH, LENGTH, dtype=torch.bool)
    mask[3, :30] = False  # the first block of columns
    mask[5] = False
    call = FusedCall.of(*qkv(16), GAMMA, beta, mask=mask)
    out, want = launch(call), stated(call)
    rows = torch.arange(LENGTH) != 5
    assert definition.relative_error(out[:, :, rows], want[:, :, rows]) < 1e-5
    assert bool((out[:, :, 5] == 0).all())


def test_every_tensor_has_strides_of_its_own():
    batch, heads, length, dim = 2, 2, 21, 16
    fused = draw(batch, length, 3 * heads * dim)
    q, k, v = (x.unflatten(-1, (heads, dim)).transpose(1, 2) for x in fused.chunk(3, dim=-1))
    q = q.contiguous()
    v = draw(batch, heads, length, 2 * dim, seed=4)[..., :dim]
    assert len({x.stride() for x in (q, k, v)}) == 3
    for beta in (1.0, 3.0):
        call = FusedCall.of(q, k, v, GAMMA, beta)
        assert_right(call)
    shared = FusedCall.of(q, k[:1].expand(2, -1, -1, -1), v[:, :1].expand(-1, 2, -1, -1), GAMMA)
    assert_right(shared)
    assert fused_retrieve(shared) is not None


NUMBERS = {
    "0-d": torch.tensor(0.4),
    "(B,)": torch.tensor([0.4, -0.7]),
    "(B, H)": torch.tensor([[0.4, 1.3], [-0.7, 2.0]]),
    "(B, H, 1, 1)": torch.tensor([[0.4, 1.3], [-0.7, 2.0]])[..., None, None],
    "(B, H, M)": 1 + draw(2, 2, 21, seed=8),
}


@pytest.mark.parametrize("form", NUMBERS)
def test_gamma_and_beta_in_every_form(form):
    inputs = qkv(16, 21, 2, 2)
    assert_right(FusedCall.of(*inputs, NUMBERS[form]))
    assert_right(FusedCall.of(*inputs, GAMMA, NUMBERS[form] + 2.0))
    assert_right(FusedCall.of(*inputs, NUMBERS[form].double(), NUMBERS[form] + 2.0, norm="none"))


@pytest.mark.parametrize(("text", "cross"), [(1.0, 1.0), (1.3, -0.4), (1.3, 1.0), (torch.tensor([0.2]), 0.5)])
@pytest.mark.parametrize("beta", [1.0, 3.0])
def test_a_gamma_for_each_pair_of_groups(beta, text, cross):
    options = {"gamma_text": text, "gamma_cross": cross}
    for part in (slice(5, 30), slice(0, 20), slice(18, LENGTH)):
        call = FusedCall.of(*qkv(16), GAMMA, beta, image_tokens=part, **options)
        out = launch(call)
        assert_right(call, out)
    for name in ("gamma", "gamma_text", "gamma_cross"):
        assert definition.relative_error(out, stated(call, **{name: 0.9})) > 1e-3


@pytest.mark.parametrize("beta", [1.0, 3.0])
def test_rows_beside_the_image_are_plain_attention(beta):
    q, k, v = qkv(16)
    out = launch(FusedCall.of(q, k, v, GAMMA, beta, image_tokens=slice(5, 30)))
    plain = F.scaled_dot_product_attention(q, k, v)
    for rows in (slice(0, 5), slice(30, LENGTH)):
        torch.testing.assert_close(out[:, :, rows], plain[:, :, rows], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("part", [None, slice(5, 30), slice(22, 30)])
@pytest.mark.parametrize("beta", [1.0, 3.0])
def test_fewer_queries_are_the_last_tokens(beta, part):
    q, k, v = qkv(16)
    mask = draw(19, LENGTH, seed=6)
    options = {} if part is None else {"image_tokens": part, "gamma_text": 1.3, "gamma_cross": -0.4}
    call = FusedCall.of(q[:, :, -19:], k, v, 1 + draw(1, 1, 19, seed=8), beta, mask=mask, **options)
    out = launch(call)
    assert_right(call, out)
    torch.testing.assert_close(retrieve_unfused(call).double(), stated(call), rtol=1e-5, atol=1e-5)


def test_neutral_numbers_of_a_tensor_give_plain_attention():
    q, k, v = qkv(16, 21, 4, 1)
    plain = F.scaled_dot_product_attention(q, k, v)
    gamma, beta = torch.tensor([1.0, 0.5, 0.5, 1.0]), torch.tensor([3.0, 0.0, 3.0, 0.0])
    out = launch(FusedCall.of(q, k, v, gamma, beta))
    torch.testing.assert_close(out[[0, 1, 3]], plain[[0, 1, 3]], rtol=1e-5, atol=1e-5)
    assert definition.relative_error(out[2], plain[2]) > 0.1


def test_logits_that_exp_cannot_hold():
    q, k, v = qkv(16)
    for beta in (1.0, 2.0):
        call = FusedCall.of(100 * q, k, v, -0.5, beta)
        assert definition.relative_error(launch(call), stated(call)) < 1e-3


def test_batch_mates_and_heads_change_no_bit():
    q, k, v = qkv(16, 21, 2, 2)
    gamma = torch.tensor([0.4, -0.7])
    together = launch(FusedCall.of(q, k, v, gamma, 3.0))
    alone = launch(FusedCall.of(q[1:, 1:], k[1:, 1:], v[1:, 1:], gamma[1:], 3.0))
    assert torch.equal(together[1:, 1:], alone)


@pytest.mark.parametrize("blocks", [Blocks(16, 32, 4, 1), Blocks(64, 64, 4, 2)])
def test_the_size_of_the_blocks_changes_only_rounding(blocks):
    call = FusedCall.of(*qkv(16), GAMMA, 3.0, image_tokens=slice(5, 30))
    assert_right(call, launch(call, blocks))


@settings(max_examples=12)
@given(data=st.data())
def test_every_call_is_the_plain_statement(data):
    batch, heads, keys = (data.draw(st.integers(1, most)) for most in (2, 2, 24))
    queries = data.draw(st.sampled_from([keys, data.draw(st.integers(1, keys))]))
    dim = data.draw(st.integers(1, 24))
    drawn = tokens(batch, heads, keys, dim, seed=data.draw(st.integers(0, 99))).to(torch.float32)
    number = st.one_of(st.just(1.0), st.floats(-1.5, 2.5))
    row_numbers = 1 + draw(batch, heads, queries, seed=9)
    gamma, text, cross = (data.draw(st.one_of(number, st.just(row_numbers))) for _ in range(3))
    beta = data.draw(st.one_of(st.floats(0.5, 4), st.just(1.0), st.just(row_numbers)))
    start = data.draw(st.integers(0, keys - 1))
    part = data.draw(st.sampled_from([None, slice(start, data.draw(st.integers(start + 1, keys)))]))
    kind = data.draw(st.sampled_from([None, *MASKS, "(B, H, L, L) bool"]))
    mask = None if kind is None else make_mask(kind, batch, heads, keys, torch.Generator().manual_seed(3))
    if mask is not None and mask.shape[-2] == keys:
        mask = mask[..., keys - queries :, :]
    mask = mask if mask is None or mask.dtype == torch.bool else mask.float()
    norm = data.draw(st.sampled_from(["value", "none"]))
    groups = {} if part is None else {"image_tokens": part, "gamma_text": text, "gamma_cross": cross}
    call = FusedCall.of(drawn.q[:, :, keys - queries :], drawn.k, drawn.v, gamma, beta, norm=norm, mask=mask, **groups)
    torch.testing.assert_close(launch(call).double(), stated(call), rtol=1e-4, atol=1e-4)


# --- through the door


def test_skew_attention_is_computed_by_the_kernel_and_checked_first(monkeypatch):
    monkeypatch.setattr(operation, "_works", {})
    drawn = tokens(length=21, head_dim=16, mask="(B, 1, L, L) bool").to(torch.float32)
    told = []
    options = {"mask": drawn.mask, "on_kernel": lambda: told.append("kernel")}
    for part in (None, slice(2, 20)):
        if part is None:
            out = skew_attention(drawn.q, drawn.k, drawn.v, GAMMA, 3.0, **options)
        else:
            out = modal_skew_attention(drawn.q, drawn.k, drawn.v, GAMMA, 3.0, inner=part, gamma_text=1.3, **options)
        text = {"gamma_text": 1.3, "image_tokens": part} if part else {}
        want = stated(FusedCall.of(drawn.q, drawn.k, drawn.v, GAMMA, 3.0, mask=drawn.mask, **text))
        assert definition.relative_error(out, want) < 1e-5
    assert told == ["kernel"] * 2
    assert list(operation._works.values()) == [True, True]


FORMS = {
    "plain": {},
    "row": {"gamma": 1 + draw(1, 2, 20, seed=8), "beta": 3.0},
    "groups": {"beta": torch.tensor([3.0]), "image_tokens": slice(4, 15), "gamma_text": 1.3},
    "mask": {"mask": torch.ones(20, dtype=torch.bool)},
}


@pytest.mark.parametrize("form", FORMS)
def test_the_operation_keeps_its_promises_to_pytorch(form):
    q, k, v = qkv(16, 20, 1, 2)
    call = FusedCall.of(q, k, v, **{"gamma": GAMMA, **FORMS[form]})
    seen = []
    graph_call = operation.skew_attention_operation
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(operation, "skew_attention_operation", lambda *given: seen.append(given) or graph_call(*given))
        out = operation._in_a_graph(call)
    assert_right(call, out)
    torch.library.opcheck(skew_attention_operation, seen[0])


def test_the_shape_and_the_strides_are_known_without_computing():
    from torch._subclasses.fake_tensor import FakeTensorMode

    call = FusedCall.of(*qkv(16, 20, 2, 2), GAMMA, 3.0)
    out = launch(call)
    with FakeTensorMode() as mode:
        faked = call._replace(**{name: mode.from_tensor(getattr(call, name)) for name in "qkv"})
        fake = fused_retrieve(faked)
    assert (fake.shape, fake.stride(), fake.dtype) == (out.shape, out.stride(), out.dtype)
    assert out.transpose(1, 2).flatten(2).data_ptr() == out.data_ptr()  # ComfyUI's layout without a copy


@pytest.mark.filterwarnings("error:Dynamo detected")  # that it looks for a card and Triton by itself
def test_a_compiled_graph_holds_it_whole_with_gamma_as_a_tensor():
    q, k, v = qkv(16, 20, 1, 2)

    def attend(q, k, v, gamma):
        return 2 * skew_attention(q, k, v, gamma, 3.0, neutral_bits=False)

    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = torch.compile(attend, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        for gamma in (0.4, 1.7):
            out = compiled(q, k, v, torch.tensor(gamma))
            assert_right(FusedCall.of(q, k, v, gamma, 3.0), out / 2)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


def test_a_graph_whose_kernel_breaks_still_gives_the_right_numbers(monkeypatch, caplog):
    monkeypatch.setattr(operation, "_works", {})

    def broken(call):
        raise RuntimeError("no such kernel image")

    call = FusedCall.of(*qkv(16, 20, 1, 2), GAMMA, 3.0)
    monkeypatch.setattr(operation, "launch", broken)
    assert_right(call, operation._in_a_graph(call))
    assert "no such kernel image" in caplog.text
    assert operation._works == {variant_of(call): False}


def test_masks_groups_and_numbers_are_variants_of_their_own():
    inputs = qkv(16, 20, 1, 2)
    choices = product((1.0, 3.0), (None, torch.zeros(20), torch.ones(20, dtype=torch.bool)), (None, slice(4, 15)))
    variants = {
        variant_of(FusedCall.of(*inputs, gamma, beta, mask=mask, image_tokens=part))
        for beta, mask, part in choices
        for gamma in (0.5, torch.tensor(0.5))
    }
    assert len(variants) == 24
