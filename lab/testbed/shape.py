"""Names and numbers of the test bed's models. Plain values, so that hosts without diffusers can read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from demo_model.shape import COMFYUI_UNET_CONFIG as DEMO_UNET_CONFIG
from demo_model.shape import CONTEXT_WIDTH

CLASSES = (
    "T-shirt",
    "trousers",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
PICTURE_SIZE = 28  # pixels a side
PADDING = 2  # black pixels on each side, so that every resolution of the network is even
LATENT_SIZE = 8  # two Haar steps from 32 pixels; with one, and 4 channels, a step of training takes 2.5 times as long
LATENT_CHANNELS = 16
MODEL_FILE = Path(__file__).with_name("model.safetensors")
DIT_FILE = Path(__file__).with_name("dit.safetensors")
TWIN_FILE = Path(__file__).with_name("twin.safetensors")

# The demo's family of networks: self-attention among 64, 16 and 4 tokens, all of them 96 channels wide.
COMFYUI_UNET_CONFIG = {
    **DEMO_UNET_CONFIG,
    "image_size": LATENT_SIZE,
    "in_channels": LATENT_CHANNELS,
    "out_channels": LATENT_CHANNELS,
    "model_channels": 96,
    "channel_mult": [1, 1, 1],
}

# A NextDiT, the class of Lumina Image 2.0 and Z-Image: self-attention among 64 pixels and 4 tokens of the class.
COMFYUI_DIT_CONFIG: dict[str, Any] = {
    "image_model": "lumina2",
    "patch_size": 1,
    "in_channels": LATENT_CHANNELS,
    "dim": 192,
    "n_layers": 4,
    "n_refiner_layers": 1,
    "n_heads": 6,
    "n_kv_heads": 6,
    "qk_norm": True,
    "cap_feat_dim": CONTEXT_WIDTH,
    "axes_dims": [8, 12, 12],
    "axes_lens": [300, 512, 512],
    "rope_theta": 256.0,
    "ffn_dim_multiplier": 8 / 3,
    "time_scale": 1000.0,
}
