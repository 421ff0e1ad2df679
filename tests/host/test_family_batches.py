"""In every family an image equals that of a run by itself, for any batch mates, passes joined or split, CFG or none.

Rows of a batch differ by rounding on the plain host too. What is allowed is a thousandth of the change that γ makes to
the picture, and five times what the host's own pictures differ by without us: more sums are rounded with γ.
"""

from __future__ import annotations

import pytest

from lab.testing.recorder import distance
from lab.testing.run_nodes import little_memory, skew

COND, UNCOND = 0, 1
STRENGTH = {"gamma": 1.5, "beta": 3.0, "adaptive": "gamma and beta"}
BATCH = 4
# Where the host itself takes one sample at a time: its mask of the text fits no more, it packs its tokens by itself, or
# the batch is the frames of one video.
MASKED, PACKED, FRAMES = "HunyuanVideo", "MiniMaxH3", "SVD_img2vid"


@pytest.mark.rows(lambda row: row.name not in (MASKED, PACKED, FRAMES))
@pytest.mark.parametrize("cfg", [3.0, pytest.param(1.0, marks=pytest.mark.newest)])
def test_a_picture_is_the_same_by_itself_and_beside_three_others(runs, cfg):
    """Alone means with cond and uncond in calls of their own, too."""
    runs.need_one_row()
    row = runs.row
    patched, report = skew(row.model, **STRENGTH)
    ours, hosts = (row.sample(model, cfg=cfg, **row.start(range(BATCH)))[-1] for model in (patched, row.model))
    with little_memory(row.model):
        alone, hosts_alone = (row.sample(model, cfg=cfg, **row.start([BATCH - 1]))[0] for model in (patched, row.model))
    assert distance(alone, hosts_alone) > 0
    assert distance(alone, ours) <= 1e-3 * distance(alone, hosts_alone) + 5 * distance(hosts_alone, hosts)
    assert_split(report.runs[-1], (COND,) if cfg == 1.0 else (COND, UNCOND))


# The others are joined and split, and beside others, in one.
@pytest.mark.rows(lambda row: row.name in (PACKED, FRAMES))
def test_a_picture_is_the_same_with_cond_and_uncond_joined_and_split(runs):
    row = runs.row
    cfg = {"cfg": 3.0}
    patched, report = skew(row.model, **STRENGTH)
    ours, hosts = row.sample(patched, **cfg), row.sample(**cfg)
    with little_memory(row.model):
        ours_split, hosts_split = row.sample(patched, **cfg), row.sample(**cfg)
    assert_split(report.runs[-1], (COND, UNCOND))
    assert distance(ours, hosts) > 0
    assert distance(ours, ours_split) <= 1e-3 * distance(ours, hosts) + 5 * distance(hosts, hosts_split)


def assert_split(record, sides) -> None:
    """Assert that each model call of the run was for one side."""
    assert {call.cond_or_uncond for call in record.calls} == {(side,) for side in sides}
