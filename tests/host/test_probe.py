"""Stability Probe: no bit of the picture changes, and what it records is what the definition says of each call."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import weakref

import comfy.model_management
import pytest
import torch
from comfy_extras.nodes_hypertile import HyperTile
from symmetric_attention.nodes.host.models.sites import find_sites
from symmetric_attention.nodes.host.patches import probe_patch as probe_module
from symmetric_attention.nodes.host.patches.attention_backend import compiles_whole
from symmetric_attention.nodes.host.picture import image_size, token_grid
from symmetric_attention.sad_core.stability.batch import StabilityBatch

from lab.testing import definition
from lab.testing.devices import on_two_devices
from lab.testing.families.rows import STEPS
from lab.testing.neighbours import louder, with_override
from lab.testing.recorder import watch_attention
from lab.testing.run_nodes import compiled, execute, little_memory, patches_of, probe, skew, stop_at, through

NAMES = ["SD15", "SDXL", "SD3", "SD3 with image-only attention", "Flux"]
ORDERS = ["probe first", "skew first", "between"]
ADAPTIVE = {"beta": 3.0, "adaptive": "gamma"}
# The norm is the same in every order, and the order the same with every norm.
INPUT_PATTERNS = [
    ("SD15", "value", "probe first"),
    *(pytest.param("SD15", norm, "skew first", marks=pytest.mark.newest) for norm in ("value", "input", "none")),
    pytest.param("SD15", "none", "probe first", marks=pytest.mark.newest),
    pytest.param("SD15", "input", "between", marks=pytest.mark.newest),
    pytest.param("SDXL", "value", "between", marks=pytest.mark.newest),
]


def address_of(family, path: str) -> str:
    """The address of the site whose module is at `path`."""
    return next(site.address for site in find_sites(family.model.model.diffusion_model) if site.path == path)


def image_block(family, seen) -> tuple[torch.Tensor, ...]:
    """Queries, keys and result of a call, only the image tokens."""
    tokens = seen.q.shape[2]
    image = slice(tokens - (family.image_tokens or tokens), tokens)
    return seen.q[:, :, image], seen.k[:, :, image], seen.out[:, :, image]


def stated(family, seen, eigenvalues: bool = True) -> dict[str, torch.Tensor]:
    """Return the expected measures of a call, `(B, H)`, from dense matrices in float64."""
    q, k, out = image_block(family, seen)
    measures = definition.hopfield_stability(q, k, out, eigenvalues=eigenvalues)
    found = {name: value.mean(-1) for name, value in measures.items()}
    found["symmetricity"] = definition.symmetricity(q, k)
    return found


def assert_holds(family, calls, run, relative: float = 1e-4) -> None:
    """Assert that the run holds, step by step and sample by sample, what was seen from outside of the pack."""
    seen_calls = [seen for seen in calls if not seen.is_cross]
    found = 0
    for step in run.steps:
        times: dict[tuple, int] = {}
        for seen in (seen for seen in seen_calls if seen.sigma == step.sigma):
            address = address_of(family, seen.path)
            times[seen.path, seen.marks] = times.get((seen.path, seen.marks), 0) + 1
            number = times[seen.path, seen.marks]
            values = step.of(address if number == 1 else f"{address}#{number}")
            want = stated(family, seen, eigenvalues="depth" in run.measures)
            chunks = [{0: "positive", 1: "negative"}[mark] for mark in seen.marks]
            size = len(seen.q) // len(chunks)
            for row in range(len(seen.q)):
                place = step.samples.index((chunks[row // size], row % size))
                for column, measure in enumerate(run.measures):
                    got = values[place, column].double()
                    if measure == "instability":  # tokens at rounding may fall on either side
                        torch.testing.assert_close(got, want[measure][row], rtol=0, atol=2e-3)
                    else:
                        close = relative * float(want[measure].abs().max().clamp_min(1e-3))
                        torch.testing.assert_close(got, want[measure][row], rtol=0, atol=close)
                    found += 1
    assert found > 0


# --- the picture


@pytest.mark.parametrize("every", [1, 2])
def test_a_probe_changes_no_bit_of_the_picture(family, every):
    model, trace = probe(family.model, every_nth_step=every, depth_and_curvature=every == 2)
    assert family.sample(model).equal(family.picture)
    assert set(family.sites) <= set(trace.runs[-1].addresses)
    assert family.sample().equal(family.picture)


# Every order with and without β if all sites see only the image and if text is among the tokens; in the other
# families the one order with a node on each side of the probe.
SKEWED = [
    *((name, order, each) for name in ("SD15", "Flux") for order in ORDERS for each in ({}, ADAPTIVE)),
    *((name, "between", ADAPTIVE) for name in ("SDXL", "SD3", "SD3 with image-only attention")),
]


@pytest.mark.parametrize(("name", "order", "widgets"), SKEWED)
def test_a_probe_changes_no_bit_of_a_skewed_picture(families, name, order, widgets):
    family = families[name]
    wanted = family.sample(skew(family.model, **widgets)[0])
    model, trace = through(order, family.model, **widgets)
    assert family.sample(model).equal(wanted)
    assert len(trace.runs[-1].steps) == STEPS


# --- the numbers


@pytest.mark.parametrize("name", NAMES)
def test_the_trace_of_a_plain_model_is_what_the_definition_says(families, name):
    family = families[name]
    model, trace = probe(family.model)
    with watch_attention(model) as calls:
        family.sample(model)
    (run,) = trace.runs
    assert [address for address in run.addresses if "#" not in address] == list(family.sites)
    assert (run.status, run.model, run.notes) == ("finished", family.name.split()[0], [])
    assert_holds(family, calls, run)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", ["SD15", "SD3 with image-only attention", "Flux"])
def test_with_skew_attention_the_trace_is_of_what_really_left_the_site(families, name, order):
    family = families[name]
    model, trace = through(order, family.model, gamma=1.5, beta=3.0)
    with watch_attention(model) as calls:
        family.sample(model, steps=1)
    assert_holds(family, calls, trace.runs[-1])
    plain_model, plain_trace = probe(family.model)
    family.sample(plain_model, steps=1)
    one, other = (each.runs[-1].matrix("alignment") for each in (trace, plain_trace))
    assert ((one - other).abs() > 1e-3).any()


def test_the_trace_names_the_gamma_that_was_at_work(sd15):
    plain_model, plain_trace = probe(sd15.model)
    sd15.sample(plain_model)
    skewed, skewed_trace = probe(skew(sd15.model, gamma=0.3, end_percent=0.4)[0])
    sd15.sample(skewed, steps=3)
    strange, strange_trace = probe(with_override(sd15.model, louder))
    sd15.sample(strange)
    got = [trace.runs[0].gamma for trace in (plain_trace, skewed_trace, strange_trace)]
    assert got == ["γ 1", "γ 0.3 … 1", ""]


def test_depth_and_curvature_are_recorded_where_they_are_asked_for(sd15):
    model, trace = probe(sd15.model, blocks="middle, output.0", depth_and_curvature=True)
    with watch_attention(model) as calls:
        sd15.sample(model, steps=1)
    (run,) = trace.runs
    q, k, out = image_block(
        sd15, next(seen for seen in calls if seen.path == "middle_block.1.transformer_blocks.0.attn1")
    )
    want = definition.hopfield_stability(q, k, out)
    relative = (want["curvature"] / want["spread"]).mean(-1)
    (step,) = run.steps
    place = run.measures.index("relative curvature")
    torch.testing.assert_close(step.of("middle.0.0")[:, place].double(), relative, rtol=0, atol=1e-4)
    place = run.measures.index("depth")
    torch.testing.assert_close(step.of("middle.0.0")[:, place].double(), want["depth"].mean(-1), rtol=0, atol=1e-4)


def test_cond_and_uncond_in_separate_calls_give_the_same_trace(family):
    together, trace = probe(family.model)
    family.sample(together, noise=family.noise(2))
    apart, other = probe(family.model)
    with little_memory(family.model):
        family.sample(apart, noise=family.noise(2))
    assert [len(step.samples) for step in trace.runs[0].steps] == [4] * STEPS
    for chunk in ("positive", "negative"):
        for measure in ("energy", "alignment", "symmetricity"):
            one, two = (each.runs[0].matrix(measure, chunk) for each in (trace, other))
            torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-3 * float(one.abs().max()))


def test_a_picture_has_the_same_numbers_by_itself_and_in_a_batch(sd15):
    noise = sd15.noise(3)
    model, trace = probe(sd15.model)
    sd15.sample(model, noise=noise)
    for number in range(3):
        sd15.sample(model, noise=noise[number : number + 1])
        whole, alone = trace.runs[0], trace.runs[-1]
        for step, single in zip(whole.steps, alone.steps, strict=True):
            for chunk in ("positive", "negative"):
                got = step.values[step.samples.index((chunk, number))]
                want = single.values[single.samples.index((chunk, 0))]
                torch.testing.assert_close(got[[0, 2, 3]], want[[0, 2, 3]], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("sampler", "steps"), [("euler", 3), ("heun", 5), ("dpm_2", 5)])
def test_samplers_that_call_the_model_more_often_give_a_step_a_call(sd15, sampler, steps):
    model, trace = probe(sd15.model)
    with watch_attention(model) as calls:
        sd15.sample(model, steps=3, sampler=sampler)
    sigmas = list(dict.fromkeys(seen.sigma for seen in calls))
    assert [step.sigma for step in trace.runs[0].steps if step.sigma not in sigmas] == []
    assert len(trace.runs[0].steps) == steps
    assert_holds(sd15, calls[:14], dataclasses.replace(trace.runs[0], _steps=list(trace.runs[0].steps[:1])))


@pytest.mark.parametrize("is_apart", [False, True], ids=["cond and uncond together", "one call each"])
def test_only_every_nth_step_is_measured(sd15, is_apart):
    model, trace = probe(sd15.model, every_nth_step=3)
    whole, all_steps = probe(sd15.model)
    with little_memory(sd15.model) if is_apart else contextlib.nullcontext():
        for each in (model, whole):
            sd15.sample(each, steps=7)
    measured = trace.runs[0].steps
    assert [step.sigma for step in measured] == [step.sigma for step in all_steps.runs[0].steps[::3]]
    assert [sorted(name for name, _ in step.samples) for step in measured] == [["negative", "positive"]] * 3


def test_only_chosen_blocks_are_measured_and_a_wrong_one_is_refused(sd15):
    model, trace = probe(sd15.model, blocks="output.0-1")
    sd15.sample(model)
    assert trace.runs[0].addresses == trace.runs[0].sites == ("output.0.0", "output.1.0")
    with pytest.raises(ValueError, match='no attention site "double"'):
        probe(sd15.model, blocks="double")


def test_two_prompts_in_one_pass_are_told_apart(sd15):
    texts = [*sd15.conditioning("cond"), *sd15.conditioning("another")], sd15.conditioning("uncond")
    model, trace = probe(sd15.model)
    sd15.sample(model, texts=texts)
    assert set(trace.runs[0].passes) == {"positive", "positive 2", "negative"}
    assert len(trace.runs[0].steps) == STEPS
    one, two = (trace.runs[0].matrix("energy", chunk) for chunk in ("positive", "positive 2"))
    assert not torch.equal(one, two)


# --- patterns of the block input


@pytest.mark.parametrize(("name", "norm", "order"), INPUT_PATTERNS)
def test_input_patterns_are_the_blended_input_times_the_real_norm_ratio(families, name, norm, order):
    family = families[name]
    settings = {"gamma": 1.5, "beta": 3.0, "norm": norm}
    wanted = family.sample(skew(family.model, **settings)[0], steps=1)
    model, trace = through(order, family.model, patterns="input", **settings)
    with watch_attention(model) as calls:
        assert family.sample(model, steps=1).equal(wanted)
    (step,) = trace.runs[-1].steps
    assert trace.runs[-1].patterns == "input"
    for address in ("middle.0.0", family.sites[0]):
        seen = next(seen for seen in calls if not seen.is_cross and address_of(family, seen.path) == address)
        x = seen.x.double()[:, None].expand(-1, seen.q.shape[1], -1, -1)
        unguarded = definition.skew_attention(seen.q, seen.k, seen.v, 1.5, 3.0, norm="none")
        ratio = seen.out.double().norm(dim=-1, keepdim=True) / unguarded.norm(dim=-1, keepdim=True)
        patterns = ratio * definition.skew_attention(seen.q, seen.k, x, 1.5, 3.0, norm="none")
        if norm == "input":  # the paper's, stated without the detour
            direct = definition.skew_attention(seen.q, seen.k, x, 1.5, 3.0, norm="value")
            torch.testing.assert_close(patterns, direct, rtol=1e-3, atol=1e-4)
        want = definition.hopfield_stability(seen.q, seen.k, patterns, eigenvalues=False)
        for measure in ("energy", "alignment"):
            got = step.of(address)[:, trace.runs[-1].measures.index(measure)].double()
            close = 1e-3 * float(want[measure].mean(-1).abs().max())
            torch.testing.assert_close(got, want[measure].mean(-1), rtol=0, atol=close)


def test_input_patterns_of_a_plain_model_and_the_report_of_a_skewed_one(sd15):
    model, trace = probe(sd15.model, patterns="input")
    with watch_attention(model) as calls:
        assert sd15.sample(model).equal(sd15.picture)
    seen = next(seen for seen in calls if not seen.is_cross)
    x = seen.x.double()[:, None].expand(-1, seen.q.shape[1], -1, -1)
    patterns = definition.skew_attention(seen.q, seen.k, x, 1.0, norm="none")
    want = definition.hopfield_stability(seen.q, seen.k, patterns, eigenvalues=False)
    got = trace.runs[0].steps[0].of(address_of(sd15, seen.path))
    torch.testing.assert_close(got[:, 0].double(), want["energy"].mean(-1), rtol=1e-3, atol=1e-3)
    skewed, report = skew(probe(sd15.model, patterns="input")[0], beta=3.0, adaptive="gamma")
    sd15.sample(skewed)
    assert [call.attention_calls for call in report.runs[-1].calls] == [len(sd15.sites)] * STEPS
    assert all(len(call.symmetricity) == len(sd15.sites) for call in report.runs[-1].calls)


def test_joint_sites_are_measured_by_their_values_and_the_trace_says_so(flux):
    model, trace = probe(flux.model, patterns="input")
    other, values = probe(flux.model)
    for each in (model, other):
        assert flux.sample(each).equal(flux.picture)
    for step, same in zip(trace.runs[0].steps, values.runs[0].steps, strict=True):
        assert torch.equal(step.values, same.values)
    sentence = 'double.0: the input cannot be seen from outside, so patterns "value" were used instead.'
    assert sentence in trace.summary()


# --- maps over the picture


@pytest.mark.parametrize(
    ("name", "site", "grid"),
    [
        ("SD15", "input.1.0", (8, 12)),
        ("SD15", "middle.0.0", (4, 6)),
        ("SD3", "joint.1", (8, 8)),
        ("SD3 with image-only attention", "joint.0", (8, 8)),
        ("Flux", "single.2", (8, 8)),
    ],
)
def test_the_map_of_a_site_has_the_alignment_of_every_token_in_its_place(families, name, site, grid):
    family = families[name]
    model, trace = probe(family.model, map_site=site)
    with watch_attention(model) as calls:
        assert family.sample(model).equal(family.picture)
    (first, *_) = trace.runs[0].steps
    seen = next(seen for seen in calls if not seen.is_cross and address_of(family, seen.path) == site)
    q, k, out = image_block(family, seen)
    unit = out.double() - out.double().mean(dim=-2, keepdim=True)
    unit = unit / unit.norm(dim=-2, keepdim=True)
    field = definition.landscape(q, k) @ unit
    want = (q.shape[2] * unit * field / field.norm(dim=-2, keepdim=True)).mean(dim=-1).mean(dim=1).unflatten(-1, grid)
    assert list(first.maps) == [site]
    torch.testing.assert_close(first.maps[site].double(), want, rtol=2e-3, atol=2e-3)
    alignment = first.of(site)[:, trace.runs[0].measures.index("alignment")].mean(dim=-1)
    torch.testing.assert_close(first.maps[site].float().mean(dim=(1, 2)), alignment, rtol=0, atol=2e-3)


def test_large_maps_are_averaged_down_and_too_many_sites_refused(sd15, monkeypatch):
    whole, trace = probe(sd15.model, map_site="input.1.0")
    monkeypatch.setattr(probe_module, "LARGEST_MAP", 4)
    small, averaged = probe(sd15.model, map_site="input.1.0")
    for each in (whole, small):
        monkeypatch.setattr(probe_module, "LARGEST_MAP", 64 if each is whole else 4)
        sd15.sample(each)
    full = trace.runs[0].steps[0].maps["input.1.0"].float()
    want = full.unflatten(1, (4, 2)).unflatten(3, (4, 3)).mean(dim=(2, 4))
    torch.testing.assert_close(averaged.runs[0].steps[0].maps["input.1.0"].float(), want, rtol=0, atol=2e-3)
    with pytest.raises(ValueError, match='map_site "output, input" matches 6 sites, but at most 4'):
        probe(sd15.model, map_site="output, input")
    with pytest.raises(ValueError, match=r'no attention site "double".* Empty means none\.'):
        probe(sd15.model, map_site="double")
    with pytest.raises(ValueError, match=r'no attention site "double".* Empty means all\.'):
        probe(sd15.model, blocks="double")


def test_tokens_that_are_no_grid_over_the_picture_have_no_map():
    grids = {(96, 8, 12): (8, 12), (24, 8, 12): (4, 6), (35, 14, 10): (7, 5), (20, 7, 9): (4, 5), (50, 8, 12): None}
    for (tokens, height, width), grid in grids.items():
        assert token_grid(tokens, height, width) == grid


# --- beside other packs


@pytest.mark.parametrize("order", ["theirs first", "ours first"])
def test_the_probe_sees_the_result_of_another_packs_override(sd15, order):
    loud = with_override(sd15.model, louder)
    if order == "theirs first":
        model, trace = probe(loud)
    else:
        model, trace = probe(sd15.model)
        model = with_override(model, louder)
    assert sd15.sample(model).equal(sd15.sample(loud))
    with watch_attention(model) as calls:
        sd15.sample(model)
    assert_holds(sd15, calls, trace.runs[-1])


def test_calls_that_are_not_square_are_skipped_and_noted(sd15):
    def theirs(model):
        settings = {"tile_size": 32, "swap_size": 2, "max_depth": 0, "scale_depth": False}
        return execute(HyperTile, model=model, **settings)[0]

    torch.manual_seed(0)
    wanted = sd15.sample(theirs(sd15.model))
    model, trace = probe(theirs(sd15.model))
    torch.manual_seed(0)
    assert sd15.sample(model).equal(wanted)
    (run,) = trace.runs
    assert set(run.addresses) == set(sd15.sites) - {"input.1.0", "output.2.0", "output.3.0"}
    assert "input.1.0 was not measured at some steps: queries and keys are not the same tokens." in run.summary()


@pytest.mark.parametrize("probes_after", [0, 1, 2])
def test_two_probes_record_the_same(sd15, probes_after):
    wanted = sd15.sample(skew(sd15.model, beta=3.0)[0])
    model, traces = sd15.model, []
    for number in range(3):
        if number == 2 - probes_after:
            model = skew(model, beta=3.0)[0]
        else:
            model, trace = probe(model)
            traces.append(trace)
    assert sd15.sample(model).equal(wanted)
    one, two = (trace.runs[0] for trace in traces)
    assert len(one.steps) == STEPS
    for step, same in zip(one.steps, two.steps, strict=True):
        assert torch.equal(step.values, same.values)


def test_two_probes_of_a_plain_model_record_the_same(sd15):
    first, one = probe(sd15.model)
    both, two = probe(first)
    assert sd15.sample(both).equal(sd15.picture)
    for step, same in zip(one.runs[0].steps, two.runs[0].steps, strict=True):
        assert torch.equal(step.values, same.values)


@pytest.mark.newest
@pytest.mark.parametrize(
    ("is_skewed", "widgets"), [(False, {}), (True, {"depth_and_curvature": True, "map_site": "single.0"})]
)
def test_a_compiled_model_is_measured_like_an_uncompiled_one(small_flux, is_skewed, widgets):
    torch._dynamo.reset()
    base = skew(small_flux.model, 0.2)[0] if is_skewed else small_flux.model
    wanted = small_flux.sample(base)
    model, trace = probe(base, **widgets)
    sampled = small_flux.sample(compiled(model, fullgraph=compiles_whole()))
    torch.testing.assert_close(sampled, wanted, rtol=1e-4, atol=1e-4)
    assert small_flux.sample(model).equal(wanted)
    in_graph, plain = trace.runs
    assert (in_graph.addresses, in_graph.measures) == (plain.addresses, plain.measures)
    assert len(in_graph.steps) == len(plain.steps) == STEPS
    for step, same in zip(in_graph.steps, plain.steps, strict=True):
        torch.testing.assert_close(step.values, same.values, rtol=1e-3, atol=2e-3)
        assert list(step.maps) == list(same.maps) == [widgets[name] for name in ("map_site",) if name in widgets]
    assert in_graph.gamma in ("", plain.gamma)


class Picky:
    """Another pack's override that takes only packed layouts, and changes its answer with every seventh call."""

    def __init__(self):
        self.calls = 0

    def __call__(self, function, q, k, v, heads, mask=None, **keyword):
        if v.stride(1) == 0:
            raise ValueError("expanded values")
        self.calls += 1
        return function(q, k, v, heads, mask=mask, **keyword) * (1.5 if self.calls % 7 == 0 else 1.0)


