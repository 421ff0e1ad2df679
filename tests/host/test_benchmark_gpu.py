"""The scripts that time the pack on a card run whole on the CPU, at tiny sizes."""

from __future__ import annotations

import json
import subprocess
import sys

import folder_paths
import pytest
import torch

from lab.benchmarks.gpu.checkpoint_run import TINY, run
from lab.benchmarks.gpu.pages import GOALS
from lab.folders import ROOT

pytestmark = [pytest.mark.newest, pytest.mark.long]


def test_every_part_of_the_script_runs_at_tiny_sizes(tmp_path):
    output = tmp_path / "gpu.json"
    command = [sys.executable, "-m", "lab.benchmarks.gpu", "--comfyui", folder_paths.base_path, "--tiny", "--write"]
    printed = subprocess.run([*command, "--output", str(output)], cwd=ROOT, check=True, capture_output=True, text=True)
    found = json.loads(output.read_text(encoding="utf-8"))
    assert "failed" not in found
    assert [row["shape"] for row in found["attention"]] == ["tiny 2 2 48 40", "tiny 1 2 65 64"]
    for row in found["attention"]:
        assert {"plain", "γ, doubled heads", "γ and β, doubled heads", "η", "three measures"} <= set(row["seconds"])
    unet, flux = found["steps"].values()
    assert unet["same bits at γ = 1"]
    assert flux["same bits at γ = 1"]
    assert {*unet["seconds"], "compiled, plain", "compiled, γ"} == set(flux["seconds"])
    for mode, goal in GOALS.items():
        assert f"| {mode} |" in printed.stdout
        assert f"| {goal:g} |" in printed.stdout


def test_a_trial_of_a_random_sdxl_says_its_plan_and_its_time(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path))
    said = run(60.0, torch.device("cpu"), tiny=True, **TINY).split("\n")
    assert said[0].startswith("The first 4 seeds are sampled at γ 1")
    assert said[1].startswith("An image takes ")
    assert any("was chosen among 5 settings of γ, tried on 4 seeds and 1 prompt" in line for line in said)
    assert said[-1].startswith("Spent ")
    assert " of 60 minutes, " in said[-1]
    assert "NaN" not in "".join(said)
