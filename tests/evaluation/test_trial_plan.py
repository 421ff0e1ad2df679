"""A budget becomes a number of seeds: within it, as many as fit, other ones to report than to choose."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sad_core.evaluation.trial.plan import FEWEST_SEEDS, MOST_SEEDS, Plan, plan_trial, prompts_of
from sad_core.evaluation.trial.ways import LADDER, PLAIN, RIVALS

FEWEST = FEWEST_SEEDS * (1 + len(LADDER)) + FEWEST_SEEDS * 2  # without rivals


def test_every_way_has_a_name_and_the_ladder_has_no_gamma_one():
    names = [way.name for way in (PLAIN, *LADDER, *RIVALS)]
    assert len(set(names)) == len(names)
    assert PLAIN.turns_gamma_alone
    assert {way.gamma for way in LADDER if way.turns_gamma_alone} == {0.8, 1.2, 1.5, 2.0}
    assert any(way.end < 1 for way in LADDER)


@given(st.floats(0.1, 1000), st.floats(0.01, 100))
def test_a_plan_keeps_its_budget_and_uses_it(minutes, seconds):
    if 60 * minutes / seconds < FEWEST:
        with pytest.raises(ValueError, match=r"which is enough for \d+ images of .* s, but a trial needs"):
            plan_trial(minutes, seconds)
        return
    plan = plan_trial(minutes, seconds)
    assert plan.pictures * seconds <= 60 * minutes * (1 + 1e-9)
    assert FEWEST_SEEDS <= plan.choice_seeds <= MOST_SEEDS
    assert FEWEST_SEEDS <= plan.report_seeds <= MOST_SEEDS
    one_more = (plan.pictures + 2 + len(plan.rivals)) * seconds
    assert plan.report_seeds == MOST_SEEDS or one_more > 60 * minutes * (1 - 1e-9)
    assert plan.rivals == RIVALS or "There is no time for no guidance in the first fifth and temporal" in plan.left_out


def test_fifteen_minutes_of_eight_seconds_a_picture():
    plan = plan_trial(15, 8)
    assert (plan.choice_seeds, plan.report_seeds, plan.rivals) == (7, 17, RIVALS)
    assert plan.describe(8) == (
        "An image takes 8 s, so the plan is 7 seeds of 6 settings to choose from and 17 other seeds of 4 to report: "
        "110 pictures in 14.7 minutes."
    )


def test_what_is_left_out_before_stays_said():
    plan = plan_trial(4.5, 8, rivals=RIVALS[1:], left_out="There is no guidance to switch off.")
    assert plan.rivals == ()
    assert plan.left_out.startswith("There is no guidance to switch off. There is no time for temporal score rescaling")
    assert plan.describe(8).endswith(plan.left_out)


def test_the_report_takes_the_time_that_is_left():
    plan = Plan(8, 20)
    assert plan.with_time_left(400, 2).report_seeds == 50
    assert plan.with_time_left(-5, 2).report_seeds == FEWEST_SEEDS
    assert plan.with_time_left(1e6, 2).report_seeds == MOST_SEEDS
    assert plan.with_time_left(400, 2).choice_seeds == 8


def test_rivals_are_dropped_where_the_time_left_is_too_short_for_them():
    plan = Plan(8, 20, left_out="A rival means nothing here.")
    assert plan.with_time_left(32, 2).rivals == RIVALS
    late = plan.with_time_left(31, 2)
    assert (late.report_seeds, late.rivals) == (7, ())
    assert late.left_out.startswith("A rival means nothing here. There is no time left for no guidance in the first")


def test_no_part_has_more_seeds_than_the_most():
    plan = plan_trial(1000, 1, most_seeds=6)
    assert (plan.choice_seeds, plan.report_seeds) == (6, 6)
    assert plan.with_time_left(1e6, 1).report_seeds == 6
    with pytest.raises(ValueError, match="most_seeds is 3, but it must be from 4 to 192"):
        plan_trial(1000, 1, most_seeds=3)


@pytest.mark.parametrize("minutes", [0, -1, float("nan"), 1e6])
def test_what_is_no_budget_is_refused(minutes):
    with pytest.raises(ValueError, match=r"minutes is .*, but it must be above 0 and at most 1440\. Try 15"):
        plan_trial(minutes, 1)


def test_too_little_time_says_how_much_is_needed():
    with pytest.raises(ValueError, match=r"enough for 7 images of 8 s, but a trial needs 32. Set minutes to 5"):
        plan_trial(1, 8)
    assert plan_trial(5, 8).pictures >= 32


@given(st.integers(4, 192), st.integers(1, 40))
def test_every_prompt_that_is_used_gets_four_seeds_or_more(seeds, prompts):
    found = prompts_of(seeds, prompts)
    counts = [found.count(prompt) for prompt in sorted(set(found))]
    assert len(found) == seeds
    assert min(counts) >= 4
    assert max(counts) - min(counts) <= 1
    assert len(counts) == min(prompts, seeds // 4)