@pytest.mark.parametrize("is_skewed", [False, True])
def test_an_override_that_counts_its_calls_counts_none_of_ours(sd15, is_skewed):
    """Input patterns would need further calls of it, so those sites are measured by the values."""

    def through_picky(model):
        base = with_override(model, Picky())
        return skew(base, beta=3.0)[0] if is_skewed else base

    wanted = sd15.sample(through_picky(sd15.model))
    model, trace = probe(through_picky(sd15.model), patterns="input")
    assert sd15.sample(model).equal(wanted)
    assert not trace.is_empty
    assert 'another pack\'s override computes the attention, so patterns "value" were used' in trace.summary()


@pytest.mark.parametrize("place", ["take", "results", "input_patterns"])
def test_what_goes_wrong_in_measuring_costs_neither_picture_nor_run(sd15, monkeypatch, place):
    def broken(*_):
        raise ValueError("a measure is broken")

    monkeypatch.setattr(probe_module if place == "input_patterns" else StabilityBatch, place, broken)
    model, trace = probe(sd15.model, patterns="input")
    assert sd15.sample(model).equal(sd15.picture)
    assert "a measure is broken" in trace.summary()
    assert "No attention site was reached" not in trace.summary()


def test_a_failed_run_is_not_called_interrupted_nor_unreached(sd15):
    model, trace = probe(sd15.model)

    def fails(*_):
        raise ArithmeticError("boom")

    with pytest.raises(ArithmeticError):
        sd15.sample(model, callback=fails)
    assert "failed (ArithmeticError)" in trace.summary()
    assert "No attention site was reached" not in trace.summary()


