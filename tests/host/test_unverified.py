"""A network that no rule knows: its sites are listed and skipped, and act where a user asks for it."""

from __future__ import annotations

import sys

import pytest
import torch
from comfy.ldm.common_dit import rms_norm
from comfy.ldm.flux.math import attention
from comfy.ldm.modules.attention import optimized_attention
from symmetric_attention.nodes.creativity import CreativityNode
from symmetric_attention.nodes.host.models import unverified
from symmetric_attention.nodes.host.models.sites import find_sites
from symmetric_attention.nodes.host.models.unverified import NOT_OF_OWN_TOKENS, find_unverified_sites
from symmetric_attention.nodes.host.run_origin import Upstream
from symmetric_attention.nodes.save_stability_trace import SaveStabilityTraceNode
from symmetric_attention.nodes.stability_feedback import StabilityFeedbackNode
from symmetric_attention.nodes.stability_plot import StabilityPlotNode
from symmetric_attention.nodes.stability_probe import StabilityProbeNode
from torch import nn

from lab.testing import definition, recorder
from lab.testing.families.building import on_cpu
from lab.testing.families.configs import SD15
from lab.testing.families.family import draw
from lab.testing.families.rows import FAMILIES, STEPS
from lab.testing.recorder import plainly, watch_attention
from lab.testing.run_nodes import execute, probe, skew

HEADS, WIDTH = 2, 32


class Projections(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(4))


class OwnAttention(Projections):
    """Calls the host's attention by itself."""

    def forward(self, x, transformer_options={}):  # noqa: B006
        q, k, v = self.q(x), self.k(x), self.v(x)
        return self.out(optimized_attention(q, k, v, HEADS, transformer_options=transformer_options))


class DeepAttention(Projections):
    """Calls it through a method and a function of the host."""

    def forward(self, x, transformer_options={}):  # noqa: B006
        return self.out(self.attend(x, transformer_options))

    def attend(self, x, transformer_options):
        q, k, v = (each(x).unflatten(2, (HEADS, -1)).transpose(1, 2) for each in (self.q, self.k, self.v))
        return attention(q, k, v, pe=None, transformer_options=transformer_options)


class TextAttention(Projections):
    """Cross-attention under a name that does not tell."""

    def forward(self, x, context=None, transformer_options={}):  # noqa: B006
        keys = x if context is None else context
        q, k, v = self.q(x), self.k(keys), self.v(keys)
        return self.out(optimized_attention(q, k, v, HEADS, transformer_options=transformer_options))


class Attend(nn.Module):
    """The call by itself."""

    def forward(self, q, k, v, transformer_options):
        return optimized_attention(q, k, v, HEADS, transformer_options=transformer_options)


class AttentionByChild(Projections):
    """Cross-attention whose call is that of a child with a name that does not tell."""

    def __init__(self):
        super().__init__()
        self.attn = Attend()

    def forward(self, x, context, transformer_options={}):  # noqa: B006
        return self.out(self.attn(self.q(x), self.k(context), self.v(context), transformer_options))


class Unreachable(Projections):
    """Drops the options on the way."""

    def forward(self, x, transformer_options={}):  # noqa: B006
        return self.out(optimized_attention(self.q(x), self.k(x), self.v(x), HEADS))


class Block(nn.Module):
    def __init__(self, deep: bool, by_place: bool = False):
        super().__init__()
        self.by_place = by_place
        self.self_attention = DeepAttention() if deep else OwnAttention()
        self.text = TextAttention()
        self.cross_attn = AttentionByChild() if deep else TextAttention()
        self.lost = Unreachable()

    def forward(self, x, context, transformer_options={}):  # noqa: B006
        if self.by_place:
            x = x + self.self_attention(rms_norm(x), transformer_options)
        else:
            x = x + self.self_attention(rms_norm(x), transformer_options=transformer_options)
        x = x + self.text(rms_norm(x), context, transformer_options=transformer_options)
        x = x + self.cross_attn(rms_norm(x), context, transformer_options=transformer_options)
        return x + self.lost(rms_norm(x), transformer_options=transformer_options)


