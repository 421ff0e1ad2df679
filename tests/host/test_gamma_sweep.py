"""Trying several γ at once: the values that come in and the grid that comes out."""

from __future__ import annotations

import sys

import pytest
import torch
from symmetric_attention.nodes.gamma_grid import GammaGridNode
from symmetric_attention.nodes.gamma_sweep import GammaSweepNode

from lab.testing.run_nodes import execute
from lab.testing.sweep_images import grey_images, read_table


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
        ("", "values has 0 gammas"),
        ("1, x", "is not a list of numbers"),
        ("nan", "γ is nan, but it must be a finite number"),
        (", ".join(["1"] * 65), "values has 65 gammas"),
    ],
)
def test_values_that_make_no_sweep_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        execute(GammaSweepNode, values=values)


def test_runs_of_one_gamma_make_one_row_and_the_same_grid():
    images = [grey_images(0.1), grey_images(0.5), grey_images(0.2), grey_images(0.4)]
    grid, table = execute(GammaGridNode, images=images, gamma=[0.5, 0.5, 1.0, 1.0])
    assert [row["gamma"] for row in read_table(table)] == ["0.5", "1"]
    together = execute(GammaGridNode, images=[grey_images(0.1, 0.5), grey_images(0.2, 0.4)], gamma=[0.5, 1.0])
    assert torch.equal(grid, together[0])
    assert table == together[1]


def test_the_grid_shows_each_picture_in_its_cell():
    grid, _ = execute(GammaGridNode, images=[grey_images(0.2, 0.4), grey_images(0.6, 0.8)], gamma=[0.0, 1.0])
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
    grid, table = execute(GammaGridNode, images=[grey_images(0.1)], gamma=[1.0])
    assert grid.shape == (1, 512, 768, 3)
    assert len(read_table(table)) == 1


def test_runs_that_do_not_belong_together_are_refused():
    with pytest.raises(ValueError, match="number of batches is 1 and the number of gammas is 2"):
        execute(GammaGridNode, images=[grey_images(0.1)], gamma=[0.0, 1.0])
