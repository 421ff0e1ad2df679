"""Names and numbers of the test bed's model. Plain values, so that hosts without diffusers can read them."""

from __future__ import annotations

from pathlib import Path

from demo.shape import COMFYUI_UNET_CONFIG as DEMO_UNET_CONFIG

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
LATENT_CHANNELS = 4
MODEL_FILE = Path(__file__).with_name("model.safetensors")

# The demo's family of networks, wider and with one picture channel instead of three.
COMFYUI_UNET_CONFIG = {
    **DEMO_UNET_CONFIG,
    "in_channels": LATENT_CHANNELS,
    "out_channels": LATENT_CHANNELS,
    "channel_mult": [1, 2, 2],
}
