"""Trying several γ at once: the values that come in, the distances and the grid that come out."""

from __future__ import annotations

import csv
import io as text_io
import sys

import pytest
import torch
from symmetric_attention.nodes.gamma_sweep import GammaGridNode, GammaSweepNode

from lab.testing.run_nodes import execute


def batch(*greys: float, size: tuple[int, int] = (8, 6)) -> torch.Tensor:
    """A batch of even pictures of the given greys."""
    return torch.stack([torch.full((*size, 3), grey) for grey in greys])


def lines(table: str) -> list[dict[str, str]]:
    return list(csv.DictReader(text_io.StringIO(table)))


def test_the_sweep_gives_every_gamma_in_the_order_written():
    assert execute(GammaSweepNode, values="0.5, 1\n-1,1.05") == (
        [0.5, 1.0, -1.0, 1.05],
        ["gamma 0.5", "gamma 1", "gamma -1", "gamma 1.05"],
        [0, 0, 0, 0],
    )
    for output in GammaSweepNode.GET_SCHEMA().outputs:
        assert output.is_output_list


def test_several_seeds_are_the_same_ones_for_every_gamma():
    gammas, labels, seeds = execute(GammaSweepNode, values="0.5, 1", seeds=3, first_seed=7)
    assert gammas == [0.5, 0.5, 0.5, 1.0, 1.0, 1.0]
    assert seeds == [7, 8, 9, 7, 8, 9]
    assert labels[1] == "gamma 0.5, seed 8"
    assert len(set(labels)) == 6


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ("", "0 gammas given"),
        ("1, x", "is not a list of numbers"),
        ("1, 3.5", "gamma 3.5 is outside of what"),
        ("nan", "gamma nan is outside of what"),
        (", ".join(["1"] * 65), "65 gammas given"),
    ],
)
def test_values_that_make_no_sweep_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        execute(GammaSweepNode, values=values)


def test_the_table_holds_the_distances():
    """Even greys differ by the same amount in every pixel, so the root mean square is the difference itself."""
    _, table = execute(GammaGridNode, images=[batch(0.1, 0.5), batch(0.2, 0.4), batch(0.5, 0.5)], gamma=[0.5, 1.0, 2.0])
    rows = lines(table)
    assert [row["gamma"] for row in rows] == ["0.5", "1", "2"]
    assert [float(row["moved"]) for row in rows] == pytest.approx([0.1, 0.0, 0.2], abs=1e-5)
    assert [float(row["apart"]) for row in rows] == pytest.approx([0.4, 0.2, 0.0], abs=1e-5)


def test_runs_of_one_gamma_make_one_row_each_compared_with_its_own_seed():
    """Grey 0.1 moved from 0.2 and 0.5 from 0.4: by 0.1 each, where the first of γ 1 alone would say 0.3 for one."""
    images = [batch(0.1), batch(0.5), batch(0.2), batch(0.4)]
    grid, table = execute(GammaGridNode, images=images, gamma=[0.5, 0.5, 1.0, 1.0])
    rows = lines(table)
    assert [row["gamma"] for row in rows] == ["0.5", "1"]
    assert [float(row["moved"]) for row in rows] == pytest.approx([0.1, 0.0], abs=1e-5)
    assert [float(row["apart"]) for row in rows] == pytest.approx([0.4, 0.2], abs=1e-5)
    together = execute(GammaGridNode, images=[batch(0.1, 0.5), batch(0.2, 0.4)], gamma=[0.5, 1.0])
    assert torch.equal(grid, together[0])


def test_distances_that_do_not_exist_are_left_empty():
    rows = lines(execute(GammaGridNode, images=[batch(0.1), batch(0.2)], gamma=[0.5, 2.0])[1])
    assert [(row["moved"], row["apart"]) for row in rows] == [("", ""), ("", "")]


def test_the_grid_shows_each_picture_in_its_cell():
    grid, _ = execute(GammaGridNode, images=[batch(0.2, 0.4), batch(0.6, 0.8)], gamma=[0.0, 1.0])
    assert grid.shape[0] == 1
    assert grid.shape[3] == 3
    greys = (grid[0] * 255).round().int()
    areas = {grey: (greys == round(grey * 255)).all(dim=-1).nonzero().float() for grey in (0.2, 0.4, 0.6, 0.8)}
    assert all(len(area) > 10_000 for area in areas.values())
    middle = {grey: area.mean(dim=0) for grey, area in areas.items()}
    assert middle[0.2][1] < middle[0.4][1]  # columns are the pictures of the batch
    assert middle[0.2][0] < middle[0.6][0]  # rows are the gammas
    assert middle[0.6][1] < middle[0.8][1]


def test_a_wide_sweep_of_large_pictures_stays_of_a_size_to_look_at():
    grid, _ = execute(GammaGridNode, images=[torch.rand(1, 700, 1400, 3)] * 3, gamma=[0.0, 1.0, 2.0])
    assert max(grid.shape[1:3]) < 1000


def test_without_matplotlib_the_table_is_there_all_the_same(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    grid, table = execute(GammaGridNode, images=[batch(0.1)], gamma=[1.0])
    assert grid.shape == (1, 512, 768, 3)
    assert len(lines(table)) == 1


@pytest.mark.parametrize(
    ("images", "gamma", "message"),
    [
        ([batch(0.1)], [0.0, 1.0], "1 images came in for 2 gammas"),
        ([batch(0.1), batch(0.1, 0.2)], [0.0, 1.0], "must all have one size and number"),
        ([batch(0.1), batch(0.1, size=(4, 4))], [0.0, 1.0], "must all have one size and number"),
    ],
)
def test_runs_that_do_not_belong_together_are_refused(images, gamma, message):
    with pytest.raises(ValueError, match=message):
        execute(GammaGridNode, images=images, gamma=gamma)
