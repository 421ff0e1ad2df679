"""A budget becomes a number of seeds: within it, as many as fit, other ones to report than to choose."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sad_core.evaluation.trial.plan import (
    COSTS,
    FEWEST_SEEDS,
    MOST_SEEDS,
    SEEDS_A_PROMPT,
    SHARE_AROUND,
    Plan,
    plan_trial,
    prompts_of,
    used_prompts,
)
from sad_core.evaluation.trial.ways import LADDER, PLAIN, RIVALS

FEWEST = FEWEST_SEEDS * (1 + len(LADDER)) + FEWEST_SEEDS * 2  # without rivals and costs


def test_every_way_has_a_name_and_the_ladder_has_no_gamma_one():
    names = [way.name for way in (PLAIN, *LADDER, *RIVALS)]
    assert len(set(names)) == len(names)
    assert PLAIN.turns_gamma_alone
    assert {way.gamma for way in LADDER if way.turns_gamma_alone} == {0.8, 1.2, 1.5, 2.0}
    assert any(way.end < 1 for way in LADDER)


@given(st.floats(0.1, 1000), st.floats(0.01, 100))
def test_a_plan_keeps_its_budget_and_uses_it(minutes, seconds):
    usable = 60 * minutes * (1 - SHARE_AROUND) / seconds  # pictures
    if math.floor(usable) < FEWEST:
        with pytest.raises(
            ValueError, match=r"which is only enough for \d+ images of .* s, but a trial needs 32\. Set"
        ):
            plan_trial(minutes, seconds)
        bare = plan_trial(minutes, seconds, has_begun=True)
        assert (bare.pictures, bare.rivals, bare.costs) == (FEWEST, (), 0)
        return
    plan = plan_trial(minutes, seconds)
    assert plan.pictures <= usable * (1 + 1e-9)
    for seeds in (plan.choice_seeds, plan.report_seeds):
        assert FEWEST_SEEDS <= seeds <= MOST_SEEDS
        assert seeds % SEEDS_A_PROMPT == 0
    one_more = plan.pictures + SEEDS_A_PROMPT * (2 + len(plan.rivals))
    assert plan.report_seeds == MOST_SEEDS or one_more > usable * (1 - 1e-9)
    assert plan.costs == COSTS or "The cost of other settings is left out, because " in plan.left_out
    assert plan.rivals == RIVALS or '"no guidance in the first fifth" and "temporal' in plan.left_out


def test_fifteen_minutes_of_eight_seconds_a_picture():
    plan = plan_trial(15, 8)
    assert (plan.choice_seeds, plan.report_seeds, plan.rivals) == (4, 16, RIVALS)
    assert plan.describe(8) == (
        "An image takes 8 s. First, 4 seeds of each of 6 settings are sampled, to choose a γ. Then 16 other seeds of "
        "each of 4 settings are sampled, for the report. Last, 8 images are sampled only to time other settings. That "
        "makes 96 images in 12.8 minutes."
    )


def test_what_there_is_no_time_for_is_left_out_in_turn_and_said():
    for pictures, rivals, costs in ((48, 2, 2), (47, 2, 0), (40, 2, 0), (39, 0, 0), (32, 0, 0)):
        plan = plan_trial(pictures / 60 / (1 - SHARE_AROUND) + 1e-6, 1)
        assert (len(plan.rivals), plan.costs) == (rivals, costs), pictures
        assert plan.pictures <= pictures
    plan = plan_trial(4.8, 8, rivals=RIVALS[1:], left_out="There is no guidance to switch off.")
    assert plan.left_out == (
        "There is no guidance to switch off. The cost of other settings is left out, because 4.8 minutes are only "
        'enough for 34 images. "temporal score rescaling 0.95" is left out, because 4.8 minutes are only enough for 34 '
        "images."
    )
    assert plan.describe(8).endswith(plan.left_out)


def test_the_report_takes_the_time_that_is_left():
    plan = Plan(10, 8, 20)
    assert plan.with_time_left(170, 2).report_seeds == 48  # 400 s are 200 pictures, 8 of them for costs
    assert plan.with_time_left(0, 0.01).report_seeds == MOST_SEEDS
    late = plan.with_time_left(600, 2)
    assert (late.report_seeds, late.choice_seeds, late.rivals, late.costs) == (FEWEST_SEEDS, 8, (), 0)


def test_costs_and_then_rivals_are_dropped_where_time_is_short():
    plan = Plan(10, 8, 20, left_out="A rival means nothing here.")
    assert plan.with_time_left(570 - 48, 2).costs == COSTS
    later = plan.with_time_left(570 - 47, 2)
    assert (later.report_seeds, later.rivals, later.costs) == (4, RIVALS, 0)
    late = plan.with_time_left(570 - 31, 2)
    assert (late.report_seeds, late.rivals, late.costs) == (4, (), 0)
    slower = "left out, because later images took longer than the first ones."
    assert late.left_out == (
        f'A rival means nothing here. The cost of other settings is {slower} "no guidance in the first fifth" and '
        f'"temporal score rescaling 0.95" are {slower}'
    )


def test_no_part_has_more_seeds_than_the_most():
    for most in (8, 11):
        plan = plan_trial(1000, 1, most_seeds=most)
        assert (plan.choice_seeds, plan.report_seeds) == (8, 8)
        assert plan.with_time_left(0, 1).report_seeds == 8
    with pytest.raises(ValueError, match="most_seeds is 3, but it must be from 4 to 192"):
        plan_trial(1000, 1, most_seeds=3)


@pytest.mark.parametrize("minutes", [0, -1, float("nan"), 1e6])
def test_what_is_no_budget_is_refused(minutes):
    with pytest.raises(ValueError, match=r"minutes is .*, but it must be above 0 and at most 1440\. Try 15"):
        plan_trial(minutes, 1)


def test_too_little_time_says_how_much_is_needed():
    with pytest.raises(ValueError, match=r"only enough for 7 images of 8 s, but a trial needs 32. Set minutes to 5"):
        plan_trial(1, 8)
    assert plan_trial(5, 8).pictures >= 32


@given(st.integers(1, 48), st.integers(1, 40))
def test_every_prompt_that_is_used_gets_four_neighbouring_seeds_or_more(blocks, prompts):
    found = prompts_of(4 * blocks, prompts)
    assert found == [block % prompts for block in range(blocks) for _ in range(4)]
    assert len(set(found)) == used_prompts(4 * blocks, prompts)


@given(st.integers(1, 192), st.integers(1, 192), st.integers(1, 40))
def test_the_prompt_of_a_seed_does_not_depend_on_how_many_there_are(few, many, prompts):
    few, many = sorted((few, many))
    assert prompts_of(many, prompts)[:few] == prompts_of(few, prompts)
