"""The calibrated slider: monotone in the measured diversity, within the bound of the drift, and its file."""

from __future__ import annotations

import itertools
import json
import random
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.testing.json_files import assert_only_its_own_files_are_read
from sad_core.evaluation.calibration import Calibration, calibrate, isotonic, monotone
from sad_core.evaluation.calibration_file import load_calibration, save_calibration
from sad_core.evaluation.diversity import Estimate
from sad_core.evaluation.measures import PIXELS, DiversityReport, Row


def around(value, reach=0.01):
    return Estimate(value, value - reach, value + reach)


def row(gamma, diversity, drift, n=8, neutral=0.5):
    measures = {
        "distance": around(diversity),
        "distance_change": around(diversity - neutral),
        "pixel_drift": around(drift),
    }
    return Row(gamma, n, 0, 0, measures)


def report(*rows):
    return DiversityReport(tuple(sorted(rows, key=lambda each: each.gamma)), PIXELS)


SWEEP = report(
    row(0.8, 0.44, 0.05),
    row(1.0, 0.5, 0.0),
    row(1.2, 0.52, 0.04),
    row(1.5, 0.6, 0.1),
    row(2.0, 0.7, 0.3),
    row(3.0, 0.9, 0.6),
)


def calibration(found=SWEEP, largest_drift=0.35, **others):
    points, left_out = calibrate(found, largest_drift)
    smooth = monotone([point.diversity.value for point in points])
    return Calibration(points, smooth, largest_drift, left_out, PIXELS.name, PIXELS.unit, **others)


def test_the_slider_goes_evenly_through_the_measured_diversity():
    """D is 0.44, 0.5, 0.52, 0.6, 0.7 at γ 0.8, 1, 1.2, 1.5, 2; γ 3 is beyond the bound."""
    found = calibration()
    assert found.left_out == (3.0,)
    want = {-1: 0.8, -0.5: 0.9, 0: 1.0, 0.1: 1.2, 0.5: 1.5, 0.75: 1.75, 1: 2.0}
    assert {at: found.at(at).gamma for at in want} == pytest.approx(want)
    half_way = found.at(0.75)
    assert half_way.change.value == pytest.approx(0.15)
    assert (half_way.change.low, half_way.change.high) == pytest.approx((0.14, 0.16))
    assert half_way.drift.value == pytest.approx(0.2)
    assert found.is_open(1)
    assert found.is_sure(-1)


def test_where_diversity_falls_with_gamma_creative_is_below_one():
    found = calibration(report(row(0.5, 0.7, 0.2), row(1.0, 0.5, 0.0), row(1.5, 0.4, 0.1)))
    assert found.at(1).gamma == 0.5
    assert found.at(-1).gamma == 1.5


def test_a_side_on_which_nothing_is_gained_stays_at_one():
    found = calibration(report(row(0.5, 0.5, 0.2), row(1.0, 0.5, 0.0), row(1.5, 0.6, 0.1)))
    assert {found.at(position).gamma for position in (-1, -0.4, 0)} == {1.0}
    assert not found.is_open(-1)
    assert found.is_open(1)


def test_a_gain_within_the_luck_of_the_seeds_is_not_sure():
    found = calibration(report(row(1.0, 0.5, 0.0), row(1.5, 0.505, 0.1)))
    assert found.is_open(1)
    assert not found.is_sure(1)


def test_rounding_at_an_end_does_not_lead_back_to_the_plain_model():
    """0.5 − (0.5 − D) is a little below this D."""
    found = calibration(report(row(0.0, 0.03062828466450896, 0.1), row(1.0, 0.5, 0.0)))
    assert 0.5 - (0.5 - found.smooth[0]) < found.smooth[0]
    assert found.at(-1).gamma == 0.0


@pytest.mark.parametrize(("one", "end"), [(1.2, 3.4), (1.0, 0.11)])
def test_rounding_between_two_points_does_not_lead_beyond_them(one, end):
    """Neither γ + (γ′ − γ) is γ′: the first is above it, where there is no further point, the second below."""
    assert one + (end - one) != end
    middle = {one: (0.55, 0.1), 1.0: (0.5, 0.0)}
    found = calibration(report(*(row(gamma, *numbers) for gamma, numbers in middle.items()), row(end, 0.7, 0.2)))
    assert found.at(1).gamma == end
    assert found.at(1).drift == around(0.2)


