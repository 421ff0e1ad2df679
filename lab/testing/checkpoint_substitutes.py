"""What stands in for the parts of a checkpoint when a shared workflow is queued in a test.

SD1.5 and SDXL workflows get the demo model, which is one of their kind and has real weights. The other families, and
CLIP vision, get a tiny model of the real class with random weights (lab/testing/fixture_nodes). Every node of this pack
stays as it is.
"""

from __future__ import annotations

from typing import Any

from lab.folders import ROOT

FIXTURES = {"symmetric-attention-fixtures": ROOT / "lab" / "testing" / "fixture_nodes"}
# The file a loader asks for, and the tiny family that takes its place; every other checkpoint becomes the demo model.
FAMILY_OF = {"z_image_turbo_bf16.safetensors": "ZImage", "stable-audio-open-1.0.safetensors": "StableAudio"}
SITES = {"ZImage": 3, "StableAudio": 2, "demo": 10}
STEPS = 4
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
    tiny = {"family": family}
    demo = family == "demo"
    model = ("SADDemoModel", {}) if demo else ("SADTinyModel", tiny)
    latent = ("SADDemoLatent", {"count": 1, "nonce": 0}) if demo else ("SADTinyLatent", tiny)
    text = ("SADDemoConditioning", {"category": "animals"}) if demo else ("SADTinyConditioning", {**tiny, "name": "a"})
    table = {
        **dict.fromkeys(("CheckpointLoaderSimple", "UNETLoader"), model),
        **dict.fromkeys(("EmptyLatentImage", "EmptySD3LatentImage", "EmptyLatentAudio", "VAEEncode"), latent),
        "CLIPTextEncode": text,
        "CLIPVisionLoader": ("SADTinyClipVision", {}),
        "ConditioningZeroOut": ("ConditioningZeroOut", {}),
        "VAEDecode": ("SADDemoDecode", {"enlarge": 1}) if demo else ("SADTinyImage", {}),
        "VAEDecodeAudio": ("SADTinyAudio", {}),
    }
    dropped = {"CLIPLoader", "VAELoader"}
    swapped = {}
    for name, node in prompt.items():
        kind, inputs = node["class_type"], node["inputs"]
        if kind in dropped:
            continue
        if kind in table:
            kind, fixed = table[kind]
            inputs = {**fixed, **{key: value for key, value in inputs.items() if key in ("samples", "conditioning")}}
        elif "steps" in inputs:
            inputs = {**inputs, "steps": STEPS}
        inputs = {key: seed if key in SEEDS and isinstance(value, int) else value for key, value in inputs.items()}
        swapped[name] = {"class_type": kind, "inputs": inputs}
    return swapped
