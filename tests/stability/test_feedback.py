"""Feedback: γ by step against a plain statement of the controller; each sample by itself, several calls a step."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.testing.made_up_runs import MEASURES, a_run
from sad_core import StabilityBaseline
from sad_core.stability.feedback import AWAY, DIRECTIONS, TOWARD, FeedbackSettings, SampleFeedback
from sad_core.stability.run import StabilityRun
from sad_core.stability.score import StabilityScore

KEYS = (("input.1.0", "positive"), ("middle.0.0", "positive"), ("middle.0.0", "negative"))


def values_of(numbers) -> dict:
    return dict(zip(KEYS, numbers, strict=True))


def gammas_of(chosen: FeedbackSettings, by_step, without) -> list[float]:
    """γ at every step, with one evaluation a step."""
    feedback, steps = SampleFeedback(chosen), len(by_step)
    found = []
    for step, numbers in enumerate(by_step):
        found.append(feedback.gamma(step, step / steps, without[step]))
        feedback.observe(step, step / steps, values_of(numbers))
    return found


def moved(chosen: FeedbackSettings, gamma: float, added: float) -> float:
    other = 1 + (1 if gamma > 1 else -1) * max(abs(gamma - 1) + added, 0)
    return max(min(chosen.lowest, gamma), min(max(chosen.highest, gamma), other))


def stated(chosen: FeedbackSettings, by_step, without) -> list[float]:
    """The same in one plain loop, against the zero of the run's own first steps."""
    first, steps = chosen.first_steps, len(by_step)
    added, fallen = 0.0, False
    found: list[float] = []
    seen: list[list[float]] = []
    for step in range(steps):
        gamma = without[step]
        if len(seen) > first and not fallen:
            early = [number for numbers in seen[:first] for number in numbers]
            zero, size = sum(early) / len(early), (sum(each * each for each in early) / len(early)) ** 0.5
            error = (sum(seen[-1]) / len(KEYS) - zero) / size if size else None
            if error is not None and chosen.fall_back and error < -chosen.fall_back:
                fallen = True
            elif error is not None:
                strength = chosen.gain * max(abs(error) - chosen.dead_band, 0)
                if (error < 0) == (chosen.direction == TOWARD):
                    strength = -strength
                wanted = abs(moved(chosen, gamma, strength) - 1) - abs(gamma - 1) if strength else 0.0
                added = max(added - chosen.most_change, min(added + chosen.most_change, wanted))
        if gamma != 1 and fallen:
            gamma = 1.0
        elif gamma != 1 and added:
            gamma = moved(chosen, gamma, added)
        found.append(gamma)
        seen.append(numbers := by_step[step])
        assert len(numbers) == len(KEYS)
    return found


NUMBERS = st.floats(-2, 2).map(lambda number: round(number, 3))
STEPS = st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS), min_size=1, max_size=12)
CONTROL = st.fixed_dictionaries(
    {
        "gain": st.sampled_from([0.0, 0.05, 0.7]),
        "direction": st.sampled_from(DIRECTIONS),
        "dead_band": st.sampled_from([0.0, 0.4]),
        "most_change": st.sampled_from([0.01, 0.3]),
        "lowest": st.sampled_from([0.5, 0.9]),
        "highest": st.sampled_from([1.1, 1.6]),
        "first_steps": st.integers(1, 4),
        "fall_back": st.sampled_from([0.0, 1.0]),
    }
)


@given(by_step=STEPS, control=CONTROL, start=st.sampled_from([0.4, 0.95, 1.0, 1.2, 1.8]), slope=st.floats(-0.05, 0.05))
@settings(max_examples=100)
def test_gamma_is_what_the_plain_loop_says(by_step, control, start, slope):
    chosen, without = FeedbackSettings(**control), [start + slope * step for step in range(len(by_step))]
    got, want = gammas_of(chosen, by_step, without), stated(chosen, by_step, without)
    assert got == pytest.approx(want, abs=1e-12)


@given(by_step=STEPS, control=CONTROL, gamma=st.floats(-2, 3))
def test_gain_0_leaves_gamma_as_it_is_to_the_bit(by_step, control, gamma):
    chosen = FeedbackSettings(**{**control, "gain": 0.0, "fall_back": 0.0})
    assert gammas_of(chosen, by_step, [gamma] * len(by_step)) == [gamma] * len(by_step)


