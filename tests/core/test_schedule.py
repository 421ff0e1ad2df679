"""γ over a run: presets, windows, typed keyframes, and what is refused."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sad_core import GammaSchedule
from sad_core.schedule import EASINGS, PRESETS, read_values

GAMMA = st.floats(-2, 3)
PROGRESS = st.floats(0, 1)


def refusal(make, *arguments, **options) -> str:
    with pytest.raises(ValueError, match=r"\.$") as caught:  # a sentence
        make(*arguments, **options)
    return str(caught.value)


# --- presets


@pytest.mark.parametrize(
    ("preset", "quarter", "half", "three_quarters"),
    [
        ("linear", 1.5, 2.0, 2.5),
        ("cosine", 1 + (1 - math.cos(math.pi / 4)), 2.0, 1 + (1 + math.cos(math.pi / 4))),
        ("ease in", 1.125, 1.5, 2.125),
        ("ease out", 1.875, 2.5, 2.875),
        ("ease in and out", 1.3125, 2.0, 2.6875),
    ],
)
def test_every_easing_at_chosen_points(preset, quarter, half, three_quarters):
    whole = GammaSchedule.from_preset(preset, 1.0, 3.0)
    points = (0.0, 0.25, 0.5, 0.75, 1.0)
    assert [whole.at(point) for point in points] == pytest.approx([1.0, quarter, half, three_quarters, 3.0])
    part = GammaSchedule.from_preset(preset, 1.0, 3.0, start=0.4, end=0.8)
    got = [part.at(0.4 + 0.4 * point) for point in points]
    assert got == pytest.approx([1.0, quarter, half, three_quarters, 3.0])
    assert (part.at(0.0), part.at(0.39), part.at(0.81), part.at(1.0)) == (1.0, 1.0, 3.0, 3.0)


def test_constant_is_the_same_all_along():
    schedule = GammaSchedule.from_preset("constant", 1.3, 0.2)
    assert [schedule.at(point) for point in (-1.0, 0.0, 0.3, 1.0, 2.0)] == [1.3] * 5
    assert schedule.gamma_range == (1.3, 1.3)


@pytest.mark.parametrize("preset", [name for name in PRESETS if name not in ("constant", "window")])
def test_the_second_gamma_is_one_when_not_given(preset):
    assert GammaSchedule.from_preset(preset, 1.3).at(1.0) == 1.0


@pytest.mark.parametrize(
    ("start", "end", "inside", "outside"),
    [
        (0.25, 0.75, (0.25, 0.5, math.nextafter(0.75, 0)), (0.0, math.nextafter(0.25, 0), 0.75, 0.9, 1.0)),
        (0.0, 0.5, (0.0, 0.2, math.nextafter(0.5, 0)), (0.5, 1.0)),
        (0.5, 1.0, (0.5, 0.9, 1.0), (0.0, math.nextafter(0.5, 0))),
        (0.0, 1.0, (0.0, 0.5, 1.0), ()),
    ],
)
def test_a_window_excludes_its_end_unless_that_is_the_last_step(start, end, inside, outside):
    schedule = GammaSchedule.from_preset("window", 1.2, start=start, end=end)
    assert [schedule.at(point) for point in inside] == [1.2] * len(inside)
    assert [schedule.at(point) for point in outside] == [1.0] * len(outside)


@given(preset=st.sampled_from(PRESETS), first=GAMMA, last=GAMMA, progress=st.floats(-1, 2))
def test_no_preset_leaves_its_range(preset, first, last, progress):
    schedule = GammaSchedule.from_preset(preset, first, last, 0.2, 0.9)
    lowest, highest = schedule.gamma_range
    assert lowest - 1e-12 <= schedule.at(progress) <= highest + 1e-12
    assert {lowest, highest} <= {first, last, 1.0}


@given(preset=st.sampled_from([name for name in PRESETS if name != "window"]), first=GAMMA, last=GAMMA)
def test_every_preset_but_the_window_starts_and_ends_where_told(preset, first, last):
    schedule = GammaSchedule.from_preset(preset, first, last)
    assert schedule.at(0.0) == first
    assert schedule.at(1.0) == (first if preset == "constant" else last)


@given(points=st.lists(st.tuples(PROGRESS, GAMMA), min_size=1, max_size=6, unique_by=lambda point: point[0]))
def test_a_curve_goes_through_its_points_and_is_flat_outside_them(points):
    points.sort()
    for easing in EASINGS:
        schedule = GammaSchedule.from_points(points, easing)
        assert [schedule.at(progress) for progress, _ in points] == [gamma for _, gamma in points]
        assert schedule.at(-0.5) == schedule.at(points[0][0] / 2) == points[0][1]
        assert schedule.at(1.5) == schedule.at((points[-1][0] + 1) / 2) == points[-1][1]
        assert schedule.gamma_range == (min(g for _, g in points), max(g for _, g in points))


@given(first=PROGRESS, second=PROGRESS, easing=st.sampled_from(list(EASINGS)))
def test_a_rising_curve_rises(first, second, easing):
    schedule = GammaSchedule(((0.0, 0.5), (0.3, 1.0), (1.0, 2.0)), easing)
    low, high = sorted((first, second))
    assert schedule.at(low) <= schedule.at(high) + 1e-12


def test_progress_outside_the_run_takes_the_nearest_end():
    schedule = GammaSchedule.from_keyframes("0:1.5, 1:0.5")
    assert (schedule.at(-3.0), schedule.at(-math.inf), schedule.at(1.01), schedule.at(math.inf)) == (1.5, 1.5, 0.5, 0.5)


# --- keyframes as text


@pytest.mark.parametrize(
    "text",
    [
        "0:1, 0.3:1.05, 1:1",
        "0:1,.3:1.05,1:1",
        "0 : 1\n0.3: 1.05\n1 :1",
        "0:1; 0.3:1.05; 1:1;",
        ",0:1,,3e-1:1.05,1:1,\n",
    ],
)
def test_keyframes_are_read_however_they_are_typed(text):
    schedule = GammaSchedule.from_keyframes(text)
    assert schedule.keyframes == ((0.0, 1.0), (0.3, 1.05), (1.0, 1.0))
    assert schedule.at(0.15) == pytest.approx(1.025)
    assert schedule.at(0.65) == pytest.approx(1.025)


def test_keyframes_take_an_easing():
    assert GammaSchedule.from_keyframes("0:1, 1:2", "hold").at(0.99) == 1.0
    assert GammaSchedule.from_keyframes("0:1, 1:2", "ease in").at(0.5) == 1.25


@pytest.mark.parametrize(
    "entry", ["hello", "0.5", "0.5=1.05", "0.5:", ":1.05", "0.5:1:2", "0.5:one", "50%:1", "(0.5:1)"]
)
def test_an_entry_that_is_no_keyframe_is_quoted_back(entry):
    message = refusal(GammaSchedule.from_keyframes, f"0:1, {entry}, 1:1")
    assert f'"{entry}"' in message
    assert "progress:gamma" in message


@pytest.mark.parametrize("text", ["", "  ", ",", "\n;,\n"])
def test_no_keyframes_at_all_are_refused(text):
    assert "empty" in refusal(GammaSchedule.from_keyframes, text)


@pytest.mark.parametrize("text", ["0:1, 0.6:1.1, 0.3:1.2", "0.5:1, 0.5:2", "1:1, 0:1"])
def test_keyframes_out_of_order_are_refused(text):
    assert "rising order" in refusal(GammaSchedule.from_keyframes, text)


@pytest.mark.parametrize("progress", ["-0.1", "1.1", "30", "nan", "inf"])
def test_keyframes_outside_the_run_are_refused(progress):
    message = refusal(GammaSchedule.from_keyframes, f"{progress}:1.05")
    assert progress in message
    assert "0 (start) to 1 (end)" in message


@pytest.mark.parametrize("gamma", ["nan", "inf", "-inf"])
def test_a_gamma_that_is_not_finite_is_refused(gamma):
    assert f"γ is {gamma}" in refusal(GammaSchedule.from_keyframes, f"0:1, 1:{gamma}")
    assert f"γ is {gamma}" in refusal(GammaSchedule.from_preset, "constant", float(gamma))
    assert f"γ is {gamma}" in refusal(GammaSchedule.from_values, [1.0, float(gamma)])
    assert f"γ is {gamma}" in refusal(GammaSchedule.from_points, [(0.0, float(gamma))])


# --- other ways in


def test_values_are_spread_evenly():
    schedule = GammaSchedule.from_values([1.0, 1.2, 0.8, 1.0, 3.0])
    assert [schedule.at(point) for point in (0.0, 0.25, 0.5, 0.75, 1.0)] == [1.0, 1.2, 0.8, 1.0, 3.0]
    assert schedule.at(0.125) == pytest.approx(1.1)
    assert schedule.gamma_range == (0.8, 3.0)


@given(values=st.lists(GAMMA, min_size=1, max_size=40))
def test_any_number_of_values_makes_a_curve(values):
    schedule = GammaSchedule.from_values(values)
    assert (schedule.at(0.0), schedule.at(1.0)) == (values[0], values[-1])


def test_no_values_and_no_points_are_refused():
    for make in (GammaSchedule.from_values, GammaSchedule.from_points, GammaSchedule):
        assert "empty" in refusal(make, ())


@pytest.mark.parametrize("point", [(0.5,), (0.1, 0.2, 0.3), 0.5, ("a", "b"), None])
def test_a_point_that_is_no_pair_is_quoted_back(point):
    assert repr(point) in refusal(GammaSchedule.from_points, [(0.0, 1.0), point])


def test_an_unknown_preset_or_easing_is_refused_with_the_known_ones():
    message = refusal(GammaSchedule.from_preset, "sine", 1.05)
    assert '"sine"' in message
    assert all(preset in message for preset in PRESETS)
    message = refusal(GammaSchedule.from_keyframes, "0:1", "bounce")
    assert '"bounce"' in message
    assert all(easing in message for easing in EASINGS)


@pytest.mark.parametrize(
    ("start", "end"), [(0.5, 0.5), (0.8, 0.2), (-0.1, 1.0), (0.0, 1.1), (math.nan, 1.0), (0.0, math.nan)]
)
@pytest.mark.parametrize("preset", ["linear", "window"])
def test_a_start_and_end_out_of_order_or_range_are_refused(preset, start, end):
    message = refusal(GammaSchedule.from_preset, preset, 1.05, start=start, end=end)
    assert f"start is {start:g} and end is {end:g}, but start must be smaller than end" in message


@pytest.mark.parametrize(
    ("schedule", "neutral"),
    [
        (GammaSchedule.from_preset("constant", 1.0), True),
        (GammaSchedule.from_preset("constant", 1.0001), False),
        (GammaSchedule.from_preset("cosine", 1.0), True),
        (GammaSchedule.from_preset("linear", 1.0, 1.05), False),
        (GammaSchedule.from_preset("window", 1.0, start=0.2, end=0.4), True),
        (GammaSchedule.from_preset("window", 1.1, start=0.2, end=0.4), False),
        (GammaSchedule.from_keyframes("0:1, 0.5:1, 1:1"), True),
        (GammaSchedule.from_keyframes("0:1, 0.5:0.9, 1:1"), False),
    ],
)
def test_a_schedule_is_neutral_only_when_gamma_is_one_all_along(schedule, neutral):
    assert schedule.is_neutral is neutral


def test_equal_schedules_are_equal_and_can_be_keys():
    first, second = (GammaSchedule.from_keyframes("0:1, 1:2") for _ in range(2))
    assert first == second
    assert len({first, second, GammaSchedule.from_keyframes("0:1, 1:2", "cosine")}) == 2


# --- as a line of points


@pytest.mark.parametrize("easing", EASINGS)
@pytest.mark.parametrize("frames", [((0.3, 1.2),), ((0.0, 1.0), (0.25, 2.0), (1.0, 0.5)), ((0.1, 1.5), (0.7, 0.5))])
def test_a_polyline_runs_through_every_keyframe_along_the_curve(easing, frames):
    schedule = GammaSchedule(frames, easing)
    points = schedule.polyline()
    assert (points[0], points[-1]) == ((0.0, frames[0][1]), (1.0, frames[-1][1]))
    assert set(frames) <= set(points)
    for (start, gamma), (stop, target) in itertools.pairwise(points):
        assert start <= stop
        middle = (start + stop) / 2
        if start < stop:
            assert schedule.at(middle) == pytest.approx((gamma + target) / 2, abs=2e-3)


# --- typed numbers


@pytest.mark.parametrize(
    ("values", "numbers"),
    [("1, 1.05\n-1;", [1.0, 1.05, -1.0]), ([1, 2.5], [1.0, 2.5]), (1.3, [1.3]), ("", [])],
)
def test_numbers_are_read_from_a_text_a_list_or_a_single_number(values, numbers):
    assert read_values(values) == numbers


@pytest.mark.parametrize("values", ["1, x", ["1", None], None])
def test_what_is_not_a_list_of_numbers_is_refused(values):
    assert "is not a list of numbers. Write them as 1, 1.05, 1." in refusal(read_values, values)
