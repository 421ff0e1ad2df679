"""The images of a sweep by γ and seed: the distances between them, and runs that make no sweep."""

from __future__ import annotations

import pytest
import torch

from lab.testing.sweep_images import grey_images, read_table
from sad_core.evaluation.sweep import Comparison, compare_gammas


def rows_of(comparison: Comparison) -> list[dict[str, str]]:
    return read_table(comparison.to_csv())


def test_the_table_holds_the_distances():
    """Even greys differ by the same amount in every pixel, so the root mean square is the difference itself."""
    images = [grey_images(0.1, 0.5), grey_images(0.2, 0.4), grey_images(0.5, 0.5)]
    rows = rows_of(compare_gammas(images, [0.5, 1.0, 2.0]))
    assert [row["gamma"] for row in rows] == ["0.5", "1", "2"]
    assert [float(row["moved"]) for row in rows] == pytest.approx([0.1, 0.0, 0.2], abs=1e-5)
    assert [float(row["apart"]) for row in rows] == pytest.approx([0.4, 0.2, 0.0], abs=1e-5)


def test_runs_of_one_gamma_make_one_row_each_compared_with_its_own_seed():
    """Grey 0.1 moved from 0.2 and 0.5 from 0.4: by 0.1 each, where only the first of γ 1 would give 0.3 for one."""
    images = [grey_images(0.1), grey_images(0.5), grey_images(0.2), grey_images(0.4)]
    single = compare_gammas(images, [0.5, 0.5, 1.0, 1.0])
    rows = rows_of(single)
    assert [row["gamma"] for row in rows] == ["0.5", "1"]
    assert [float(row["moved"]) for row in rows] == pytest.approx([0.1, 0.0], abs=1e-5)
    assert [float(row["apart"]) for row in rows] == pytest.approx([0.4, 0.2], abs=1e-5)
    together = compare_gammas([grey_images(0.1, 0.5), grey_images(0.2, 0.4)], [0.5, 1.0])
    assert together.to_csv() == single.to_csv()
    for row, joined in zip(single.rows, together.rows, strict=True):
        assert torch.equal(row, joined)


def test_distances_that_do_not_exist_are_left_empty():
    rows = rows_of(compare_gammas([grey_images(0.1), grey_images(0.2)], [0.5, 2.0]))
    assert [(row["moved"], row["apart"]) for row in rows] == [("", ""), ("", "")]


@pytest.mark.parametrize(
    ("images", "gamma", "message"),
    [
        ([grey_images(0.1)], [0.0, 1.0], "number of batches is 1 and the number of gammas is 2"),
        ([grey_images(0.1), grey_images(0.1, 0.2)], [0.0, 1.0], "must have the same number of images"),
        ([grey_images(0.1), grey_images(0.1, size=(4, 4))], [0.0, 1.0], "must have the same size"),
    ],
)
def test_runs_that_do_not_belong_together_are_refused(images, gamma, message):
    with pytest.raises(ValueError, match=message):
        compare_gammas(images, gamma)