class FutureNetwork(nn.Module):
    """A diffusion model that is newer than the pack, in the place of the UNet of a tiny SD1.5."""

    def __init__(self):
        super().__init__()
        self.dtype = torch.float32
        self.into = nn.Linear(4, WIDTH)
        self.of_text = nn.Linear(FAMILIES["SD15"].text[1], WIDTH)
        self.blocks = nn.ModuleList([Block(deep=index == 1, by_place=index == 2) for index in range(3)])
        self.back = nn.Linear(WIDTH, 4)

    def forward(self, x, timesteps=None, context=None, control=None, transformer_options={}, **kwargs):  # noqa: B006
        tokens, text = self.into(x.flatten(2).mT), self.of_text(context)
        for block in self.blocks:
            tokens = block(tokens, text, transformer_options=transformer_options)
        return self.back(tokens).mT.reshape(x.shape)


@pytest.fixture(scope="module")
def future():
    """The MODEL."""
    patcher = FAMILIES["SD15"].build()
    network = FutureNetwork()
    with torch.no_grad():
        for name, weight in network.named_parameters():
            weight.copy_(draw(f"future {name}", weight.shape) * 1.5 / max(weight.shape[-1], 1) ** 0.5)
    patcher.model.diffusion_model = network.eval()
    return on_cpu(patcher.model)


def sample(model, tokens: int = 96, **options) -> torch.Tensor:
    """One step of a picture with so many tokens, which the text may have as well."""
    row = FAMILIES["SD15"].with_text(77)
    return row.sample(model, noise=draw("future noise", (1, 4, 7, 11) if tokens == 77 else (1, 4, 8, 12)), **options)


ADDRESSES = ["blocks.0.self_attention", "blocks.0.text", "blocks.1.self_attention", "blocks.1.text"]
ADDRESSES += ["blocks.2.self_attention", "blocks.2.text"]


def test_its_sites_are_found_in_its_code(future):
    network = future.model.diffusion_model
    assert not find_sites(network)
    found = find_unverified_sites(network)
    assert [site.address for site in found] == ADDRESSES
    assert {site.kind for site in found} == {"not verified"}


def test_the_node_lists_them_and_leaves_the_model_as_it_is(future):
    plain = sample(future)
    patched, report = skew(future)
    assert not patched.object_patches
    assert report.neutral
    assert report.plan == (
        "SD15 is not among the models that Skew Attention (SAD) knows, so nothing was patched. It has 6 attention "
        f"sites that are not verified: {', '.join(ADDRESSES)}. Switch on act_where_unverified to use them."
    )
    assert sample(patched).equal(plain)


def test_creativity_skips_it_and_names_the_node_that_can(future):
    model, text, report = execute(CreativityNode, model=future, position=1.0)
    assert not model.object_patches
    assert text == report.plan
    assert text.startswith("SD15 is not among the models that Creativity (SAD) knows, so nothing was patched. ")
    assert text.endswith("Creativity (SAD) cannot use them, but Skew Attention (SAD) can, with act_where_unverified.")


@pytest.mark.parametrize("node", [StabilityProbeNode, StabilityFeedbackNode], ids=["probe", "feedback"])
def test_what_measures_skips_it_too_and_its_trace_says_why(future, monkeypatch, node):
    model, trace = execute(node, model=future)
    assert not model.object_patches
    assert sample(model).equal(sample(future))
    assert trace.is_empty
    for reader in (StabilityPlotNode, SaveStabilityTraceNode):
        shown = asked_after(reader, trace, monkeypatch)
        assert "It has 6 attention sites that are not verified" in shown
        assert "used another model" not in shown


