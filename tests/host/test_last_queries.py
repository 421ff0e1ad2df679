"""Calls whose queries are the last of the keys' tokens, and sites that the options of their block do not reach."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from comfy.ldm.modules.attention import attention_pytorch, optimized_attention
from symmetric_attention.nodes.host.models.families import RULES
from symmetric_attention.nodes.host.models.reach import reach_of
from symmetric_attention.nodes.host.models.site_call import SiteCall
from symmetric_attention.nodes.host.models.site_rules import LAYER as BY_LAYER
from symmetric_attention.nodes.host.models.site_rules import NOT_SAME_TOKENS, OF_OTHERS, OPTIONS, UNREADABLE
from symmetric_attention.nodes.host.models.sites import find_sites, reason_of_refusal
from torch import nn

from lab.testing import definition
from lab.testing.families.rows import HOSTED, STAND_INS
from lab.testing.families.runs import Runs, in_this_host
from lab.testing.neighbours import ORDERS, in_order, louder, with_override
from lab.testing.newer_contract import LayerAttention, unpacked
from lab.testing.recorder import distance, effect, plainly, stated
from lab.testing.run_nodes import compiled, probe, skew

ROWS = {**HOSTED, **STAND_INS}
LAST = [*in_this_host(["HiDreamO1"]), "QwenImage21", "SenseNovaU15"]
LAYER = ["PixArtSigma", "ErnieImage"]
pytestmark = pytest.mark.newest


@pytest.fixture(scope="module", params=LAST)
def last(request):
    """A model whose image looks at text that does not look back."""
    yield from one(request.param)


@pytest.fixture(scope="module", params=[*LAST, *LAYER])
def row(request):
    yield from one(request.param)


def one(name):
    yield ROWS[name]
    ROWS[name].forget()


def keys_kept(row, kept: bool) -> None:
    """Have the next run of the plain or of a patched model keep no keys, or begin with those of the run before."""
    network = row.model.model.diffusion_model
    if row.name == "HiDreamO1":
        if not kept:
            network.clear_kv_cache()
        return
    network.keeps_keys = kept
    if not kept:
        network.kept.clear()


def assert_stated(row, calls, beta: float = 1.0, times: float = 1.0) -> None:
    runs = Runs(row)
    assert runs.acting(calls)
    for seen in calls:
        acts = runs.acts_in(seen)
        want = stated(row, seen, 1.5, beta) if acts else plainly(seen)
        close = 1e-3 * effect(row, seen, 1.5) if acts else 1e-5 * want.norm()
        assert distance(seen.out, times * want) <= close, seen.path


@pytest.mark.parametrize("kept", [False, True], ids=["all tokens", "kept keys"])
def test_the_picture_is_that_of_the_definition_with_kept_keys_and_without(last, kept):
    keys_kept(last, kept=False)
    plain, wanted = last.sample(), last.sample(skew(last.model, beta=3.0)[0])
    keys_kept(last, kept)
    last.sample()
    patched, report = skew(last.model, beta=3.0)
    calls = Runs(last).watched(patched)
    assert {seen.q.shape[2] < seen.k.shape[2] for seen in Runs(last).acting(calls)} == {True}
    assert_stated(last, calls, beta=3.0)
    assert distance(last.sample(patched), wanted) <= 1e-4 * distance(wanted, plain)
    assert distance(last.sample(), plain) <= 1e-5 * plain.norm()
    assert set(report.runs[-1].site_calls) == set(last.paths)
    assert not report.runs[-1].untouched


def test_gamma_leaves_no_trace_in_the_keys_that_are_kept(last):
    """They are kept from a run with γ, and the plain model has the bits that it has with keys of its own."""
    keys_kept(last, kept=True)
    last.sample()
    plain = last.sample()
    last.forget()
    keys_kept(last, kept=True)
    last.sample(skew(last.model)[0])
    assert last.sample().equal(plain)


def test_the_adaptive_gamma_is_that_of_only_the_image(last):
    calls = Runs(last).acting(Runs(last).skewed(1.5, adaptive="gamma"))
    for seen in calls:
        image = last.image(seen.q.shape[2])
        keys = seen.k[:, :, -seen.q.shape[2] :][:, :, image]
        eta = definition.symmetricity(seen.q[:, :, image], keys).mean(1)[:, None, None, None]
        want = stated(last, seen, 1 + 0.5 * eta)
        assert distance(seen.out, want) <= 1e-3 * distance(want, plainly(seen)), seen.path


def test_the_probe_measures_the_square_of_the_image(row):
    model, trace = probe(row.model)
    plain = row.sample()
    with_probe = Runs(row).acting(Runs(row).watched(model))
    assert row.sample(model).equal(plain)
    (step,) = trace.runs[0].steps
    assert not trace.runs[0].notes
    for seen in with_probe:
        image = row.image(seen.q.shape[2])
        q, k, out = seen.q[:, :, image], seen.k[:, :, -seen.q.shape[2] :][:, :, image], seen.out[:, :, image]
        want = definition.hopfield_stability(q, k, out, eigenvalues=False)["energy"].mean(-1)
        column = trace.runs[0].measures.index("energy")
        got = step.of(Runs(row).site(seen))[:, column].double()
        torch.testing.assert_close(got, want, rtol=0, atol=1e-4 * float(want.abs().max()))


@pytest.mark.parametrize("order", ["skew first", "probe first"])
def test_a_probe_beside_gamma_changes_no_bit_in_both_orders(row, order):
    wanted = row.sample(skew(row.model)[0])
    if order == "skew first":
        model, trace = probe(skew(row.model)[0])
    else:
        model, trace = probe(row.model)
        model, _ = skew(model)
    assert row.sample(model).equal(wanted)
    assert set(trace.runs[-1].addresses) == set(row.paths)
    assert trace.runs[-1].gamma == "γ 1.5"


def test_the_later_of_two_nodes_wins_and_each_reports_its_own(row):
    wanted = row.sample(skew(row.model, gamma=0.5)[0])
    first, of_first = skew(row.model, gamma=1.5)
    model, of_second = skew(first, gamma=0.5)
    assert row.sample(model).equal(wanted)
    assert set(of_second.runs[-1].site_calls) == set(row.paths)
    assert not of_first.runs[-1].site_calls


@pytest.mark.parametrize("order", ORDERS)
def test_an_override_of_another_pack_attends_in_both_orders(last, order):
    model, _ = in_order(order, last.model, lambda model: with_override(model, louder))
    assert_stated(last, Runs(last).watched(model), times=1.1)


def test_only_cond_leaves_the_rows_of_uncond(row):
    calls = Runs(row).acting(Runs(row).watched(skew(row.model, apply_to="cond")[0]))
    for seen in calls:  # uncond is the first row
        want = torch.stack([plainly(seen)[0], stated(row, seen, 1.5)[1]])
        assert distance(seen.out, want) <= 1e-3 * effect(row, seen, 1.5), seen.path


def test_what_ends_a_block_ends_the_run_and_leaves_nothing_behind(row):
    plain = row.sample()
    network = row.model.model.diffusion_model
    patched, report = skew(row.model)

    def stop(*_):
        raise RuntimeError("the block failed")

    before = {key: value for key, value in patched.model_options["transformer_options"].items() if key != "wrappers"}
    hook = network.get_submodule(list(row.paths.values())[-1]).register_forward_hook(stop)
    with pytest.raises(RuntimeError, match="the block failed"):
        row.sample(patched)
    hook.remove()
    assert report.runs[-1].status == "failed (RuntimeError)"
    after = {key: value for key, value in patched.model_options["transformer_options"].items() if key != "wrappers"}
    assert after == before
    assert all(getattr(each, "function", None) is None for each in network.modules())
    assert row.sample().equal(plain)


@pytest.mark.parametrize("name", ["QwenImage21", pytest.param("ErnieImage", marks=pytest.mark.long)])
def test_a_compiled_model_is_right_in_every_order(name):
    row = ROWS[name]
    torch._dynamo.reset()
    plain, wanted = row.sample(), row.sample(skew(row.model)[0])
    for model, want in ((row.model, plain), (skew(row.model)[0], wanted), (row.model, plain)):
        got = row.sample(compiled(model, fullgraph=False))
        assert distance(got, want) <= 1e-3 * distance(plain, wanted)
    assert row.sample().equal(plain)
    torch._dynamo.reset()
    row.forget()


def test_an_attention_that_a_checkpoint_asks_for_gives_way_to_gamma():
    row = ROWS["ErnieImage"]

    def of_the_layer(*given, **named):
        return 0.9 * attention_pytorch(*unpacked(given), **named)

    children = [each for each in row.model.model.diffusion_model.modules() if isinstance(each, LayerAttention)]
    for child in children:
        child.function = of_the_layer
    plain = row.sample()
    assert_stated(row, Runs(row).skewed(1.5))
    assert {child.function for child in children} == {of_the_layer}
    assert row.sample().equal(plain)
    row.forget()


class Options(nn.Module):
    def forward(self, x, transformer_options=None):
        return optimized_attention(x, x, x, 1, transformer_options=transformer_options)


def with_all_keywords(x, *rest, **kwargs):
    return optimized_attention(x, x, x, 1, mask=None, **kwargs)


def without_keywords(x, *rest, **kwargs):
    return optimized_attention(x, x, x, 1, mask=kwargs.get("mask"))


class Keywords(nn.Module):
    """Pass arguments as Trellis2 does."""

    def forward(self, x, transformer_options=None):
        return with_all_keywords(x, transformer_options=transformer_options)


class LostKeywords(nn.Module):
    def forward(self, x, transformer_options=None):
        return without_keywords(x, transformer_options=transformer_options)


class Child(nn.Module):
    def __init__(self):
        super().__init__()
        self.comfy_attention = LayerAttention()

    def forward(self, x):
        return optimized_attention(x, x, x, 1, preferred_attention=self.comfy_attention)


class Childless(nn.Module):
    comfy_attention = None

    def forward(self, x):
        return optimized_attention(x, x, x, 1, preferred_attention=self.comfy_attention)


class Neither(Child):
    def forward(self, x):
        return optimized_attention(x, x, x, 1)


@pytest.mark.parametrize(
    ("module", "reach"),
    [
        *[(Options, OPTIONS), (Keywords, OPTIONS), (LostKeywords, None)],
        *[(Child, BY_LAYER), (Childless, None), (Neither, None)],
    ],
)
def test_what_a_module_is_reached_by_is_read_from_its_code(module, reach):
    assert reach_of(module()) == reach


@pytest.mark.parametrize(("module", "reach"), [(Options, OPTIONS), (Child, BY_LAYER), (Neither, None)])
def test_a_family_is_refused_only_where_its_code_gives_no_way_in(module, reach):
    """The same class of the same network, by the code of its forward."""
    attention = type("AttentionKVCompress", (module,), {"__module__": "comfy.ldm.pixart.blocks"})()
    network = type("PixArtMS", (nn.Module,), {"__module__": "comfy.ldm.pixart.pixartms"})()
    network.blocks = nn.ModuleList([nn.ModuleDict({"attn": attention})])
    assert [(site.address, site.reach) for site in find_sites(network)] == ([("blocks.0", reach)] if reach else [])
    assert reason_of_refusal(network)


QWEN = next(rule for rule in RULES if rule.module == "qwen_image21.model.Attention")


@pytest.mark.parametrize(
    ("tokens", "prefix", "queries", "keys", "found"),
    [
        (30, 20, 10, 30, slice(20, 30)),  # the image, with all before it
        (10, 0, 10, 30, slice(20, 30)),  # the image, the keys before it kept
        (10, 0, 10, 10, slice(0, 10)),  # without text
        (30, 20, 10, 10, OF_OTHERS),  # a text as long as the image, at the start
        (30, 20, 10, 20, OF_OTHERS),  # a reference image as long as the image
        (30, 20, 5, 15, OF_OTHERS),
        (20, 20, 20, 20, OF_OTHERS),  # all before the image, by itself
        (30, 20, 12, 30, OF_OTHERS),
    ],
)
def test_the_calls_of_the_image_are_told_from_those_of_text_as_long(tokens, prefix, queries, keys, found):
    call = SiteCall((torch.zeros(1, tokens, 4), None, None, prefix, {}), {})
    assert QWEN.find_tokens(call, keys, queries) == ((found, "") if found else (None, OF_OTHERS))


@pytest.mark.parametrize("call", [SiteCall((), {}), SiteCall((torch.zeros(1, 30, 4), None, None, {}), {})])
def test_calls_that_cannot_be_read_are_reported(call):
    image, reason = QWEN.find_tokens(call, 30, 10)
    assert image is None
    assert reason.startswith(UNREADABLE)


def test_queries_of_a_part_of_the_image_are_reported():
    rule = next(rule for rule in RULES if rule.module == "comfy.text_encoders.llama.TransformerBlock")
    call = SiteCall((), {}, {"image": 16})
    assert rule.find_tokens(call, 30, 17) == (slice(14, 30), "")
    assert rule.find_tokens(call, 30, 30) == (slice(14, 30), "")
    assert rule.find_tokens(call, 30, 8) == (None, f"{UNREADABLE} (ValueError)")
    assert rule.find_tokens(SiteCall((), {}), 30, 17) == (None, f"{UNREADABLE} (KeyError)")
    rule = next(rule for rule in RULES if rule.module == "sensenova.model.Attention")
    call = SiteCall((torch.zeros(1, 16, 4),), {})
    assert rule.find_tokens(call, 30, 16) == (slice(14, 30), "")
    for tokens, queries in ((30, 8), (12, 16), (30, 30)):
        assert rule.find_tokens(call, tokens, queries) == (None, f"{UNREADABLE} (ValueError)")
    assert rule.find_tokens(SiteCall((), {}), 30, 16) == (None, f"{UNREADABLE} (ValueError)")


def test_fewer_queries_are_skipped_where_no_rule_knows_such_calls():
    rule = next(rule for rule in RULES if rule.module == "modules.attention.CrossAttention")
    assert rule.find_tokens(SiteCall((), {}), 30, 10) == (None, NOT_SAME_TOKENS)


@pytest.mark.skipif(not in_this_host(["HiDreamO1"]), reason="this ComfyUI has no HiDream-O1")
def test_reference_images_of_hidream_o1_count_as_image():
    row = HOSTED["HiDreamO1"]
    picture = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(0))
    given = replace(row, image_tokens=32, extra=lambda name: {**row.extra(name), "reference_latents": [picture]})
    calls = Runs(given).acting(Runs(given).skewed(1.5))
    assert {seen.q.shape[2] for seen in calls} == {1 + 16 + 16}
    assert_stated(given, calls)
    row.forget()
    given.forget()
