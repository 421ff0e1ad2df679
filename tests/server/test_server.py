"""Whole workflows through a running ComfyUI, queued over its HTTP API, with the demo model's real weights."""

from __future__ import annotations

import csv
import io
import itertools
import re
import sys
import time

import pytest
import torch
from safetensors.torch import load

from lab.demo.comfyui_server import ComfyUIServer, ServerError
from lab.demo.gamma_sweep import GUIDANCE, picture_of, pictures_of, workflow
from lab.demo.model import CATEGORIES, load_model
from lab.demo.sampling import sample
from lab.testing.checkpoint_substitutes import FIXTURES
from sad_core import set_skew_attention

STEPS = 4
ANIMALS = CATEGORIES.index("animals")
fresh = itertools.count(1)


def prompt(gamma: float | None, beta: float = 1.0, seed: int = 4, steps: int = STEPS) -> dict:
    """A workflow the server has not seen before, so that nothing comes from its cache."""
    return workflow(gamma, "animals", seed, beta, steps, nonce=next(fresh))


def tiny(gamma: float | None) -> dict:
    """The same workflow with a model that needs no node of the pack."""
    nodes, family = prompt(gamma), {"family": "SD20"}
    nodes["model"] = {"class_type": "SADTinyModel", "inputs": family}
    nodes["text"] = {"class_type": "SADTinyConditioning", "inputs": {**family, "name": "a"}}
    nodes["latent"] = {"class_type": "SADTinyLatent", "inputs": family}
    nodes["sampler"]["inputs"] |= {"positive": ["text", 0], "negative": ["text", 0], "latent_image": ["latent", 0]}
    del nodes["decode"]
    return nodes


def latent_of(server, nodes: dict) -> torch.Tensor:
    (file,) = server.run(nodes)["numbers"]["latents"]
    return load(server.download(file["filename"]))["latent_tensor"]


@pytest.mark.newest  # on the oldest, host/ compares the bits of a plain model before and after
def test_without_the_node_the_picture_is_the_plain_comfyuis(comfyui, server):
    with ComfyUIServer(comfyui, sys.executable, packs=FIXTURES) as bare:
        untouched = latent_of(bare, tiny(None))
        with pytest.raises(ServerError, match="SADSkewAttention"):
            bare.queue(tiny(1.5))
    assert torch.equal(latent_of(server, tiny(None)), untouched)
    assert not torch.equal(latent_of(server, tiny(1.5)), untouched)
    assert torch.equal(latent_of(server, tiny(None)), untouched)


def test_gamma_one_is_the_plain_picture_bit_for_bit(server):
    assert torch.equal(picture_of(server, prompt(1.0, beta=3.0)), picture_of(server, prompt(None)))


@pytest.mark.parametrize(
    ("gamma", "beta"),
    [
        (2.0, 1.0),
        (1.05, 3.0),
        *(pytest.param(*each, marks=pytest.mark.newest) for each in ((-1.0, 1.0), (0.5, 1.0), (1.2, 5.0))),
    ],
)
def test_comfyui_and_diffusers_draw_the_same_picture(server, gamma, beta):
    model = load_model()
    plain = sample(model, [ANIMALS], [4], steps=STEPS, guidance=GUIDANCE)[0]
    set_skew_attention(model.unet, gamma=gamma, beta=beta)
    want = sample(model, [ANIMALS], [4], steps=STEPS, guidance=GUIDANCE)[0]
    got = picture_of(server, prompt(gamma, beta))
    assert (got - want).abs().max() <= 1e-3
    assert (want - plain).abs().max() > 2e-2  # γ moves the picture far more than the two may differ


def test_a_cancelled_run_leaves_nothing_behind(server):
    before = picture_of(server, prompt(2.0)), picture_of(server, prompt(None))
    running = server.queue(prompt(0.3, beta=4.0, steps=500))
    end = time.monotonic() + 120
    while not re.search(r"\b[1-9]\d*/500\b", server.log):
        assert time.monotonic() < end, "the run never reached its first step"
        time.sleep(0.02)
    server.post("/interrupt")
    with pytest.raises(ServerError, match="interrupted"):
        server.wait(running)
    after = picture_of(server, prompt(2.0)), picture_of(server, prompt(None))
    assert torch.equal(before[0], after[0])
    assert torch.equal(before[1], after[1])
    assert "interrupted: 10 of 10 chosen sites reached" in server.log