def asked_after(node, trace, monkeypatch) -> str:
    """Return the text of a trace reader whose `after` has the image of an unpatched run."""
    shown = []
    module = sys.modules[node.__module__]
    monkeypatch.setattr(module, "upstream_of_input", lambda name: Upstream({"another node": 1}))
    if node is StabilityPlotNode:
        return node.execute(trace)[1]
    monkeypatch.setattr(module, "show_on_node", lambda text, node_id: shown.append(text))
    execute(node, trace=trace)
    return shown[0]


@pytest.mark.parametrize("tokens", [96, 77])
def test_the_switch_lets_gamma_act_and_never_in_cross_attention(future, tokens, monkeypatch):
    """Also where the text is as long as the picture, so that its cross-attention is square."""
    names = recorder.attention_names
    before = sample(future, tokens)
    patched, report = skew(future, act_where_unverified=True)
    assert "6 of 6 attention sites (6 not verified)" in report.plan
    assert "γ acts among all tokens of each call" in report.plan
    monkeypatch.setattr(recorder, "attention_names", lambda: [*names(), (sys.modules[__name__], "optimized_attention")])
    with watch_attention(patched) as calls:
        picture = sample(patched, tokens, steps=1)
    assert not picture.equal(sample(future, tokens, steps=1))
    own = [seen for seen in calls if seen.path.endswith("self_attention")]
    assert own
    for seen in calls:
        want = plainly(seen)
        if seen in own:
            skewed = definition.skew_attention(seen.q, seen.k, seen.v, 1.5)
            assert (seen.out - skewed).norm() <= 1e-3 * (skewed - want).norm(), seen.path
        else:
            assert (seen.out - want).norm() < 1e-5 * want.norm(), seen.path
    (run,) = report.runs
    assert set(run.site_calls) == {address for address in ADDRESSES if address.endswith("self_attention")}
    reason = NOT_OF_OWN_TOKENS if tokens == 77 else "queries and keys are not the same tokens"
    assert set(run.untouched) == {reason}
    assert sample(future, tokens).equal(before)


def test_the_probe_measures_it_where_the_switch_says_so(future):
    model, trace = probe(future, act_where_unverified=True)
    assert sample(model).equal(sample(future))
    assert set(trace.runs[-1].addresses) == {address for address in ADDRESSES if address.endswith("self_attention")}
    assert len(trace.runs[-1].steps) == STEPS


def test_gamma_1_changes_no_bit(future):
    assert sample(skew(future, gamma=1.0, act_where_unverified=True)[0]).equal(sample(future))


@pytest.mark.parametrize("blocks", ["blocks.1", "blocks.1.self_attention", "not verified"])
def test_its_sites_are_chosen_by_address(future, blocks):
    _, report = skew(future, blocks=blocks, act_where_unverified=True)
    count = {"blocks.1": 2, "blocks.1.self_attention": 1, "not verified": 6}[blocks]
    assert f"{count} of 6 attention sites" in report.plan


def test_the_switch_changes_nothing_where_the_rules_know_the_model(family):
    one, other = (skew(family.model, act_where_unverified=switch)[0] for switch in (False, True))
    assert family.sample(one).equal(family.sample(other))


# Their sites have no `transformer_options` among their arguments by name, or are one module further in or out.
UNLIKE = {"SD3", "SD3 with image-only attention", "HiDream", "HiDreamO1", "Boogu", "MiniMaxH3"}


@pytest.mark.rows(lambda row: not row.stands_in_for)
def test_the_sites_of_known_families_would_be_found_too(runs, monkeypatch):
    """Held to the table: reading the code finds every site that a rule names, at the same module."""
    monkeypatch.setattr(unverified, "RULES", ())
    network = runs.row.model.model.diffusion_model
    wanted = {site.path for site in find_sites(network)}
    found = {site.path for site in find_unverified_sites(network)}
    assert runs.row.name in UNLIKE or wanted <= found


def test_a_unet_whose_self_attention_is_switched_off_has_none(families):
    from lab.testing.families.building import build

    model = build("SD15", {**SD15, "disable_self_attentions": [True, True], "disable_middle_self_attn": True})
    assert not find_unverified_sites(model.model.diffusion_model)
