"""Substitutes for the parts of a checkpoint, for shared workflows that a test queues.

SD1.5 and SDXL workflows get the demo model, which is one of their kind and has real weights, by the node that users put
in the place of the loader, the texts and the latent. The other families, and CLIP vision, get a tiny model of the real
class with random weights (lab/testing/fixture_nodes). Every node of this pack stays as it is.
"""

from __future__ import annotations

from typing import Any

from demo_model.shape import CATEGORIES
from lab.folders import ROOT

FIXTURES = {"symmetric-attention-fixtures": ROOT / "lab" / "testing" / "fixture_nodes"}
# The file a loader asks for, and the tiny family that takes its place; every other checkpoint becomes the demo model.
FAMILY_OF = {"z_image_turbo_bf16.safetensors": "ZImage", "stable-audio-open-1.0.safetensors": "StableAudio"}
SITES = {"ZImage": 3, "StableAudio": 2, "demo": 10}
STEPS = 2
SHORTEST_TRIAL = {"minutes": 1440.0, "most_seeds": 4}
SEEDS = ("seed", "noise_seed", "first_seed")


def family_of(prompt: dict[str, Any]) -> str:
    """The name of the stand-in for the checkpoint of `prompt`."""
    values = [value for node in prompt.values() for value in node["inputs"].values() if isinstance(value, str)]
    return next((FAMILY_OF[value] for value in values if value in FAMILY_OF), "demo")


def with_stand_ins(prompt: dict[str, Any], seed: int) -> dict[str, Any]:
    """The prompt with the checkpoint swapped for a model that is on every machine, and fewer steps.

    A server that has run the same workflow with the same `seed` answers from its cache, and nothing is sampled.
    """
    family = family_of(prompt)
    swapped = with_demo_model(prompt) if family == "demo" else with_tiny_model(prompt, family)
    for node in swapped.values():
        node["inputs"] = {
            name: seed if name in SEEDS and isinstance(value, int) else STEPS if name == "steps" else value
            for name, value in node["inputs"].items()
        }
    return swapped


def with_demo_model(prompt: dict[str, Any]) -> dict[str, Any]:
    """The prompt with Demo Model (SAD) in the place of the loader, and all wired to it that it has."""
    replaced = {"CLIPTextEncode", "EmptyLatentImage", "VAEEncode"}
    loaders = [name for name, node in prompt.items() if node["class_type"] == "CheckpointLoaderSimple"]

    def rewired(name: str, value: Any) -> Any:
        kind = prompt[value[0]]["class_type"] if isinstance(value, list) else ""
        if kind == "CLIPTextEncode":
            return [loaders[0], 2 if name == "negative" else 1]
        if kind in replaced:
            return [loaders[0], 4]
        if kind == "CheckpointLoaderSimple":
            return [loaders[0], {0: 0, 1: 2 if name == "negative" else 1, 2: 3}[value[1]]]  # its texts for its CLIP
        return value

    sizes = [node["inputs"].get("batch_size", 1) for node in prompt.values() if node["class_type"] in replaced]
    count = max(sizes, default=1)
    swapped = {}
    for name, node in prompt.items():
        kind, inputs = node["class_type"], node["inputs"]
        if kind in replaced:
            continue
        if kind == "CheckpointLoaderSimple":
            kind, inputs = "SADDemoModel", {"picture": CATEGORIES[1], "count": count}
        elif kind == "SADMeasureCheckpoint":
            inputs = shortest_trial(inputs)
        elif kind == "CLIPVisionLoader":
            kind, inputs = "SADTinyClipVision", {}
        swapped[name] = {"class_type": kind, "inputs": {key: rewired(key, value) for key, value in inputs.items()}}
    return swapped


def shortest_trial(inputs: dict[str, Any]) -> dict[str, Any]:
    """The inputs of the shortest trial there is, on any machine; what takes the place of its CLIP gives both texts."""
    kept = {key: value for key, value in inputs.items() if key != "clip"}
    return {**kept, "positive": inputs["clip"], "negative": inputs["clip"], **SHORTEST_TRIAL}


def with_tiny_model(prompt: dict[str, Any], family: str) -> dict[str, Any]:
    """The prompt with nodes that give the parts of a tiny model of `family`."""
    tiny = {"family": family}
    latent, text = ("SADTinyLatent", tiny), ("SADTinyConditioning", {**tiny, "name": "a"})
    table = {
        "CheckpointLoaderSimple": ("SADTinyModel", tiny),
        "UNETLoader": ("SADTinyModel", tiny),
        "EmptySD3LatentImage": latent,
        "EmptyLatentAudio": latent,
        "CLIPLoader": text,  # for a node that encodes by itself
        "CLIPTextEncode": text,
        "VAELoader": ("SADTinyVae", {}),
        "ConditioningZeroOut": ("ConditioningZeroOut", {}),
        "VAEDecodeAudio": ("SADTinyAudio", {}),
    }
    swapped = {}
    for name, node in prompt.items():
        kind, inputs = node["class_type"], node["inputs"]
        if kind == "SADMeasureCheckpoint":
            inputs = shortest_trial(inputs)
        elif kind in table:
            kind, fixed = table[kind]
            inputs = {**fixed, **{key: value for key, value in inputs.items() if key in ("samples", "conditioning")}}
        swapped[name] = {"class_type": kind, "inputs": dict(inputs)}
    return swapped