@settings(max_examples=40)
@given(by_step=STEPS, control=CONTROL, calls=st.lists(st.integers(1, 3), min_size=12, max_size=12), data=st.data())
def test_several_calls_a_step_and_steps_back_get_one_gamma_a_step(by_step, control, calls, data):
    """A further call at a step, its prompts one by one in any order, and a step back ask for a γ that is decided."""
    chosen, steps = FeedbackSettings(**control), len(by_step)
    once, often = SampleFeedback(chosen), SampleFeedback(chosen)
    decided: dict[int, float] = {}
    for step, numbers in enumerate(by_step):
        decided[step] = once.gamma(step, step / steps, 1.3)
        once.observe(step, step / steps, values_of(numbers))
        for _ in range(calls[step]):
            assert often.gamma(step, step / steps, 1.3) == pytest.approx(decided[step], abs=1e-12)
            for key in data.draw(st.permutations(KEYS)):
                often.observe(step, step / steps, {key: values_of(numbers)[key]})
        earlier = data.draw(st.integers(0, step))
        assert often.gamma(earlier, earlier / steps, 1.3) == pytest.approx(decided[earlier], abs=1e-12)


def drifting(by: float, steps: int = 10) -> list[tuple[float, float, float]]:
    """A score of 1 over the first 3 steps, then another."""
    return [(1.0, 1.0, 1.0)] * 3 + [(1.0 + by,) * 3] * (steps - 3)


@pytest.mark.parametrize("gamma", [1.3, 0.7])
@pytest.mark.parametrize(
    ("direction", "by", "nearer"),
    [
        (TOWARD, -1.0, True),
        (TOWARD, 1.0, False),
        (AWAY, -1.0, False),
        (AWAY, 1.0, True),
    ],
)
def test_gamma_goes_toward_1_or_away_from_it_as_the_user_says(gamma, direction, by, nearer):
    chosen = FeedbackSettings(direction=direction, gain=0.2, dead_band=0.5, most_change=0.03, lowest=0.65, highest=1.35)
    got = gammas_of(chosen, drifting(by), [gamma] * 10)
    assert got[:4] == [gamma] * 4  # the first steps make the zero
    distances = [abs(each - 1) for each in got]
    changes = [abs(one - other) for one, other in pairwise(got)]
    assert max(changes) <= 0.03 + 1e-12
    assert all(0.65 - 1e-12 <= each <= 1.35 + 1e-12 for each in got)
    assert (distances[-1] < distances[0]) is nearer
    limit = 0.2 if nearer else 0.35  # gain × (deviation less dead band), or the bound
    assert distances[-1] == pytest.approx(limit)


def test_a_deviation_within_the_dead_band_moves_nothing():
    assert gammas_of(FeedbackSettings(dead_band=0.5), drifting(0.49), [1.2] * 10) == [1.2] * 10
    assert gammas_of(FeedbackSettings(dead_band=0.5), drifting(0.51), [1.2] * 10) != [1.2] * 10


def test_a_run_that_falls_back_stays_at_1_outside_the_window_too():
    chosen = FeedbackSettings(StabilityScore(end=0.6), fall_back=0.8, gain=0.0, first_steps=2)
    by_step = [(1.0, 1.0, 1.0)] * 3 + [(0.1, 0.1, 0.1)] + [(1.0, 1.0, 1.0)] * 6
    assert gammas_of(chosen, by_step, [1.4] * 10) == [1.4] * 4 + [1.0] * 6


def test_feedback_is_off_outside_its_window():
    chosen = FeedbackSettings(StabilityScore(start=0.3, end=0.7), first_steps=1, gain=0.2)
    got = gammas_of(chosen, [(1.0 - 0.2 * step,) * 3 for step in range(10)], [1.3] * 10)
    assert got[:5] == [1.3] * 5  # the step at 0.3 is the zero, that at 0.4 the first that is held against it
    assert got[7:] == [1.3] * 3
    assert all(each != 1.3 for each in got[6:7])


def test_a_long_part_in_which_nobody_asks_is_followed_all_the_same():
    """Skew Attention begins late. Earlier measurements count, and no number of steps is too large."""
    chosen, steps = FeedbackSettings(gain=0.2, most_change=0.001), 3000
    late, asked = SampleFeedback(chosen), SampleFeedback(chosen)
    for step, numbers in enumerate(drifting(-1.0, steps)):
        asked.gamma(step, step / steps, 1.3)
        for each in (late, asked):
            each.observe(step, step / steps, values_of(numbers))
    assert late.gamma(steps, 1.0, 1.3) == asked.gamma(steps, 1.0, 1.3) != 1.3


