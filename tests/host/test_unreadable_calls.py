"""A newer host may call a known block in another way: the call is skipped and counted, and nothing is raised."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import hypothesis
import pytest
import torch
from comfy.ldm.modules.attention import optimized_attention
from hypothesis import given
from hypothesis import strategies as st
from symmetric_attention.nodes.host.models.families import RULES
from symmetric_attention.nodes.host.models.site_call import SiteCall
from symmetric_attention.nodes.host.models.site_rules import OF_OTHERS, UNREADABLE, LengthSensor
from symmetric_attention.nodes.host.models.sites import Site, find_sites
from symmetric_attention.nodes.host.patches.attention_backend import HostAttention
from symmetric_attention.nodes.host.patches.override_context import CallLog, OverrideContext
from symmetric_attention.nodes.host.patches.skew_override import SkewOverride
from symmetric_attention.nodes.host.run_report import RunRecord
from symmetric_attention.nodes.host.settings import Gammas, SkewSettings
from symmetric_attention.sad_core import GammaSchedule

from lab.testing.families.family import draw
from lab.testing.run_nodes import probe, skew

BATCH, HEADS, TOKENS, HEAD_DIM = 2, 2, 6, 4
NAMES = [
    *("x", "img", "txt", "text", "context", "hidden_states", "encoder_hidden_states", "mod_segments", "kv_cache"),
    *sorted({name for rule in RULES for sensor in rule.sensors for name in (sensor.name, sensor.argument[0])}),
    "transformer_options",
]


class Container:
    """An argument that a newer host may pass instead of a tensor."""

    def __init__(self, tensor: torch.Tensor):
        self.tensor = tensor


values = st.deferred(
    lambda: st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-3, 2 * TOKENS),
        st.floats(allow_nan=True),
        st.text(max_size=3),
        st.lists(st.integers(-3, TOKENS + 3), max_size=3),
        st.tuples(st.integers(-3, TOKENS), st.integers(-3, TOKENS), st.integers(-3, TOKENS)),
        st.lists(st.tuples(st.integers(0, 3), st.integers(-3, TOKENS), st.integers(-3, TOKENS)), max_size=2),
        st.lists(st.integers(0, TOKENS), max_size=4).map(torch.zeros),
        st.lists(st.integers(0, TOKENS), max_size=4).map(lambda shape: Container(torch.zeros(shape))),
        st.just(((0, TOKENS, torch.zeros(TOKENS, dtype=torch.long)),)),
    )
)
options = st.dictionaries(st.sampled_from(["img_slice", "patches", "block_index", "sigmas"]), values, max_size=2)


@hypothesis.settings(max_examples=500, derandomize=True, deadline=None)
@given(
    rule=st.sampled_from(RULES),
    args=st.lists(values, max_size=3),
    kwargs=st.dictionaries(st.sampled_from(NAMES), st.one_of(values, options), max_size=4),
    seen=st.dictionaries(st.sampled_from(NAMES), st.one_of(st.integers(-2, 2 * TOKENS), values), max_size=3),
    norm=st.sampled_from(["value", "input"]),
)
def test_any_call_of_a_block_is_skewed_or_skipped_with_a_reason(rule, args, kwargs, seen, norm):
    q, k, v = (draw(name, (BATCH, HEADS, TOKENS, HEAD_DIM)) for name in "qkv")
    run = RunRecord("a model", ("one",))
    settings = SkewSettings(GammaSchedule.from_preset("constant", 1.5), norm=norm)
    context = OverrideContext(settings, HostAttention(run.fell_back), Gammas(1.5), log=CallLog(run))
    call = SiteCall(tuple(args), kwargs, seen)
    override = SkewOverride(context, Site("one", "one", rule), call, None)
    got = override(optimized_attention, q, k, v, HEADS, skip_reshape=True)
    plain = optimized_attention(q, k, v, HEADS, skip_reshape=True)
    assert got.shape == plain.shape
    image, reason = rule.find_tokens(call, TOKENS)
    if image is None:
        assert got.equal(plain)
        assert run.untouched == ({} if reason == OF_OTHERS else {reason: 1})
        assert reason in (rule.skip_reason, OF_OTHERS) or reason.startswith(UNREADABLE)
    else:
        assert 0 <= image.start < image.stop <= TOKENS
        assert override.tally.calls == 1


@hypothesis.settings(max_examples=300, derandomize=True, deadline=None)
@given(
    sensor=st.sampled_from([sensor for rule in RULES for sensor in rule.sensors]),
    args=st.lists(values, max_size=3),
    kwargs=st.dictionaries(st.sampled_from(NAMES), values, max_size=3),
)
def test_whatever_a_sensor_sees_nothing_is_raised(sensor, args, kwargs):
    lengths: dict[str, Any] = {sensor.name: 5}
    call = SiteCall(tuple(args), kwargs)
    sensor.observe(call, lengths)
    given_argument = call.argument(*sensor.argument)
    if given_argument is not None:
        readable = isinstance(given_argument, torch.Tensor) and given_argument.dim() > 1
        assert lengths == ({sensor.name: given_argument.shape[1]} if readable else {})


@pytest.mark.parametrize("name", ["q", "k", "v"])
def test_an_attention_call_that_cannot_be_read_goes_on_as_it_came(sd15, name):
    run = RunRecord("SD15", ("one",))
    settings = SkewSettings(GammaSchedule.from_preset("constant", 1.5))
    context = OverrideContext(settings, HostAttention(pytest.fail), Gammas(1.5), log=CallLog(run))
    override = SkewOverride(context, find_sites(sd15.model.model.diffusion_model)[0], SiteCall((), {}), None)
    tensors = {each: draw(each, (BATCH, TOKENS, HEADS * HEAD_DIM)) for each in "qkv"}
    tensors[name] = Container(tensors[name])
    received = []
    override(lambda *given, **named: received.append((given, named)), *tensors.values(), HEADS, low_precision=True)
    assert received == [((*tensors.values(), HEADS), {"mask": None, "low_precision": True})]
    assert run.untouched == {f"{UNREADABLE} (AttributeError)": 1}


@pytest.mark.parametrize("name", ["SD15", "Flux"])
@pytest.mark.parametrize("node", [skew, probe])
def test_a_rule_that_raises_costs_no_picture_and_is_reported(families, name, node):
    """The rule of MiniMax-H3 failed on a newer host in this way: a row of its segments became a tensor."""
    family = families[name]

    def broken(call, tokens):
        raise RuntimeError("Boolean value of Tensor with more than one value is ambiguous")

    model, told = node(family.model)
    for function in model.object_patches.values():
        place = function.patched_forward.place
        if not isinstance(place, LengthSensor):
            object.__setattr__(place, "rule", type(place.rule)(**{**vars(place.rule), "image_tokens": broken}))
    assert family.sample(model).equal(family.picture)
    if node is skew:
        (run,) = told.runs
        assert not run.site_calls
        assert set(run.untouched) == {f"{UNREADABLE} (RuntimeError)"}
        assert "All were skipped" in run.warning
    else:
        assert told.is_empty
        assert all(UNREADABLE in note for note in told.runs[-1].notes)


SEGMENTS = next(rule for rule in RULES if rule.module == "minimax.model.DiTBlock")


@pytest.mark.parametrize(
    ("row", "found"),
    [
        (0, slice(2, 6)),
        (3, slice(2, 6)),
        (1, None),
        (5, None),
        (torch.tensor([0, 0, 3, 3]), slice(2, 6)),
        (torch.tensor([3, 0, 9, 3]), slice(2, 6)),
    ],
)
def test_the_video_of_minimax_is_found_with_a_row_for_each_token(row, found):
    """With a noise mask a newer host gives a row for each token, on the device: it is not read there."""
    call = SiteCall((None, None, [(0, 2, 1), (2, 6, row)]), {})
    assert SEGMENTS.find_tokens(call, 6)[0] == found


@pytest.mark.newest
@pytest.mark.parametrize(
    ("start", "stop", "queries", "wanted"),
    [
        (2, 5, TOKENS, slice(2, 5)),
        (2, 5, 3, slice(3, 5)),
        (0, TOKENS, TOKENS, slice(0, TOKENS)),
        (-1, 5, TOKENS, None),
        (-TOKENS, 5, 3, None),
        (2, TOKENS + 1, TOKENS, None),
        (TOKENS, TOKENS + 2, TOKENS, None),
        (3, 3, TOKENS, None),
        (1, 3, 3, None),
    ],
)
def test_gamma_acts_among_tokens_only_that_the_call_has(start, stop, queries, wanted):
    """A part that a rule reads from a call of a newer host may reach beyond the tokens, or hold none with a query."""
    rule = replace(
        SEGMENTS, image_tokens=lambda call, tokens: slice(start, stop), last_queries=lambda call, queries, keys: True
    )
    assert rule.find_tokens(SiteCall((), {}), TOKENS, queries) == (wanted, "" if wanted else rule.skip_reason)


def test_a_norm_without_its_input_is_value_and_the_report_says_so(sd15):
    """The input is handed over under another name, as a newer host may do."""
    wanted = sd15.sample(skew(sd15.model, beta=3.0, norm="value")[0])
    model, report = skew(sd15.model, beta=3.0, norm="input")
    for function in model.object_patches.values():
        place = function.patched_forward.place
        rule = type(place.rule)(**{**vars(place.rule), "block_input": lambda call: call.kwargs["renamed"]})
        object.__setattr__(place, "rule", rule)
    assert sd15.sample(model).equal(wanted)
    assert 'so norm "value" is used' in report.describe()
