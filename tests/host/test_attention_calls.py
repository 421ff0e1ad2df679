"""Attention calls in every form ComfyUI's models use, also those the tiny models here do not."""

from __future__ import annotations

import itertools

import comfy.ldm.modules.attention
import pytest
import torch
import torch.nn.functional as F
from comfy.ldm.modules.attention import optimized_attention
from comfyui_version import __version__
from symmetric_attention.nodes.host.models.site_call import SiteCall
from symmetric_attention.nodes.host.models.sites import find_sites
from symmetric_attention.nodes.host.patches.attention_backend import (
    EXACT,
    AttentionCall,
    HostAttention,
    backends_using_scale,
    name_of,
)
from symmetric_attention.nodes.host.patches.override_context import OverrideContext
from symmetric_attention.nodes.host.patches.skew_override import SkewOverride
from symmetric_attention.nodes.host.patches.slots import OVERRIDE
from symmetric_attention.nodes.host.prompts import NEGATIVE, POSITIVE, Prompt
from symmetric_attention.nodes.host.settings import Gammas, SkewSettings
from symmetric_attention.sad_core import GammaSchedule

from lab.testing import definition
from lab.testing.families.family import draw
from lab.testing.hosts import MAIN, OLDEST

BATCH, HEADS, TOKENS, HEAD_DIM = 2, 3, 11, 8
PROMPTS = (Prompt(POSITIVE, (POSITIVE,)), Prompt(NEGATIVE, (NEGATIVE,)))
MASKS = {
    "none": None,
    "(L, L)": (TOKENS, TOKENS),
    "(B, L, L)": (BATCH, TOKENS, TOKENS),
    "(1, 1, L)": (1, 1, TOKENS),
    "(B, 1, 1, L)": (BATCH, 1, 1, TOKENS),
    "(B, H, L, L)": (BATCH, HEADS, TOKENS, TOKENS),
}


@pytest.fixture
def q():
    return 2 * draw("q", (BATCH, HEADS, TOKENS, HEAD_DIM))


@pytest.fixture
def k():
    return 2 * draw("k", (BATCH, HEADS, TOKENS, HEAD_DIM))


@pytest.fixture
def v():
    return draw("v", (BATCH, HEADS, TOKENS, HEAD_DIM))


@pytest.fixture
def skewed(sd15):
    """The host's attention as a site of ours calls it: γ 1.5, β 3, every token."""
    site = find_sites(sd15.model.model.diffusion_model)[0]
    settings = SkewSettings(GammaSchedule.from_preset("constant", 1.5), 3.0)
    context = OverrideContext(settings, HostAttention(pytest.fail), Gammas(1.5))

    def attention(*arguments, previous=None, **keyword):
        override = SkewOverride(context, site, SiteCall((), {}), previous)
        return optimized_attention(*arguments, transformer_options={OVERRIDE: override}, **keyword)

    return attention


def override_at(family, fell_back, prompts: tuple[Prompt, ...] = (), **widgets) -> SkewOverride:
    """The override of a node with γ 1.5 at a site of a family, in a batch of these prompts."""
    site = find_sites(family.model.model.diffusion_model)[0]
    settings = SkewSettings(GammaSchedule.from_preset("constant", 1.5), **widgets)
    context = OverrideContext(settings, HostAttention(fell_back), Gammas(1.5), prompts=prompts)
    return SkewOverride(context, site, SiteCall((), {}), None)


def pack(x: torch.Tensor) -> torch.Tensor:
    return x.transpose(1, 2).flatten(2)


def assert_close(got: torch.Tensor, want: torch.Tensor) -> None:
    assert got.shape == want.shape
    assert definition.relative_error(got, want) < 1e-5


@pytest.mark.parametrize(("is_split", "stays_split"), [*itertools.product([True, False], repeat=2)])
@pytest.mark.parametrize("mask", MASKS)
def test_every_layout_and_mask_gives_what_the_definition_says(skewed, q, k, v, is_split, stays_split, mask):
    added = None if MASKS[mask] is None else draw(mask, MASKS[mask])
    given = (q, k, v) if is_split else map(pack, (q, k, v))
    got = skewed(*given, HEADS, mask=added, skip_reshape=is_split, skip_output_reshape=stays_split)
    over_heads = added[:, None] if added is not None and added.dim() == 3 else added
    want = definition.skew_attention(q, k, v, 1.5, 3.0, mask=over_heads)
    assert_close(got, want if stays_split else pack(want))


def test_values_apart_beside_packed_queries_are_read_as_sd3_means_them(skewed, q, k, v):
    got = skewed(pack(q), pack(k), v.transpose(1, 2), heads=HEADS)
    assert_close(got, pack(definition.skew_attention(q, k, v, 1.5, 3.0)))


def test_a_mask_given_by_position_is_understood(skewed, q, k, v):
    mask = draw("mask", (BATCH, HEADS, TOKENS, TOKENS))
    got = skewed(pack(q), pack(k), pack(v), HEADS, mask, attn_precision=None)
    assert_close(got, pack(definition.skew_attention(q, k, v, 1.5, 3.0, mask=mask)))


def test_a_bool_mask_means_where_to_look(skewed, q, k, v):
    mask = (draw("mask", (BATCH, 1, TOKENS, TOKENS)) > 0) | torch.eye(TOKENS, dtype=torch.bool)
    got = skewed(q, k, v, HEADS, mask=mask, skip_reshape=True)
    assert_close(got, pack(definition.skew_attention(q, k, v, 1.5, 3.0, mask=mask)))