@pytest.mark.parametrize(
    ("shape", "has_map"),
    [((1, 4, 8, 12), True), ((1, 4, 1, 8, 12), True), ((1, 4, 3, 8, 12), False), ((1, 8, 96), False)],
)
def test_maps_are_drawn_only_over_pictures(shape, has_map):
    """Tokens of a video or of a sound may happen to fit a grid, and are no picture."""
    assert (token_grid(96, *image_size(torch.zeros(shape))) is not None) == has_map


# --- one run, and what it leaves behind


def test_a_run_can_be_read_while_it_goes_on_and_is_marked_when_cancelled(sd15):
    model, trace = probe(sd15.model)
    sigmas = []

    def look(step, *_):
        sigmas.append(trace.last_step.sigma)
        assert trace.runs[-1].status == "running"
        if step == 1:
            raise comfy.model_management.InterruptProcessingException

    with pytest.raises(comfy.model_management.InterruptProcessingException):
        sd15.sample(model, steps=4, callback=look)
    assert [step.sigma for step in trace.runs[0].steps] == sigmas
    assert (len(sigmas), trace.runs[0].status) == (2, "interrupted")


def test_two_runs_are_told_apart(sd15):
    model, trace = probe(sd15.model)
    assert "No sampling run has gone through this probe yet" in trace.summary()
    sd15.sample(model, seed=1)
    sd15.sample(model, steps=3, noise=sd15.noise(2))
    assert [len(run.steps) for run in trace.runs] == [STEPS, 3]
    assert trace.summary().startswith("Run 2 of 2. SD15, finished")


