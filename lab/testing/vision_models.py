"""A tiny CLIP vision model of the host's own class, the same random weights on every machine."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import comfy.clip_vision

from lab.testing.families.family import draw

HIDDEN, WIDTH = 32, 16
TINY = {
    "model_type": "clip_vision_model",
    "hidden_act": "quick_gelu",
    "hidden_size": HIDDEN,
    "image_size": 28,
    "intermediate_size": 64,
    "num_attention_heads": 2,
    "num_channels": 3,
    "num_hidden_layers": 3,
    "patch_size": 14,
    "projection_dim": WIDTH,
}
# SigLIP's embeddings are one for every patch.
SIGLIP = {"model_type": "siglip_vision_model", "image_mean": [0.5] * 3, "image_std": [0.5] * 3}


def tiny_clip_vision(**config: Any) -> comfy.clip_vision.ClipVisionModel:
    """A CLIP_VISION with `config` in the place of what `TINY` says."""
    with tempfile.TemporaryDirectory() as folder:  # the oldest host reads its configuration from a file
        path = Path(folder) / "config.json"
        path.write_text(json.dumps(TINY | config), encoding="utf-8")
        vision = comfy.clip_vision.ClipVisionModel(str(path))
    for name, weight in vision.model.named_parameters():
        size = 1.0 if weight.dim() == 1 else weight[0].numel() ** -0.5
        weight.data = (size * draw(f"clip vision {name}", tuple(weight.shape))).to(weight)
    return vision
