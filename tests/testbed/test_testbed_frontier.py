"""The frontier against drawings by hand and slow statements of the same."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lab.testbed.frontier import POINTS_A_LINE, curve_of, dominated_area, gain_at_equal, on_the_curve

numbers = st.floats(-1, 1, width=32)
curves = st.lists(st.tuples(numbers, numbers), min_size=1, max_size=5).map(
    lambda points: torch.tensor(points, dtype=torch.float64)
)


def points(*pairs):
    return torch.tensor(pairs, dtype=torch.float64)


def test_a_gain_is_read_off_where_the_other_axis_is_crossed():
    """From (−1, 3) to (1, 1) the line crosses 0 at (0, 2), half way."""
    assert gain_at_equal(points((-1, 3), (1, 1)), kept=0) == pytest.approx(2)
    assert gain_at_equal(points((-1, 3), (1, 1)), kept=1) == pytest.approx(1)


def test_a_curve_that_loses_everywhere_gains_nothing():
    assert gain_at_equal(points((-1, -3), (0, 0), (-2, -1)), kept=0) == 0


def test_the_area_of_two_stairs():
    """From the corner (−1, −1): 3 wide and 1 high, and above it 1 wide and 2 high."""
    vertices = points((0, 2), (2, 0))
    stairs = dominated_area(vertices[:1], points((-1, -1))[0]) + (3 - 1) * 1
    along = dominated_area(vertices, points((-1, -1))[0])
    assert stairs == pytest.approx(3 + 2)
    assert along > stairs  # the line between them dominates more than its ends


@given(curves, numbers, numbers)
def test_the_area_is_that_of_counted_squares(vertices, left, low):
    corner = torch.tensor([left, low], dtype=torch.float64)
    along = on_the_curve(vertices)
    grid = (torch.arange(400, dtype=torch.float64) + 0.5) / 100
    x, y = corner[0] + grid[:, None, None], corner[1] + grid[None, :, None]
    counted = ((along[:, 0] >= x) & (along[:, 1] >= y)).any(-1).double().sum() / 100**2
    assert float(dominated_area(vertices, corner)) == pytest.approx(float(counted), abs=0.05)


@given(curves)
def test_a_curve_of_many_resamples_is_taken_one_by_one(vertices):
    other = vertices.flip(-2) * 0.5
    both = torch.stack([vertices, other])
    corner = torch.tensor([-2.0, -2.0], dtype=torch.float64)
    for measure in (lambda each: gain_at_equal(each, 0), lambda each: dominated_area(each, corner)):
        torch.testing.assert_close(measure(both), torch.stack([measure(vertices), measure(other)]))


@given(curves)
def test_the_points_of_a_curve_lie_on_its_lines(vertices):
    along = on_the_curve(vertices)
    assert len(along) == (len(vertices) - 1) * POINTS_A_LINE + 1
    torch.testing.assert_close(along[::POINTS_A_LINE], vertices)
    for place, point in enumerate(along[:-1]):
        start, end = vertices[place // POINTS_A_LINE], vertices[place // POINTS_A_LINE + 1]
        share = place % POINTS_A_LINE / POINTS_A_LINE
        torch.testing.assert_close(point, (1 - share) * start + share * end)


def test_the_plain_model_is_where_its_strength_belongs():
    changes = points((1, 10), (2, 20), (3, 30))
    assert curve_of([0.5, 2.0, -1.0], changes, neutral=1.0).tolist() == [[3, 30], [1, 10], [0, 0], [2, 20]]


def test_a_knob_that_is_never_neutral_has_no_plain_model_on_its_curve():
    changes = points((1, 10), (2, 20))
    assert curve_of([4.0, 2.0], changes, neutral=None).tolist() == [[2, 20], [1, 10]]
