"""Tiles of rows against softmax written out in float64, whatever the tiles are."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sad_core import skew_attention, tiled_attention
from sad_core.inner_attention import pytorch_attend
from sad_core.tiled_attention import runs_in_tiles, tile_shape, tiled_skew_attention


def draw(seed: int, *size: int) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


def tiled(q, k, v, gamma, beta, scale) -> torch.Tensor:
    return tiled_skew_attention(q, k, v, gamma, beta, scale, v.shape[-1], "none")


def stated(q, k, v, gamma, scale) -> torch.Tensor:
    """softmax(c₊·A + c₋·Aᵀ)·v in float64."""
    logits = scale * q.double() @ k.double().mT
    skewed = (1 + gamma) / 2 * logits + (1 - gamma) / 2 * logits.mT
    return skewed.softmax(dim=-1) @ v.double()


@given(
    batch=st.integers(1, 3),
    heads=st.integers(1, 4),
    tokens=st.integers(1, 40),
    head_dim=st.integers(1, 9),
    value_dim=st.integers(1, 12),
    gamma=st.floats(-2, 3),
    size=st.sampled_from([0.3, 3.0, 30.0]),
    numbers=st.sampled_from([64, 400, 2**20]),
    seed=st.integers(0, 1000),
)
def test_both_retrievals_and_their_blend_are_the_plain_statement(
    batch, heads, tokens, head_dim, value_dim, gamma, size, numbers, seed
):
    q, k = draw(seed, batch, heads, tokens, head_dim) * size, draw(seed + 1, batch, heads, tokens, head_dim)
    v = draw(seed + 2, batch, heads, tokens, value_dim)
    scale = head_dim**-0.5
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiled_attention, "TILE_NUMBERS", numbers)
        patch.setattr(tiled_attention, "MOST_ROWS", 16)
        patch.setattr(tiled_attention, "FEWEST_ROWS", 3)
        plain, skewed, further = (tiled(q, k, v, gamma, beta, scale) for beta in (0.0, 1.0, 2.5))
    allowed = 1e-5 * max(1.0, size)  # a logit of 100 is rounded by 1e-5
    want = stated(q, k, v, 1.0, scale), stated(q, k, v, gamma, scale)
    torch.testing.assert_close(plain.double(), want[0], rtol=allowed, atol=allowed)
    torch.testing.assert_close(skewed.double(), want[1], rtol=allowed, atol=allowed)
    torch.testing.assert_close(further.double(), want[0] + 2.5 * (want[1] - want[0]), rtol=allowed, atol=4 * allowed)


def test_logits_that_exp_cannot_hold():
    q, k, v = (draw(seed, 1, 2, 20, 4) for seed in range(3))
    q = q * torch.tensor([1.0, 1e4])[:, None, None]
    plain, skewed = (tiled(q, k, v, -1.0, beta, 1.0) for beta in (0.0, 1.0))
    torch.testing.assert_close(plain.double(), stated(q, k, v, 1.0, 1.0), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(skewed.double(), stated(q, k, v, -1.0, 1.0), rtol=1e-3, atol=1e-3)


def test_a_head_with_large_logits_changes_no_bit_of_another():
    q, k, v = (draw(seed, 2, 2, 30, 4) for seed in range(3))
    large = q * torch.tensor([1.0, 1e3])[:, None, None, None]
    for beta in (1.0, 3.0):
        calm, beside = (tiled(each, k, v, 1.7, beta, 0.5) for each in (q, large))
        assert torch.equal(calm[0], beside[0])
        assert not torch.equal(calm[1], beside[1])


def test_gamma_may_differ_from_head_to_head():
    q, k, v = (draw(seed, 2, 3, 24, 4) for seed in range(3))
    gamma = draw(9, 2, 3, 1, 1)
    skewed = tiled(q, k, v, gamma, 1.0, 0.5)
    torch.testing.assert_close(skewed.double(), stated(q, k, v, gamma.double(), 0.5), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("beta", [1.0, 3.0])
def test_samples_at_gamma_1_have_the_bits_of_the_inner_attention(beta):
    q, k, v = (draw(seed, 3, 2, 130, 8) for seed in range(3))
    out = skew_attention(q, k, v, torch.tensor([1.0, 1.5, 1.0]), beta)
    plain = pytorch_attend(q, k, v, None, 8**-0.5)
    assert torch.equal(out[::2], plain[::2])
    assert not torch.allclose(out[1], plain[1], rtol=1e-3)


@pytest.mark.parametrize("norm", ["value", "projected", "input", "none"])
@pytest.mark.parametrize("beta", [1.0, 3.0])
def test_tiles_and_the_fused_kernel_agree(norm, beta):
    q, k, v = (draw(seed, 2, 3, 130, 8) for seed in range(3))
    x = draw(5, 2, 130, 24)
    calls, told = [], []

    def attend(*arguments):
        calls.append(arguments)
        return pytorch_attend(*arguments)

    options = {"norm": norm, "x": x, "on_tiles": lambda: told.append("tiles")}
    fused = skew_attention(q, k, v, 1.4, beta, attend=attend, **options)
    assert calls
    assert not told
    calls.clear()
    tiled = skew_attention(q, k, v, 1.4, beta, attend=attend, tiles=True, **options)
    assert not calls
    assert told == ["tiles"]
    torch.testing.assert_close(tiled, fused, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ["tiles"]),
        ({"gamma": torch.tensor(1.5), "beta": torch.tensor(2.0)}, ["tiles"]),
        ({"gamma": 1.0}, []),
        ({"beta": 0.0}, []),
        ({"mask": torch.zeros(130, 130)}, []),
        ({"k": torch.ones(1, 2, 130, 8, requires_grad=True)}, []),
        ({"gamma": torch.tensor(1.5, requires_grad=True)}, []),
        ({"beta": torch.tensor(2.0, requires_grad=True)}, []),
        ({"norm": "input", "beta": 2.0, "x": torch.ones(1, 130, 4, requires_grad=True)}, []),
    ],
)
def test_tiles_are_reported_to_the_caller_only_where_they_run(changes, expected):
    q, k, v = (draw(seed, 1, 2, 130, 8) for seed in range(3))
    told = []
    skew_attention(**{"q": q, "k": k, "v": v, "gamma": 1.4, **changes}, on_tiles=lambda: told.append("tiles"))
    assert told == expected


def test_where_tiles_are_not_used():
    q = draw(0, 1, 1, 128, 4)
    assert runs_in_tiles(q, q, q, None)
    assert runs_in_tiles(q.double(), q.double(), q.double(), None)
    assert not runs_in_tiles(q[:, :, 1:], q[:, :, 1:], q[:, :, 1:], None)
    assert not runs_in_tiles(q.half(), q.half(), q.half(), None)
    assert not runs_in_tiles(q, q, q, torch.zeros(4, 4))
    assert not runs_in_tiles(*(q.to("meta"),) * 3, None)
    with torch.autocast("cpu"):
        assert not runs_in_tiles(q, q, q, None)


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # of vmap, which PyTorch tells of
@pytest.mark.parametrize(("beta", "norm"), [(1.0, "value"), (3.0, "value"), (3.0, "input")])
def test_under_vmap_every_call_gives_what_it_gives_by_itself(beta, norm):
    q, k, v = (draw(seed, 3, 1, 2, 130, 4) for seed in range(3))
    x, gamma = draw(3, 3, 1, 130, 8), torch.tensor([0.5, 1.0, 1.4])

    def attend(q, k, v, x, gamma):
        return skew_attention(q, k, v, gamma, beta, norm=norm, x=x)

    alone = torch.stack([attend(*one) for one in zip(q, k, v, x, gamma, strict=True)])
    torch.testing.assert_close(torch.vmap(attend)(q, k, v, x, gamma), alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("norm", ["value", "input"])
def test_gradients_still_flow(norm):
    q, k, v = (draw(seed, 1, 2, 130, 4) for seed in range(3))
    x, gamma, beta = draw(3, 1, 130, 8), torch.tensor(1.4), torch.tensor(3.0)
    for wanted in (q, k, v, gamma, beta, *([x] if norm == "input" else [])):
        wanted.requires_grad_()
        skew_attention(q, k, v, gamma, beta, norm=norm, x=x).square().sum().backward()
        assert bool(wanted.grad.abs().sum() > 0)
        wanted.requires_grad_(False)


@pytest.mark.parametrize("threads", [1, 8, 64])
def test_a_tile_has_a_bounded_number_of_logits(monkeypatch, threads):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    for heads in (1, 10, 40):
        for tokens in (128, 1024, 4096, 16384, 65536):
            at_once, rows = tile_shape(heads, tokens)
            assert 1 <= at_once <= heads
            assert 1 <= rows <= 256
            assert at_once * rows * tokens <= max(2**20, 64 * tokens)


@pytest.mark.parametrize(("heads", "tokens"), [(1, 1024), (12, 512), (3, 130)])
def test_batch_mates_change_no_bit_whatever_the_threads(monkeypatch, heads, tokens):
    q, k, v = (draw(seed, 3, heads, tokens, 16) for seed in range(3))
    for threads in (1, 4, 16):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        together = tiled(q, k, v, 1.5, 3.0, 0.25)
        for row in range(3):
            one = slice(row, row + 1)
            assert torch.equal(together[one], tiled(q[one], k[one], v[one], 1.5, 3.0, 0.25))


def test_an_empty_batch_and_no_tokens_come_back_empty():
    for size in ((0, 2, 130, 4), (2, 2, 0, 4)):
        q = torch.zeros(size)
        assert skew_attention(q, q, q, 1.5, 3.0).shape == size
