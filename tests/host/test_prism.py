"""Prism has two networks of video, of which a run reaches one, and may call its attention only for the last frames."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from symmetric_attention.nodes.host.models.site_rules import NOT_SAME_TOKENS

from lab.testing.families.family import Family, draw
from lab.testing.families.rows import STAND_INS
from lab.testing.families.runs import Runs
from lab.testing.recorder import distance, effect, plainly, stated
from lab.testing.run_nodes import skew

pytestmark = pytest.mark.newest


@pytest.fixture(scope="module")
def row() -> Iterator[Family]:
    yield STAND_INS["Prism"]
    STAND_INS["Prism"].forget()


def test_the_second_network_and_the_last_frames_of_a_sparse_attention(row):
    """Video blocks of the low noise act; those that are asked for a part of their tokens are skipped and counted."""
    network = row.model.model.diffusion_model
    sparse = network.video_dit_2.blocks[1].self_attn
    network.low_noise, sparse.first = True, 8
    low = replace(row, paths={name: path for name, path in {**row.paths, **row.other_stages}.items() if is_low(name)})
    patched, report = skew(row.model)
    calls = Runs(low).watched(patched)
    network.low_noise, sparse.first = False, 0
    acting = {name for name in low.paths if name != "low_noise.1"}
    for seen in calls:
        if low.site_of(seen.path) in acting:
            assert distance(seen.out, stated(low, seen, 1.5)) <= 1e-3 * effect(low, seen, 1.5), seen.path
        else:
            assert distance(seen.out, plainly(seen)) < 1e-5 * plainly(seen).norm(), seen.path
    run = report.runs[-1]
    assert set(run.site_calls) == acting
    assert run.untouched == {NOT_SAME_TOKENS: run.model_calls}


def is_low(address: str) -> bool:
    """Return whether a run of the low noise reaches a site."""
    return address.startswith(("low_noise", "audio"))


@pytest.mark.parametrize("stream", ["video", "audio"])
def test_the_groups_choose_one_of_the_two(row, stream):
    patched, report = skew(row.model, blocks=stream)
    row.sample(patched, noise=draw("noise", (1, 4, 5, 8)))
    assert {address.startswith("audio") for address in report.runs[-1].site_calls} == {stream == "audio"}
