"""Best Of Sampler in a running ComfyUI, with the demo model's real weights, by prompts in API format."""

from __future__ import annotations

import csv
import io
import itertools
import re
import time
from typing import Any

import pytest
import torch

from lab.demo.comfyui_server import ServerError
from lab.demo.gamma_sweep import GUIDANCE, pictures_of, workflow

SEED, STEPS = 11, 4
fresh = itertools.count(1000)


def prompt(node: str, steps: int = STEPS, seed: int = SEED, **inputs) -> dict:
    """The demo model with a probe, sampled by `node`; optional inputs are left out."""
    nodes = workflow(None, "food", seed, steps=steps)
    del nodes["sampler"]
    nodes["probe"] = {
        "class_type": "SADStabilityProbe",
        "inputs": {"model": ["model", 0], "blocks": "middle", "every_nth_step": 1, "depth_and_curvature": False}
        | {"patterns": "value", "map_site": ""},
    }
    nodes["noise"] = {"class_type": "RandomNoise", "inputs": {"noise_seed": seed, "nonce": next(fresh)}}
    nodes["guider"] = {
        "class_type": "CFGGuider",
        "inputs": {"model": ["probe", 0], "positive": ["model", 1], "negative": ["model", 2], "cfg": GUIDANCE},
    }
    nodes["solver"] = {"class_type": "KSamplerSelect", "inputs": {"sampler_name": "dpmpp_2m_sde"}}
    schedule = {"model": ["model", 0], "scheduler": "karras", "steps": steps, "denoise": 1.0}
    nodes["sigmas"] = {"class_type": "BasicScheduler", "inputs": schedule}
    wired = {"noise": ["noise", 0], "guider": ["guider", 0], "sampler": ["solver", 0], "sigmas": ["sigmas", 0]}
    nodes["sampler"] = {"class_type": node, "inputs": {**wired, "latent_image": ["model", 4], **inputs}}
    return nodes


def best_of(choose: str, steps: int = STEPS, **inputs) -> dict:
    widgets: dict[str, Any] = {
        "candidates": 4,
        "keep": 2,
        "decide_at": 0.3,
        "rounds": 1,
        "measure": "alignment",
        "sites": "",
    }
    widgets |= {"max_tries": 1, "threshold": 0.0, "images_at_once": 1, **inputs}
    nodes = prompt("SADBestOfSampler", steps, choose=choose, **widgets)
    for output, name in ((2, "table"), (4, "summary")):
        nodes[name] = {"class_type": "PreviewAny", "inputs": {"source": ["sampler", output]}}
    reads = {"trace": ["sampler", 3], "layout": "heat map", "passes": "both", "site": "", "after": ["sampler", 0]}
    nodes["plot"] = {"class_type": "SADStabilityPlot", "inputs": reads}
    nodes["measured"] = {"class_type": "PreviewAny", "inputs": {"source": ["plot", 1]}}
    nodes["scores"] = {"class_type": "PreviewAny", "inputs": {"source": ["sampler", 1]}}
    return nodes


def images_of(server, outputs: dict) -> torch.Tensor:
    (images,) = pictures_of(server, outputs)
    return images


def test_what_is_kept_are_the_images_of_its_seeds_also_after_a_cancel(server):
    outputs = server.run(best_of("most stable"))
    images = images_of(server, outputs)
    lines = list(csv.DictReader(io.StringIO(outputs["table"]["text"][0])))
    kept = [int(line["seed"]) for line in lines if line["kept"] == "1"]
    assert [int(line["seed"]) for line in lines] == [SEED, SEED + 1, SEED + 2, SEED + 3]
    assert len(kept) == len(images) == 2
    ranked = sorted(lines, key=lambda line: -float(line["score"]))
    assert sorted(int(line["seed"]) for line in ranked[:2]) == kept
    assert len(outputs["scores"]["text"]) == 2
    for image, seed in zip(images, kept, strict=True):
        alone = images_of(server, server.run(prompt("SamplerCustomAdvanced", seed=seed)))
        assert torch.equal(image, alone[0])
    # 4 candidates for a step, 2 of them for 3 more
    cost = "10 image steps (one image in one model call). Finishing every candidate would have taken 16."
    assert cost in outputs["summary"]["text"][0]
    assert f"sites × {STEPS} steps" in outputs["measured"]["text"][0]

    running = server.queue(best_of("most stable", steps=400))
    end = time.monotonic() + 120
    while not re.search(r"\b[1-9]\d*/400\b", server.log):
        assert time.monotonic() < end, "the run never reached its first step"
        time.sleep(0.02)
    server.post("/interrupt")
    with pytest.raises(ServerError, match="interrupted"):
        server.wait(running)
    assert torch.equal(images_of(server, server.run(best_of("most stable"))), images)


def test_a_gate_that_is_never_passed_says_so(server):
    outputs = server.run(best_of("most stable", candidates=1, keep=1, max_tries=2, threshold=1000.0))
    (summary,) = outputs["summary"]["text"]
    assert "The gate was not passed in 2 of 2 tries. These are the best so far" in summary
    assert len(images_of(server, outputs)) == 1


def test_what_does_not_fit_stops_the_prompt_with_a_sentence(server):
    nodes = best_of("most stable")
    nodes["guider"]["inputs"]["model"] = ["model", 0]
    with pytest.raises(ServerError, match="nothing measures how stable the samples are"):
        server.run(nodes)
    with pytest.raises(ServerError, match='"keep" is 3, but it must be from 1 to 2, the number of candidates'):
        server.run(best_of("most different", candidates=2, keep=3))