@given(st.lists(st.tuples(st.floats(-1, 3), st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=8), st.data())
def test_the_slider_is_monotone_and_never_leaves_the_bound(others, data):
    gammas = {round(gamma, 3): (diversity, drift) for gamma, diversity, drift in others} | {1.0: (0.5, 0.0)}
    found = report(*(row(gamma, *numbers) for gamma, numbers in gammas.items()))
    if not any(drift <= 0.5 for gamma, (_, drift) in gammas.items() if gamma != 1.0):
        return
    slider = calibration(found, 0.5)
    positions = sorted(data.draw(st.lists(st.floats(-1, 1), min_size=2, max_size=6)))
    smooth = {point.gamma: value for point, value in zip(slider.points, slider.smooth, strict=True)}

    def diversity(gamma):
        before = max(each for each in smooth if each <= gamma)
        after = min(each for each in smooth if each >= gamma)
        share = 0 if before == after else (gamma - before) / (after - before)
        return smooth[before] + share * (smooth[after] - smooth[before])

    reached = [diversity(slider.at(position).gamma) for position in positions]
    assert all(one <= other + 1e-9 for one, other in itertools.pairwise(reached))
    assert slider.at(0).gamma == 1.0
    assert all(gammas[point.gamma][1] <= 0.5 for point in slider.points)


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=7))
def test_no_rising_sequence_is_nearer_than_the_isotonic_one(values):
    """The best of all ways to cut the values into runs, each at its mean, that rise."""
    best = min(
        (
            candidate
            for candidate in cut(values)
            if all(one <= other + 1e-9 for one, other in itertools.pairwise(candidate))
        ),
        key=lambda candidate: sum((one - other) ** 2 for one, other in zip(candidate, values, strict=True)),
    )
    assert isotonic(values) == pytest.approx(best, abs=1e-6)


def cut(values):
    for marks in itertools.product((False, True), repeat=len(values) - 1):
        edges = [0, *(index + 1 for index, mark in enumerate(marks) if mark), len(values)]
        yield [
            sum(values[start:stop]) / (stop - start)
            for start, stop in itertools.pairwise(edges)
            for _ in range(stop - start)
        ]


@pytest.mark.parametrize(
    ("found", "largest_drift", "sentence"),
    [
        (report(row(1.2, 0.5, 0.1)), 0.5, "The sweep has no γ = 1"),
        (report(row(1.0, 0.5, 0.0), row(1.2, 0.5, 0.1, n=2)), 0.5, r"fewer than 3 images of γ = 1\.2"),
        (
            report(row(1.0, 0.5, 0.0), row(1.2, 0.5, 0.7)),
            0.5,
            r"Every γ except 1 moved images further than largest_drift 0\.5. The smallest move was 0\.7",
        ),
        (SWEEP, 0.0, r"largest_drift is 0\.0, but it must be a number above 0"),
        (SWEEP, float("nan"), "largest_drift is nan"),
    ],
)
def test_what_cannot_be_calibrated_is_refused_in_a_sentence(found, largest_drift, sentence):
    with pytest.raises(ValueError, match=sentence):
        calibrate(found, largest_drift)


@pytest.mark.parametrize("position", [-1.01, 1.5, float("nan")])
def test_a_position_outside_is_refused(position):
    with pytest.raises(ValueError, match=r"position is .*, but it must be a number from -1 to 1"):
        calibration().at(position)


def test_a_file_gives_the_calibration_back(tmp_path):
    saved = calibration(model="SDXL", weights=(0.5, -0.25), beta=3.0, end=0.6)
    save_calibration(saved, tmp_path / "own.calibration.json")
    loaded = load_calibration(tmp_path / "own.calibration.json")
    assert (loaded.model, loaded.weights, loaded.beta, loaded.end) == ("SDXL", (0.5, -0.25), 3.0, 0.6)
    assert [point.gamma for point in loaded.points] == [point.gamma for point in saved.points]
    assert loaded.at(0.3).gamma == pytest.approx(saved.at(0.3).gamma, rel=1e-4)


def test_what_is_no_calibration_is_refused_in_a_sentence(tmp_path):
    assert_only_its_own_files_are_read(load_calibration, tmp_path / "own.calibration.json", "calibration", "Calibrate")


def test_every_damaged_number_is_refused_in_a_sentence(tmp_path):
    """Each value of a good file is replaced by each of some bad ones; what is accepted still gives a γ in range."""
    path = tmp_path / "own.calibration.json"
    save_calibration(calibration(model="SDXL"), path)
    good = json.loads(path.read_text())
    draw = random.Random(0)

    def places(content, at=()):
        for key, value in content.items() if isinstance(content, dict) else enumerate(content):
            yield (*at, key)
            if isinstance(value, (dict, list)):
                yield from places(value, (*at, key))

    accepted = 0
    for *at, last in places(good):
        for bad in (None, "x", float("nan"), 1e400, -1e300, [], {}, True):
            content = json.loads(json.dumps(good))
            inner = content
            for key in at:
                inner = inner[key]
            inner[last] = bad
            path.write_text(json.dumps(content))
            with suppress(ValueError):  # and nothing else
                found = load_calibration(path)
                accepted += 1
                assert -1e301 < found.at(draw.uniform(-1, 1)).gamma < 1e301
    assert accepted < 100


def test_a_newer_file_asks_for_a_newer_pack(tmp_path):
    path = tmp_path / "own.calibration.json"
    save_calibration(calibration(), path)
    path.write_text(path.read_text().replace('"version": 1', '"version": 2'))
    with pytest.raises(ValueError, match=r"of version 2, but this pack reads version 1\. Update the pack"):
        load_calibration(path)
