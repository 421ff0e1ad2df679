"""The slider: calibrated by a sweep on this checkpoint, it turns only γ, and its text says what a position means."""

from __future__ import annotations

import importlib
import json

import pytest
import torch
from symmetric_attention.nodes.calibrate import CalibrateNode
from symmetric_attention.nodes.creativity import NONE, CreativityNode
from symmetric_attention.nodes.demo_model import DemoModelNode
from symmetric_attention.nodes.host import calibrating
from symmetric_attention.nodes.host.calibrating import SHIPPED
from symmetric_attention.nodes.host.checkpoint import are_the_same, numbers_of
from symmetric_attention.nodes.host.run_origin import Upstream
from symmetric_attention.sad_core.evaluation.calibration_file import load_calibration

from lab.testing.run_nodes import execute, patches_of, skew

GAMMAS = (0.8, 1.0, 1.5, 2.0)
# How far the four images of a γ lie apart, and how far they moved from γ = 1.
SPREAD = {0.8: 0.8, 1.0: 1.0, 1.5: 1.4, 2.0: 1.8}


@pytest.fixture
def output(tmp_path, monkeypatch):
    folder_paths = importlib.import_module("folder_paths")
    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path))
    return tmp_path


def images_of(gamma):
    """Four images around grey, further from it for a larger spread."""
    pattern = torch.rand(4, 32, 32, 3, generator=torch.Generator().manual_seed(0)) - 0.5
    return 0.5 + 0.2 * SPREAD[gamma] * pattern


def sweep(family, gammas=GAMMAS, **widgets):
    widgets = {"beta": 1.0, **widgets}
    return {
        "images": [images_of(gamma) for gamma in gammas],
        "gamma": list(gammas),
        "model": [skew(family.model, gamma=gamma, **widgets)[0] for gamma in gammas],
    }


def calibrated(family, **widgets):
    return execute(CalibrateNode, **sweep(family, **widgets))


def gamma_of(model):
    (patch,) = patches_of(model)
    return patch.settings.gamma_schedule.gamma_range


def test_a_sweep_becomes_a_file_that_the_slider_reads(sd15, output):
    file, summary = calibrated(sd15, beta=3.0, end_percent=0.6)
    assert file == "calibration/own_00001_.calibration.json"
    assert summary.startswith(
        "Calibrated on SD15 with γ = 0.8, 1, 1.5, 2 (4 images of each), compared in pixels of 32×32 thumbnails"
    )
    assert "The creative end is γ 2: two images lie " in summary
    assert "The precise end is γ 0.8: two images lie " in summary
    assert file in CreativityNode.GET_SCHEMA().inputs[2].options
    for position, gamma in ((1.0, 2.0), (0.5, 1.5), (0.25, 1.25), (-1.0, 0.8), (-0.5, 0.9)):
        model, text, _ = execute(CreativityNode, model=sd15.model, position=position, file=file)
        assert gamma_of(model) == pytest.approx((gamma, gamma), abs=1e-4)
        (patch,) = patches_of(model)
        assert (patch.settings.beta, patch.settings.start, patch.settings.end) == (3.0, 0.0, 0.6)
        means = f"Position {position:g} means γ {gamma:g} and β 3, from 0 % to 60 % of the run."
        assert text.startswith(f"{means} In the sweep two images")
        assert ("further apart" in text) == (position > 0)


def test_the_picture_is_that_of_skew_attention_with_the_same_gamma(sd15, output):
    file, _ = calibrated(sd15)
    model, _, report = execute(CreativityNode, model=sd15.model, position=1.0, file=file)
    assert report.describe(Upstream({})).startswith(
        'The input "after" did not come from a run through this Creativity (SAD).'
    )
    wanted, _ = skew(sd15.model, gamma=2.0, beta=1.0)
    assert sd15.sample(model).equal(sd15.sample(wanted))
    assert "1 of" not in report.describe()
    assert report.runs[-1].status == "finished"


@pytest.mark.parametrize("is_calibrated", [True, False])
def test_the_middle_of_the_slider_is_the_plain_model(sd15, output, is_calibrated):
    file = calibrated(sd15)[0] if is_calibrated else NONE
    model, text, _ = execute(CreativityNode, model=sd15.model, position=0.0, file=file)
    assert not model.object_patches
    assert "Position 0 means γ 1 and β 1." in text


@pytest.mark.parametrize(("position", "gamma"), [(1.0, 1.5), (0.5, 1.25), (-1.0, 0.9), (-0.5, 0.95)])
def test_without_a_calibration_it_says_so_and_takes_the_default_range(sd15, position, gamma):
    model, text, _ = execute(CreativityNode, model=sd15.model, position=position)
    assert gamma_of(model) == pytest.approx((gamma, gamma))
    assert "The slider is not calibrated for this checkpoint. It uses the default range, γ 0.9 to 1.5" in text