def test_the_report_tells_what_happened_and_the_log_says_the_same(server):
    nodes = prompt(1.5)
    nodes["schedule"] = {
        "class_type": "SADGammaSchedule",
        "inputs": {"shape": "linear", "start_gamma": 2.0, "end_gamma": 1.0, "start": 0.0, "end": 1.0}
        | {"keyframes": "", "curve_min": 0.5, "curve_max": 1.5, "values": ""},
    }
    nodes["skew"]["inputs"]["schedule"] = ["schedule", 0]
    nodes["told"] = {"class_type": "SADReport", "inputs": {"report": ["skew", 2], "after": ["sampler", 0]}}
    nodes["text"] = {"class_type": "PreviewAny", "inputs": {"source": ["told", 0]}}
    nodes["drawn"] = {"class_type": "SaveImage", "inputs": {"images": ["schedule", 1], "filename_prefix": "curve"}}
    outputs = server.run(nodes)
    (text,) = outputs["text"]["text"]
    assert "10 of 10 attention sites" in text
    assert f"10 of 10 chosen sites reached, {10 * STEPS} attention calls changed in {STEPS} model calls" in text
    assert "from progress 0.000 (sigma 14.61)" in text
    assert f"{10 * STEPS} attention calls changed in {STEPS} model calls" in server.log
    (picture,) = outputs["drawn"]["images"]
    assert server.download(picture["filename"]).startswith(b"\x89PNG")


def test_a_wrong_block_stops_the_prompt_and_the_right_ones_are_listed(server):
    nodes = prompt(1.5)
    nodes["skew"]["inputs"]["blocks"] = "input.9"
    with pytest.raises(ServerError, match=r'no attention site "input\.9".*middle\.0\.0'):
        server.run(nodes)


def test_a_sweep_draws_every_gamma_and_its_grid(server):
    """Fan out, sample, gather: each picture equals that of its gamma in a run by itself."""
    gammas = (0.5, 1.0, 2.0)
    sweep = prompt(1.0)
    sweep["sweep"] = {"class_type": "SADGammaSweep", "inputs": {"values": "0.5, 1, 2"}}
    sweep["skew"]["inputs"]["gamma"] = ["sweep", 0]
    sweep["grid"] = {"class_type": "SADGammaGrid", "inputs": {"images": ["decode", 0], "gamma": ["sweep", 0]}}
    sweep["shown"] = {"class_type": "PreviewImage", "inputs": {"images": ["grid", 0]}}
    outputs = server.run(sweep)
    got = pictures_of(server, outputs)
    for gamma, pictures in zip(gammas, got, strict=True):
        assert torch.equal(pictures[0], picture_of(server, prompt(gamma)))
    assert len(outputs["shown"]["images"]) == 1


def test_a_sweep_of_several_seeds_is_measured_with_clip_vision(server):
    """Fan out over gammas and seeds, gather by gamma, pair by seed: the drift is that of the pictures saved."""
    sweep = prompt(1.0)
    sweep["sweep"] = {"class_type": "SADGammaSweep", "inputs": {"values": "0.5, 1, 2", "seeds": 2, "first_seed": 5}}
    sweep["skew"]["inputs"]["gamma"] = ["sweep", 0]
    sweep["sampler"]["inputs"]["seed"] = ["sweep", 2]
    sweep["model"]["inputs"]["count"] = 2
    sweep["vision"] = {"class_type": "SADTinyClipVision", "inputs": {}}
    sweep["measured"] = {
        "class_type": "SADDiversityReport",
        "inputs": {"images": ["decode", 0], "gamma": ["sweep", 0]}
        | {"clip_vision": ["vision", 0], "conditioning": ["model", 1]},
    }
    sweep["shown"] = {"class_type": "PreviewImage", "inputs": {"images": ["measured", 0]}}
    sweep["table"] = {"class_type": "PreviewAny", "inputs": {"source": ["measured", 1]}}
    sweep["summary"] = {"class_type": "PreviewAny", "inputs": {"source": ["measured", 2]}}
    outputs = server.run(sweep)
    assert len(outputs["shown"]["images"]) == 1
    (summary,) = outputs["summary"]["text"]
    assert "image embeddings of the CLIP vision model" in summary
    assert "conditioning has no pooled text" in summary
    (table,) = outputs["table"]["text"]
    lines = list(csv.DictReader(io.StringIO(table)))
    assert [line["gamma"] for line in lines] == ["0.5", "1", "2"]
    assert [line["n"] for line in lines] == ["4"] * 3
    saved = pictures_of(server, outputs)
    rows = [torch.cat(saved[place : place + 2]) for place in (0, 2, 4)]
    for line, pictures in zip(lines, rows, strict=True):
        drift = (pictures - rows[1]).square().mean(dim=(1, 2, 3)).sqrt().mean()
        assert float(line["pixel_drift"]) == pytest.approx(float(drift), rel=1e-3, abs=1e-6)
        assert float(line["distance_low"]) < float(line["distance"]) < float(line["distance_high"])


