"""The score of a sample at a step, against plain loops; it depends on nothing but the sample's own numbers."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sad_core.stability.measures import TRACE_MEASURES
from sad_core.stability.run import StabilityRun
from sad_core.stability.score import SIGNS, StabilityScore
from sad_core.stability.step import Sample

SITES = (("input.1.0", 2), ("input.10.0", 3), ("middle.0.0", 3), ("middle.0.0#2", 1))
PASSES = ("positive", "negative")


def sample_values(seed: int, samples: int = 3) -> dict[str, torch.Tensor]:
    """`(passes × samples, measures, heads)` by site, the passes one after the other."""
    generator = torch.Generator().manual_seed(seed)
    rows = len(PASSES) * samples
    return {address: torch.randn(rows, len(TRACE_MEASURES), heads, generator=generator) for address, heads in SITES}


def filled(steps: int = 5, samples: int = 3) -> StabilityRun:
    run = StabilityRun("SD15", tuple(address for address, _ in SITES if "#" not in address), TRACE_MEASURES)
    names = [Sample(name, number) for name in PASSES for number in range(samples)]
    for step in range(steps):
        run.record(10.0 - step, step / steps, names, sample_values(step, samples))
    return run


def stated(step: int, number: int, column: int, addresses, passes=PASSES) -> float:
    """The mean over sites and passes of the mean over heads, in plain loops over Python's numbers."""
    found = []
    for address in addresses:
        for place, name in enumerate(PASSES):
            if name in passes:
                heads = sample_values(step)[address][3 * place + number, column].tolist()
                found.append(sum(heads) / len(heads))
    return sum(found) / len(found)


@pytest.mark.parametrize("measure", TRACE_MEASURES)
@pytest.mark.parametrize(
    ("sites", "addresses"),
    [
        ("", [address for address, _ in SITES]),
        ("input.1", ["input.1.0"]),
        ("input", ["input.1.0", "input.10.0"]),
        (" middle.0.0 , input.10", ["input.10.0", "middle.0.0", "middle.0.0#2"]),
    ],
)
def test_a_score_is_the_signed_mean_over_sites_passes_and_heads(measure, sites, addresses):
    run, column = filled(), TRACE_MEASURES.index(measure)
    for number, step in enumerate(run.steps):
        got = StabilityScore(measure, sites).of_step(step, run.measures)
        for sample in range(3):
            want = SIGNS[measure] * stated(number, sample, column, addresses)
            assert got[sample] == pytest.approx(want, rel=1e-9, abs=1e-12)
    assert StabilityScore(measure, sites, sign=1).of_step(step, run.measures)[0] == SIGNS[measure] * got[0]


def test_a_score_of_a_run_is_the_mean_over_the_window():
    run, column = filled(), TRACE_MEASURES.index("alignment")
    every = [address for address, _ in SITES]
    got = StabilityScore("alignment", start=0.2, end=0.6).of_run(run)  # the steps at 0.2 and 0.4
    for sample in range(3):
        want = sum(stated(step, sample, column, every) for step in (1, 2)) / 2
        assert got[sample] == pytest.approx(want, rel=1e-9)
    assert StabilityScore("alignment", start=0.8).of_run(run)[1] == pytest.approx(stated(4, 1, column, every))


def test_a_pass_can_be_scored_by_itself_by_its_old_name_too():
    run, every = filled(), [address for address, _ in SITES]
    for name in ("negative", "uncond"):
        got = StabilityScore(pass_name=name).of_step(run.steps[0], run.measures)
        want = stated(0, 2, TRACE_MEASURES.index("alignment"), every, ("negative",))
        assert got[2] == pytest.approx(want, rel=1e-9)


@given(order=st.permutations(range(6)), kept=st.integers(1, 6), seed=st.integers(0, 50))
def test_batch_mates_and_the_order_of_rows_change_no_bit_of_a_score(order, kept, seed):
    values, names = sample_values(seed), [Sample(name, number) for name in PASSES for number in range(3)]
    scores = []
    for rows in (range(6), order[:kept]):
        run = StabilityRun("SD15", tuple(values), TRACE_MEASURES)
        run.record(1.0, 0.5, [names[row] for row in rows], {key: each[list(rows)] for key, each in values.items()})
        scores.append(StabilityScore("energy").of_step(run.steps[0], run.measures))
    complete = [number for number in range(3) if {number, number + 3} <= set(order[:kept])]
    assert all(scores[0][number] == scores[1][number] for number in complete)


def test_what_is_no_number_is_left_out_and_a_sample_without_any_has_none():
    values = sample_values(0)
    values["middle.0.0"][0] = math.nan
    run = StabilityRun("SD15", tuple(values), TRACE_MEASURES)
    run.record(1.0, 0.5, [Sample(name, number) for name in PASSES for number in range(3)], values)
    (step,) = run.steps
    assert math.isfinite(StabilityScore(sites="middle").of_step(step, run.measures)[0])
    assert math.isnan(StabilityScore(sites="middle.0.0", pass_name="third").of_step(step, run.measures)[0])
    values["middle.0.0"][3] = values["middle.0.0#2"][[0, 3]] = math.inf
    run.record(0.5, 0.6, [Sample(name, number) for name in PASSES for number in range(3)], values)
    found = StabilityScore(sites="middle").of_run(run)
    assert found[0] == StabilityScore(sites="middle").of_step(step, run.measures)[0]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"measure": "calm"}, 'measure is "calm", but it must be one of energy'),
        ({"start": 0.5, "end": 0.5}, "start is 0.5 and end 0.5"),
        ({"sign": 2}, "sign is 2"),
    ],
)
def test_a_score_that_makes_no_sense_is_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        StabilityScore(**options)


def test_a_trace_without_what_a_score_asks_for_is_refused():
    run = filled()
    with pytest.raises(ValueError, match="is empty, so it has no score"):
        StabilityScore().of_run(StabilityRun("SD15", ("middle.0.0",)))
    with pytest.raises(
        ValueError, match=r'sites is "output", but the trace has none of these sites\. It has input.1.0'
    ):
        StabilityScore(sites="output").of_run(run)
    with pytest.raises(ValueError, match=r"No step lies between 0.9 and 1\. The trace goes from 0 to 0.8"):
        StabilityScore(start=0.9).of_run(run)
    cheap = StabilityRun("SD15", ("a",), ("energy",))
    cheap.record(1.0, 0.0, [Sample("positive", 0)], {"a": torch.ones(1, 1, 1)})
    with pytest.raises(ValueError, match='measure is "depth", but it must be one of energy'):
        StabilityScore("depth").of_run(cheap)
