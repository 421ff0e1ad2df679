"""Files that are damaged, hostile or half written: a slice of `python -m lab.campaign files`."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from lab.campaign.hostile_files import KINDS, try_file
from lab.campaign.hostile_traces import made_run
from lab.campaign.ledger import Ledger
from sad_core import StabilityTrace
from sad_core.stability import run as stability_run
from sad_core.stability.run import StabilityRun
from sad_core.stability.step import Sample
from sad_core.whole_file import whole_file


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_hostile_files_are_refused_in_a_sentence_or_read_right(tmp_path, kind):
    ledger = Ledger()
    ends = [try_file(f"by hand {n}", kind, each, tmp_path, ledger) for n, each in enumerate(kind.handmade())]
    assert not ledger.faults
    assert ends[0] == "read"
    assert {"read", "refused"} <= set(ends)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_damaged_files_are_refused_in_a_sentence_or_read_right(tmp_path, kind):
    ledger = Ledger()
    whole = kind.whole(tmp_path)
    assert [try_file("whole", kind, each, tmp_path, ledger) for each in whole] == ["read"] * len(whole)
    for seed in range(150):
        draw = random.Random(seed)
        try_file(f"seed {seed}", kind, kind.damaged(draw.choice(whole), draw), tmp_path, ledger)
    assert not ledger.faults


@pytest.mark.parametrize("name", ["SD15\ud800", "SD15\0", "SD\u202e15", "SD\n15"])
def test_a_name_that_could_not_be_shown_is_cleaned(tmp_path, name):
    path = tmp_path / "trace.safetensors"
    StabilityTrace([made_run(name, steps=1, seed=0, mapped=False)]).save(path)
    (run,) = StabilityTrace.load(path).runs
    assert run.model.isprintable()
    assert run.model.startswith("SD")


def test_a_run_of_very_many_steps_keeps_as_many_as_a_file_may_have(monkeypatch):
    monkeypatch.setattr(stability_run, "MOST_STEPS", 8)
    run = StabilityRun("SD15", ("a",), ("energy",))
    for step in range(20):
        run.record(float(step), 0.5, [Sample("positive", 0)], {"a": torch.full((1, 1, 1), float(step))})
    assert torch.cat([step.values for step in run.steps]).flatten().tolist() == [0, 4, 8, 12, 16]
    assert run.stride == 4


def test_a_file_that_could_not_be_read_again_is_not_written(tmp_path):
    run = StabilityRun("SD15", ("a",), ("energy",))
    for step in range(4):
        samples = [Sample("positive" * 100, number) for number in range(3000)]
        run.record(float(step), 0.5, samples, {"a": torch.zeros(3000, 1, 1)})
    with pytest.raises(ValueError, match="too many samples and steps for one file"):
        StabilityTrace([run]).save(tmp_path / "trace.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("is_there", [False, True])
def test_what_fails_while_it_is_written_leaves_the_file_of_before(tmp_path, monkeypatch, is_there):
    path = tmp_path / "trace.safetensors"
    trace = StabilityTrace([made_run("SD15", steps=2, seed=0, mapped=True)])
    if is_there:
        trace.save(path)
    before = {each: each.read_bytes() for each in tmp_path.iterdir()}

    def fails(tensors, name, metadata):
        Path(name).write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", fails)
    with pytest.raises(OSError, match="No space"):
        trace.save(path)
    assert {each: each.read_bytes() for each in tmp_path.iterdir()} == before


def test_a_file_is_there_under_its_name_only_when_it_is_whole(tmp_path):
    path = tmp_path / "table.csv"
    for number in (1, 2, 3):
        with whole_file(path) as unfinished:
            unfinished.write_text("a" * number)
            assert path.exists() == (number > 1)
            assert not path.exists() or path.read_text() == "a" * (number - 1)
        assert [each.name for each in tmp_path.iterdir()] == ["table.csv"]
