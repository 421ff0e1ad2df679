"""Models whose blocks get one joined sequence: a module that gets only one part of it says where the image is."""

from __future__ import annotations

import pytest
import torch
from symmetric_attention.nodes.host.models.families import RULES
from symmetric_attention.nodes.host.models.site_call import SiteCall

from lab.testing.families.rows import HOSTED
from lab.testing.families.runs import in_this_host
from lab.testing.recorder import distance
from lab.testing.run_nodes import compiled, skew

NAMES = ["AuraFlow", "Lumina2", "HiDream", "Omnigen2", "Hunyuan3Dv2", "StableAudio", "Ideogram4", "TripoSplat"]


@pytest.fixture(params=in_this_host(NAMES))
def row(request):
    row = HOSTED[request.param]
    yield row
    row.forget()


def test_only_the_last_site_knows_where_the_image_is(row):
    """Its sensor is patched even where the site next to it is not."""
    last = list(row.paths)[-1]
    patched, report = skew(row.model, blocks=last)
    row.sample(patched)
    assert set(report.runs[-1].site_calls) == {last}
    assert not report.runs[-1].untouched


def test_two_nodes_on_one_model_get_a_report_each(row):
    first, *rest = row.paths
    apart, _ = skew(skew(row.model, blocks=first)[0], blocks=", ".join(rest))
    together, _ = skew(row.model)
    assert row.sample(apart).equal(row.sample(together))


def test_a_clone_with_another_module_reads_its_own_sensor(row):
    other = row.build()
    with torch.no_grad():
        for weight in other.model.parameters():
            weight.mul_(1.01)
    patched, _ = skew(row.model)
    clone = patched.clone(model_override=other.get_clone_model_override())
    assert clone.model is other.model
    got = row.sample(clone)
    assert row.sample().equal(row.sample(row.model))
    assert got.equal(row.sample(skew(other)[0]))
    assert not got.equal(row.sample(other))


def test_nothing_is_remembered_from_the_model_call_before(row):
    """A longer text after a shorter one, through one patched model."""
    longer = row.with_text(row.text[0] + 3)
    texts = [[[each[0], {**each[1]}] for each in longer.conditioning(name)] for name in ("cond", "uncond")]
    for (each,) in texts:
        if "attention_mask" in each[1]:
            each[1]["attention_mask"] = torch.ones(1, longer.text[0], dtype=torch.long)
    patched, report = skew(row.model)
    row.sample(patched)
    again = row.sample(patched, texts=tuple(texts))
    assert not report.runs[-1].untouched
    assert again.equal(row.sample(skew(row.model)[0], texts=tuple(texts)))


def test_a_text_seen_in_an_earlier_forward_is_not_taken_for_one_of_this() -> None:
    """Another node runs the network twice in one model call, the second time without text."""
    (rule,) = [rule for rule in RULES if rule.module == "ideogram4.model.Ideogram4Attention"]
    whole, text = rule.sensors
    seen: dict[str, int] = {}
    whole.observe(SiteCall((torch.zeros(1, 26, 8),), {}), seen)
    text.observe(SiteCall((torch.zeros(1, 10, 8),), {}), seen)
    assert rule.image_tokens(SiteCall((), {}, seen), 26) == slice(10, 26)
    whole.observe(SiteCall((torch.zeros(1, 16, 8),), {}), seen)
    assert rule.image_tokens(SiteCall((), {}, seen), 16) == slice(0, 16)
    assert rule.image_tokens(SiteCall((), {}, {}), 16) is None  # nothing was seen: it may as well be text


def test_frame_by_frame_sampling_with_a_cache_is_skipped():
    """There only the first frame is square."""
    (rule,) = [rule for rule in RULES if rule.module == "wan.ar_model.CausalWanSelfAttention"]
    x, freqs = torch.zeros(1, 8, 4), None
    assert rule.image_tokens(SiteCall((x, freqs), {"kv_cache": None}), 8) == slice(0, 8)
    assert rule.image_tokens(SiteCall((x, freqs), {"kv_cache": {"end": 0}}), 8) is None
    assert rule.skip_reason == "the keys include those of earlier frames"


@pytest.mark.newest
def test_a_compiled_model_is_reported_too():
    row = HOSTED["Hunyuan3Dv2"]
    torch._dynamo.reset()
    plain = row.sample()
    patched, report = skew(row.model, 0.2)
    wanted = row.sample(patched)
    got = row.sample(compiled(patched, fullgraph=False))
    assert distance(got, wanted) < 1e-3 * distance(wanted, plain)
    assert f"{len(row.paths)} of {len(row.paths)} chosen sites reached" in report.describe()
    assert distance(row.sample(compiled(row.model, fullgraph=False)), plain) < 1e-3 * distance(wanted, plain)
    torch._dynamo.reset()
    row.forget()
