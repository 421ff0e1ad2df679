"""Measure Your Checkpoint in a running ComfyUI, with the demo model's real weights: cancelled, and gone on with."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from PIL import Image

from lab.demo.comfyui_server import ServerError
from lab.demo.gamma_sweep import GUIDANCE
from sad_core.evaluation.calibration_file import load_calibration
from sad_core.evaluation.trial.plan import FEWEST_SEEDS
from sad_core.evaluation.trial.result_file import load_trial
from sad_core.evaluation.trial.ways import LADDER, PLAIN

STEPS = 2


def prompt() -> dict:
    wired = {"model": 0, "positive": 1, "negative": 2, "vae": 3, "latent_image": 4}
    inputs: dict[str, object] = {name: ["load", output] for name, output in wired.items()}
    inputs |= {"minutes": 1440, "most_seeds": FEWEST_SEEDS, "steps": STEPS, "cfg": GUIDANCE, "scheduler": "simple"}
    inputs |= {"largest_drift": 1.0}
    shown = {"class_type": "PreviewAny", "inputs": {}}
    return {
        "load": {"class_type": "SADDemoModel", "inputs": {"picture": "food", "count": 1}},
        "measure": {"class_type": "SADMeasureCheckpoint", "inputs": inputs},
        "sheet": {"class_type": "SaveImage", "inputs": {"images": ["measure", 0], "filename_prefix": "sheet"}},
        "summary": {**shown, "inputs": {"source": ["measure", 2]}},
        "file": {**shown, "inputs": {"source": ["measure", 3]}},
        "slider": {**shown, "inputs": {"source": ["measure", 4]}},
    }


def pictures(server) -> list[Path]:
    return sorted(server.output.rglob("trial/*/*.png"))


def test_a_trial_that_was_cancelled_goes_on_and_gives_all_it_promises(server):
    running = server.queue(prompt())
    end = time.monotonic() + 120
    while len(pictures(server)) < 4:
        assert time.monotonic() < end, "the trial never made its first pictures"
        time.sleep(0.02)
    server.post("/interrupt")
    with pytest.raises(ServerError, match="interrupted"):
        server.wait(running)
    before = {path: path.stat().st_mtime_ns for path in pictures(server)}
    outputs = server.run(prompt())
    (summary,), (file,), (slider,) = (outputs[name]["text"] for name in ("summary", "file", "slider"))
    assert {path: path.stat().st_mtime_ns for path in before} == before
    trial = load_trial(server.output / file)
    assert [each.way for each in trial.choice] == [PLAIN, *LADDER]
    assert trial.counted_seeds == (FEWEST_SEEDS, FEWEST_SEEDS)
    assert summary.splitlines()[1].startswith(
        f"{trial.model}: {trial.chosen} was chosen among 5 settings of γ, tried on 4 seeds and 1 prompt"
    )
    assert {point.gamma for point in load_calibration(server.output / slider).points} >= {0.8, 1.0, 1.5}
    with Image.open(server.output / outputs["sheet"]["images"][0]["filename"]) as sheet:
        assert sheet.width > sheet.height > 100