def test_a_probe_is_plotted_saved_and_loaded_and_changes_no_bit(server):
    plain = picture_of(server, prompt(1.5))
    nodes = prompt(1.5)
    nodes["sampler"]["inputs"]["model"] = ["probe", 0]
    nodes["probe"] = {
        "class_type": "SADStabilityProbe",
        "inputs": {"model": ["skew", 0], "blocks": "", "every_nth_step": 1, "depth_and_curvature": False}
        | {"patterns": "value", "map_site": ""},
    }
    read = {"trace": ["probe", 1], "after": ["sampler", 0]}
    nodes["plot"] = {
        "class_type": "SADStabilityPlot",
        "inputs": {**read, "layout": "heat map", "passes": "both", "site": ""},
    }
    nodes["text"] = {"class_type": "PreviewAny", "inputs": {"source": ["plot", 1]}}
    nodes["drawn"] = {"class_type": "SaveImage", "inputs": {"images": ["plot", 0], "filename_prefix": "stability"}}
    nodes["kept"] = {
        "class_type": "SADSaveStabilityTrace",
        "inputs": {**read, "filename_prefix": "stability/trace", "format": "trace"},
    }
    nodes["again"] = {"class_type": "SADLoadStabilityTrace", "inputs": {"file": ["kept", 0]}}
    nodes["same"] = {"class_type": "PreviewAny", "inputs": {"source": ["again", 1]}}
    outputs = server.run(nodes)
    (text,) = outputs["text"]["text"]
    assert f"finished, measured: 10 of 10 sites × {STEPS} steps" in text
    assert outputs["same"]["text"] == [text]
    (picture,) = outputs["drawn"]["images"]
    assert server.download(picture["filename"]).startswith(b"\x89PNG")
    (pictures,) = pictures_of(server, outputs)
    assert torch.equal(pictures[0], plain)


def test_a_baseline_is_made_saved_loaded_and_steers_gamma(server):
    """Missing optional inputs, as in a prompt of the API; a second prompt follows what the first one has learnt."""
    plain = prompt(1.0)
    plain["model"]["inputs"]["count"] = 4  # one image has no spread, and without one nothing is far from normal
    plain["sampler"]["inputs"]["model"] = ["probe", 0]
    plain["probe"] = {
        "class_type": "SADStabilityProbe",
        "inputs": {"model": ["skew", 0], "blocks": "", "every_nth_step": 1, "depth_and_curvature": False}
        | {"patterns": "value", "map_site": ""},
    }
    plain["usual"] = {
        "class_type": "SADStabilityBaseline",
        "inputs": {"trace": ["probe", 1], "after": ["sampler", 0]},
    }
    plain["kept"] = {"class_type": "SADSaveStabilityBaseline", "inputs": {"baseline": ["usual", 0]}}
    plain["name"] = {"class_type": "PreviewAny", "inputs": {"source": ["kept", 0]}}
    plain["words"] = {"class_type": "PreviewAny", "inputs": {"source": ["usual", 1]}}
    outputs = server.run(plain)
    assert outputs["words"]["text"][0].startswith("This baseline of ")
    (name,) = outputs["name"]["text"]
    steered = prompt(1.5)
    steered["again"] = {"class_type": "SADLoadStabilityBaseline", "inputs": {"file": name}}
    widgets = {"gain": 0.5, "direction": "toward 1", "measure": "alignment", "fall_back": 0.0}
    widgets |= {"start_percent": 0.0, "end_percent": 1.0, "dead_band": 0.0, "most_change": 0.1}
    widgets |= {"lowest_gamma": 0.5, "highest_gamma": 2.0, "first_steps": 1, "blocks": ""}
    steered["feedback"] = {
        "class_type": "SADStabilityFeedback",
        "inputs": {"model": ["skew", 0], "baseline": ["again", 0], **widgets},
    }
    steered["sampler"]["inputs"]["model"] = ["feedback", 0]
    steered["report"] = {"class_type": "SADReport", "inputs": {"report": ["skew", 2], "after": ["sampler", 0]}}
    steered["told"] = {"class_type": "PreviewAny", "inputs": {"source": ["report", 0]}}
    steered["plot"] = {
        "class_type": "SADStabilityPlot",
        "inputs": {"trace": ["feedback", 1], "after": ["sampler", 0], "layout": "curves"},
    }
    steered["seen"] = {"class_type": "PreviewAny", "inputs": {"source": ["plot", 2]}}
    outputs = server.run(steered)
    told = outputs["told"]["text"][0]
    assert "Feedback set γ of image 1 to these values, each with the progress of the run: 1.5 at 0.000, " in told
    assert outputs["seen"]["text"][0].splitlines()[0].endswith("alignment,gamma")
    steered["again"]["inputs"]["file"] = "stability/nothing.safetensors"
    with pytest.raises(ServerError, match="There is no file nothing"):
        server.run(steered)
