"""Names and numbers of the test bed's model. Plain values, so that hosts without diffusers can read them."""

from __future__ import annotations

from pathlib import Path

from demo_model.shape import COMFYUI_UNET_CONFIG as DEMO_UNET_CONFIG

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

# The demo's family of networks: self-attention among 64, 16 and 4 tokens, all of them 96 channels wide.
COMFYUI_UNET_CONFIG = {
    **DEMO_UNET_CONFIG,
    "image_size": LATENT_SIZE,
    "in_channels": LATENT_CHANNELS,
    "out_channels": LATENT_CHANNELS,
    "model_channels": 96,
    "channel_mult": [1, 1, 1],
}