@pytest.mark.parametrize("is_cancelled", [False, True])
def test_nothing_of_a_run_is_left_in_the_patch(family, is_cancelled):
    model, trace = probe(family.model)
    if is_cancelled:
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            family.sample(model, callback=stop_at(0))
    else:
        family.sample(model)
    (patch,) = patches_of(model)
    assert patch.run is None
    assert (patch.state.active, patch.state.found, patch.state.batch) == (False, [], StabilityBatch())
    assert all(step.values.device.type == "cpu" for run in trace.runs for step in run.steps)
    alive = weakref.ref(patch)
    del model, patch
    family.sample()
    gc.collect()
    assert alive() is None


def test_an_error_while_measuring_leaves_the_picture_whole(sd15, monkeypatch):
    def fails(*arguments):
        raise RuntimeError("no memory for this\nand more")

    monkeypatch.setattr(StabilityBatch, "take", fails)
    model, trace = probe(sd15.model, blocks="middle")
    assert sd15.sample(model).equal(sd15.picture)
    assert "middle.0.0 was not measured at some steps: no memory for this." in trace.summary()


def test_a_model_spread_over_two_devices_is_measured_whole(sd15):
    model, trace = probe(skew(on_two_devices(sd15))[0])
    sd15.sample(model)
    alone, wanted = probe(skew(sd15.model)[0])
    sd15.sample(alone)
    for chunk in ("positive", "negative"):
        got, want = (each.runs[0].matrix("energy", chunk) for each in (trace, wanted))
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-3 * float(want.abs().max()))


@pytest.mark.parametrize(
    ("name", "nodes"),
    [
        ("SD15", [{"gamma": 1.5, "apply_to": "cond"}]),
        ("SD15", [{"gamma": 0.5, "apply_to": "uncond"}, {"gamma": 1.5, "apply_to": "cond"}]),
        ("Flux", [{"gamma": 1.5, "gamma_text": 0.5}]),
    ],
)
def test_a_trace_names_no_gamma_where_it_is_not_one_number(families, name, nodes):
    model = families[name].model
    for widgets in nodes:
        model, _ = skew(model, **widgets)
    model, trace = probe(model)
    families[name].sample(model)
    assert trace.runs[0].gamma == ""