def test_a_score_that_is_not_known_moves_nothing():
    chosen = FeedbackSettings(gain=0.2, dead_band=0.0)
    feedback = SampleFeedback(chosen)
    for step, numbers in enumerate(drifting(-1.0)):
        feedback.gamma(step, step / 10, 1.3)
        feedback.observe(step, step / 10, {} if step == 5 else values_of(numbers))
    assert feedback.gamma(6, 0.6, 1.3) == feedback.gamma(5, 0.5, 1.3) != 1.3
    assert feedback.gamma(7, 0.7, 1.3) != feedback.gamma(6, 0.6, 1.3)
    constant = gammas_of(chosen, [(0.0, 0.0, 0.0)] * 10, [1.3] * 10)
    assert constant == [1.3] * 10  # a measure of size 0 has no unit


# --- against a baseline


def test_with_a_baseline_the_deviation_is_in_its_standard_deviations():
    baseline = StabilityBaseline.from_runs([a_run(seed) for seed in range(5)])
    chosen = FeedbackSettings(StabilityScore("energy", sites="middle"), baseline=baseline)
    run: StabilityRun = a_run(77, steps=4, samples=2)
    by_sample = {number: SampleFeedback(chosen) for number in (0, 1)}
    for place, step in enumerate(run.steps):
        for number, values in chosen.score.values(step, run.measures).items():
            by_sample[number].observe(place, step.progress, values)
    scored = baseline.z_scores(run)
    for place, step in enumerate(scored.steps):
        for number, feedback in by_sample.items():
            rows = [row for row, sample in enumerate(step.samples) if sample.number == number]
            found = [float(step.of("middle.0.0")[row, MEASURES.index("energy"), 0]) for row in rows]
            assert feedback.deviation(place) == pytest.approx(-sum(found) / len(found), rel=1e-5)
    assert feedback.gamma(1, 0.25, 1.3) != 1.3  # there is no first step to wait for


def test_a_baseline_without_any_spread_is_refused():
    """One short run of one image: feedback would do nothing without a word."""
    baseline = StabilityBaseline.from_runs([a_run(0, steps=5, samples=1)])
    with pytest.raises(ValueError, match=r"no spread of alignment.*images in it: 1\)\. Add a run with other seeds"):
        FeedbackSettings(baseline=baseline)


def test_what_a_baseline_does_not_know_moves_nothing():
    baseline = StabilityBaseline.from_runs([a_run(seed, steps=5) for seed in range(3)])
    feedback = SampleFeedback(FeedbackSettings(baseline=baseline, gain=1.0, dead_band=0.0))
    feedback.observe(0, 0.15, {KEYS[0]: 9.0})  # no step of the baseline lies in this tenth
    assert feedback.deviation(0) is None
    assert feedback.gamma(1, 0.2, 1.3) == 1.3


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"gain": -1.0}, "gain is -1, but it must be 0 or more"),
        ({"most_change": math.inf}, "most_change is inf"),
        ({"lowest": 1.2, "highest": 1.1}, "lowest_gamma is 1.2 and highest_gamma 1.1"),
        ({"first_steps": 0}, "first_steps is 0"),
        ({"direction": "up"}, 'direction is "up", but it must be one of toward 1, away from 1'),
        ({"score": StabilityScore("depth"), "baseline": True}, 'measure is "depth", but the baseline has only energy'),
        ({"score": StabilityScore(sites="output"), "baseline": True}, 'sites is "output", but the baseline has none'),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, sentence):
    if options.get("baseline"):
        options = {**options, "baseline": StabilityBaseline.from_runs([a_run(0, steps=3)])}
    with pytest.raises(ValueError, match=sentence):
        FeedbackSettings(**options)


def test_the_settings_are_reported_in_a_line():
    chosen = FeedbackSettings(StabilityScore("energy", "middle", end=0.5), fall_back=2.0)
    assert chosen.describe() == (
        "γ follows energy of middle from 0% to 50% of the run, compared with the first 3 steps: gain 0.05, "
        "direction toward 1, dead band 0, at most 0.02 per step, γ from -2 to 3, back to 1 at 2 units less stable than "
        "normal"
    )