def test_a_scale_of_the_caller_is_kept(skewed, q, k, v):
    got = skewed(q, k, v, HEADS, skip_reshape=True, scale=0.2)
    assert_close(got, pack(definition.skew_attention(q, k, v, 1.5, 3.0, scale=0.2)))


def test_grouped_keys_and_values_serve_their_group_of_heads(skewed, q, k, v):
    q = torch.cat([q, 2 * draw("more q", q.shape)], dim=1)
    got = skewed(q, k, v, 2 * HEADS, skip_reshape=True, enable_gqa=True)
    each = (x.repeat_interleave(2, dim=1) for x in (k, v))
    assert_close(got, pack(definition.skew_attention(q, *each, 1.5, 3.0)))


def test_what_the_caller_gave_is_not_written_to(skewed, q, k, v):
    before = [x.clone() for x in (q, k, v)]
    skewed(q, k, v, HEADS, skip_reshape=True)
    assert all(map(torch.equal, (q, k, v), before))


@pytest.mark.parametrize("is_split", [True, False])
def test_a_call_that_is_not_square_goes_to_the_backend_as_it_came(skewed, q, k, v, is_split):
    given = (q[:, :, :5], k, v) if is_split else (pack(q[:, :, :5]), pack(k), pack(v))
    mask = draw("mask", (1, 1, 5, TOKENS))
    got = skewed(*given, HEADS, mask=mask, skip_reshape=is_split)
    assert got.equal(optimized_attention(*given, HEADS, mask=mask, skip_reshape=is_split))


def test_a_call_that_is_not_square_goes_to_another_packs_override(skewed, q, k, v):
    def theirs(function, *arguments, **keyword):
        return 2 * function(*arguments, **keyword)

    given = q[:, :, :5], k, v
    got = skewed(*given, HEADS, skip_reshape=True, previous=theirs)
    assert got.equal(2 * optimized_attention(*given, HEADS, skip_reshape=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_comes_back_as_it_came_and_near_the_definition(skewed, q, k, v, dtype):
    q, k, v = (x.to(dtype) for x in (q, k, v))
    got = skewed(q, k, v, HEADS, skip_reshape=True)
    assert got.dtype == dtype
    assert definition.relative_error(got, pack(definition.skew_attention(q, k, v, 1.5, 3.0))) < 0.05


@pytest.mark.parametrize("name", ["pytorch", "split", "sub_quad"])
def test_every_backend_of_the_host_gives_what_the_definition_says(skewed, q, k, v, name, monkeypatch):
    chosen = comfy.ldm.modules.attention.get_attention_function(name)
    monkeypatch.setitem(globals(), "optimized_attention", chosen)
    mask = draw("mask", (BATCH, HEADS, TOKENS, TOKENS))
    got = skewed(pack(q), pack(k), pack(v), HEADS, mask=mask)
    assert_close(got, pack(definition.skew_attention(q, k, v, 1.5, 3.0, mask=mask)))


@pytest.mark.parametrize("head_dim", [64, 80])
def test_sage_attention_is_asked_for_no_larger_head_dim_than_it_takes(sd15, head_dim):
    asked, sentences = [], []

    def attention_sage(q, k, v, heads, **keyword):
        asked.append(q.shape[-1])
        return comfy.ldm.modules.attention.attention_pytorch(q, k, v, heads, **keyword)

    q, k, v = (draw(name, (BATCH, HEADS, TOKENS, head_dim)) for name in "qkv")
    got = override_at(sd15, sentences.append, beta=3.0)(attention_sage, q, k, v, HEADS, skip_reshape=True)
    assert (sorted(set(asked)), len(sentences)) == (([64, 128], 0) if head_dim == 64 else ([], 1))
    assert_close(got, pack(definition.skew_attention(q, k, v, 1.5, 3.0)))


def test_a_batch_that_does_not_split_into_its_passes_is_skipped(sd15, q, k, v):
    three = [torch.cat([x, x[:1]]) for x in (q, k, v)]
    override = override_at(sd15, pytest.fail, prompts=PROMPTS, apply_to="cond")
    plain = optimized_attention(*three, HEADS, skip_reshape=True)
    assert override(optimized_attention, *three, HEADS, skip_reshape=True).equal(plain)
    cond_alone = override(optimized_attention, q, k, v, HEADS, skip_reshape=True)
    assert_close(cond_alone[:1], pack(definition.skew_attention(q, k, v, 1.5)[:1]))
    assert_close(cond_alone[1:], plain[1:2])


def test_which_backends_use_the_scale_is_found_by_trying():
    found = {name_of(each) for each in backends_using_scale()}
    known = {MAIN: EXACT, OLDEST: set()}
    assert found == known.get(__version__, found)
    assert found <= EXACT


def test_a_backend_that_uses_the_scale_gets_the_queries_unscaled(q, k, v):
    backend = comfy.ldm.modules.attention.attention_pytorch
    if not any(backend is each for each in backends_using_scale()):
        pytest.skip("attention_pytorch of this ComfyUI ignores scale=")
    call = AttentionCall.read(q, k, v, HEADS, None, {"skip_reshape": True})
    attention = HostAttention(pytest.fail)
    out = attention.bind(attention.choose(backend, 2 * HEAD_DIM, False), None, call, set())(q, k, v, None, 0.3)
    assert torch.equal(out, F.scaled_dot_product_attention(q, k, v, scale=0.3))
    assert not torch.equal(out, F.scaled_dot_product_attention(q * 0.3 * HEAD_DIM**0.5, k, v))
