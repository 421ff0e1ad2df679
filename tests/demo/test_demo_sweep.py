"""The output of `make demo`: the picture, the table, and its numbers."""

from __future__ import annotations

import io
import itertools
import sys

import pytest
import torch
from PIL import Image

from lab.demo import gamma_sweep


def test_the_spread_is_the_mean_distance_within_categories():
    pictures = torch.rand(5, 3, 32, 32)
    categories = [0, 0, 0, 1, 1]
    pairs = [pair for pair in itertools.combinations(range(5), 2) if categories[pair[0]] == categories[pair[1]]]
    want = sum(float((pictures[a] - pictures[b]).square().mean().sqrt()) for a, b in pairs) / len(pairs)
    assert gamma_sweep.spread(pictures, categories) == pytest.approx(want, rel=1e-5)


def test_the_command_writes_picture_and_table(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gamma_sweep, "GAMMAS", (0.0, 1.0))
    monkeypatch.setattr(gamma_sweep, "STEPS", 2)
    monkeypatch.setattr(gamma_sweep, "SEEDS_PER_CATEGORY", 2)
    monkeypatch.setattr(sys, "argv", ["gamma_sweep", "--output", str(tmp_path / "sweep.png")])
    assert gamma_sweep.main() == 0
    told = capsys.readouterr()
    assert told.err == ""  # a log gets a line for each row, and a terminal the steps between them
    assert "γ 1, row 2 of 2: 6 pictures" in told.out
    assert told.out.rstrip().endswith("make demo COMFYUI=~/ComfyUI")
    rows = [line.split() for line in told.out.splitlines() if len(line.split()) == 3]
    by_gamma = {float(row[0]): [float(number) for number in row[1:]] for row in rows if row[0] in ("0", "1")}
    assert by_gamma[1.0][0] == 0.0
    assert by_gamma[0.0][0] > 0.001
    assert all(apart > 0.01 for _, apart in by_gamma.values())
    with Image.open(tmp_path / "sweep.png") as picture:
        assert min(picture.size) > 200


def test_a_terminal_sees_the_steps_of_a_row(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    out = Terminal()
    monkeypatch.setattr(sys, "stderr", out)
    monkeypatch.setattr(gamma_sweep, "STEPS", 2)
    gamma_sweep.sweep_in_diffusers([0.5], [0], [0], beta=1.0)
    shown = out.getvalue().split("\r\033[K")
    assert shown == ["", "γ 0.5, row 1 of 1: step 1 of 2", "γ 0.5, row 1 of 1: step 2 of 2", ""]
