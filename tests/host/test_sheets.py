"""Sheets of images: labels, title and frames keep clear of the edges."""

from __future__ import annotations

import pytest
import torch
from symmetric_attention.nodes.plots.grid import draw_grid
from symmetric_attention.nodes.plots.sheet import draw_sheet

from sad_core.evaluation.sweep import compare_gammas

CLEAR = 8  # pixels
TITLE = "a checkpoint with a long name, the same seeds in both rows"


@pytest.mark.newest
@pytest.mark.parametrize("columns", [1, 4])
@pytest.mark.parametrize("size", [(32, 32), (96, 64)])
def test_nothing_touches_the_edges_of_a_sheet(columns, size):
    images = [torch.full((*size, 3), 0.5) for _ in range(columns)]
    gammas = [0.5, 1.0, 1.5]
    rows = {"γ 1": images, "γ 1.5 with β 0.5": images}
    grid = draw_grid(compare_gammas([torch.stack(images)] * 3, gammas))
    for sheet in (grid, draw_sheet(rows, TITLE)):
        inked = (sheet[0] < 0.99).any(-1).nonzero()
        low, high = inked.min(0).values, inked.max(0).values
        assert low.min() >= CLEAR
        assert (torch.tensor(sheet.shape[1:3]) - 1 - high).min() >= CLEAR