def test_a_calibration_that_ships_is_taken_for_its_checkpoint_only(sd15, monkeypatch):
    demo = DemoModelNode.execute().args[0]
    (shipped,) = SHIPPED.glob("*.calibration.json")
    for position in (-1.0, 0.4, 1.0):
        model, text, _ = execute(CreativityNode, model=demo, position=position)
        wanted = load_calibration(shipped).at(position).gamma
        assert wanted == 1.0 or gamma_of(model) == (wanted, wanted)
        assert text.endswith("The calibration comes with the pack.")
    for weight in demo.model.diffusion_model.parameters():  # another checkpoint of the same class
        if weight.dim() == 1:
            weight.add_(1.0)
    for other in (demo, sd15.model):
        _, text, _ = execute(CreativityNode, model=other)
        assert "The slider is not calibrated for this checkpoint" in text
    monkeypatch.setattr(calibrating, "numbers_of", lambda model: ())  # weights that cannot be read
    assert calibrating.shipped_calibration(DemoModelNode.execute().args[0]) is None


def test_half_a_slider_without_a_gain_stays_plain_and_says_so(sd15, output, monkeypatch):
    monkeypatch.setitem(SPREAD, 0.8, 1.0)
    file, summary = calibrated(sd15)
    assert "No γ moved the seeds towards the precise end, so that half of the slider stays at γ 1." in summary
    model, text, _ = execute(CreativityNode, model=sd15.model, position=-0.7, file=file)
    assert not model.object_patches
    sentence = (
        "The calibration found no γ that moved the seeds towards the precise end, so this is the unpatched model."
    )
    assert sentence in text


def test_a_calibration_of_another_checkpoint_is_refused(sd15, sd3, output):
    file, _ = calibrated(sd15)
    with pytest.raises(
        ValueError, match=r"The calibration was made with SD15, but the MODEL is SD3. Calibrate this checkpoint"
    ):
        execute(CreativityNode, model=sd3.model, position=1.0, file=file)
    content = json.loads((output / file).read_text())
    content["weights"][0] += 1.0
    (output / file).write_text(json.dumps(content))
    with pytest.raises(
        ValueError, match=r"The calibration was made with another checkpoint of the class SD15. Calibrate this one"
    ):
        execute(CreativityNode, model=sd15.model, position=1.0, file=file)


def test_a_checkpoint_is_known_again_in_half_precision(sd15):
    own = numbers_of(sd15.model)
    assert len(own) == 16
    assert are_the_same(own, numbers_of(skew(sd15.model)[0]))
    assert are_the_same(own, tuple(torch.tensor(own).to(torch.bfloat16).float().tolist()))
    assert not are_the_same(own, tuple(number + 0.1 for number in own))
    assert are_the_same(own, ())


@pytest.mark.parametrize(
    ("widgets", "sentence"),
    [
        ({"adaptive": "gamma"}, "A slider sets gamma and takes beta, start_percent and end_percent from the sweep, so"),
        ({"blocks": "middle"}, "blocks empty"),
        ({"apply_to": "cond"}, "apply_to both"),
    ],
)
def test_a_sweep_of_other_settings_is_refused(sd15, output, widgets, sentence):
    with pytest.raises(ValueError, match=sentence):
        calibrated(sd15, **widgets)


def test_a_sweep_that_turned_more_than_gamma_is_refused(sd15, output):
    mixed = sweep(sd15)
    mixed["model"][-1] = skew(sd15.model, gamma=2.0, beta=3.0)[0]
    with pytest.raises(ValueError, match="The runs of the sweep differ in beta, start_percent or end_percent"):
        execute(CalibrateNode, **mixed)
    mixed["model"][-1] = skew(mixed["model"][0], gamma=2.0, beta=1.0)[0]
    with pytest.raises(ValueError, match="went through several Skew Attention"):
        execute(CalibrateNode, **mixed)
    with pytest.raises(ValueError, match="No MODEL is wired"):
        execute(CalibrateNode, **{**mixed, "model": []})
    with pytest.raises(ValueError, match="filename_prefix"):
        execute(CalibrateNode, **sweep(sd15), filename_prefix=["../out"])
    assert not list(output.iterdir())


def test_wires_and_names_are_checked_in_place_of_the_host(output):
    told = CreativityNode.PREPARE_CLASS_CLONE(None).validate_inputs  # as ComfyUI asks
    assert told(NONE, {}) is told("not/there/yet.calibration.json", {}) is told(None, {"file": "STRING"}) is True
    assert told(NONE, {"model": "MODEL", "position": "FLOAT"}) is True
    assert told(NONE, {"model": "VAE"}) == "model comes from an output of type VAE. Wire it to an output of type MODEL."
    assert "a name inside ComfyUI's output folder" in told("../own.calibration.json", {})
    with pytest.raises(ValueError, match="There is no file nowhere"):
        execute(CreativityNode, model=None, position=0.0, file="nowhere.calibration.json")
