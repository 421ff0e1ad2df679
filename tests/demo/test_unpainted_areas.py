"""The painted and the unpainted pixels and their changes, by loops over pixels."""

from __future__ import annotations

import pytest
import torch

from lab.demo.unpainted_areas import EDGES, SIDE, changes, masks


@pytest.mark.parametrize("edge", EDGES.values())
def test_half_a_picture_is_painted_left_and_right_in_turn(edge):
    left, right = masks(2, edge)
    for row in (0, SIDE - 1):
        for column in range(SIDE):
            from_the_middle = column + 0.5 - SIDE / 2
            wanted = 0.5 - from_the_middle / edge if edge else float(from_the_middle < 0)
            assert float(left[row, column]) == pytest.approx(min(max(wanted, 0), 1))
            assert float(right[row, column]) == pytest.approx(1 - min(max(wanted, 0), 1))
    assert torch.equal(masks(4, edge)[2], left)


def test_a_change_counts_where_the_mask_is_0_or_1():
    generator = torch.Generator().manual_seed(1)
    plain, painted = torch.rand((2, 2, 3, 2, 4), generator=generator)
    mask = torch.tensor([[0.0, 0.5, 1.0, 1.0], [0.0, 0.0, 0.2, 1.0]]).repeat(2, 1, 1)
    unpainted_of, painted_of = changes(plain, painted, mask)
    for picture in range(2):
        found: dict[float, list[float]] = {0.0: [], 1.0: []}
        for row in range(2):
            for column in range(4):
                differences = [abs(float((painted - plain)[picture, colour, row, column])) for colour in range(3)]
                found.setdefault(float(mask[picture, row, column]), []).extend(differences)
        assert float(unpainted_of[picture]) == pytest.approx(sum(found[0.0]) / len(found[0.0]), rel=1e-5)
        assert float(painted_of[picture]) == pytest.approx(sum(found[1.0]) / len(found[1.0]), rel=1e-5)
