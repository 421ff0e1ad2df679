"""What the demo model is called and how it is shaped; plain numbers, so that hosts without diffusers can read them."""

from __future__ import annotations

from pathlib import Path

from lab.demo.latent import LATENT_CHANNELS, LATENT_SIZE

CATEGORIES = ("smileys", "animals", "food")
NO_CATEGORY = -1  # the last row of the context, however many categories a model knows
CONTEXT_TOKENS = 4
CONTEXT_WIDTH = 64
MODEL_FILE = Path(__file__).with_name("model.safetensors")

# The network in ComfyUI's words; demo/model.py builds the same one in diffusers' words.
COMFYUI_UNET_CONFIG = {
    "image_size": LATENT_SIZE,
    "in_channels": LATENT_CHANNELS,
    "out_channels": LATENT_CHANNELS,
    "model_channels": 64,
    "channel_mult": [1, 1, 2],
    "num_res_blocks": [1, 1, 1],
    "transformer_depth": [1, 1, 1],
    "transformer_depth_output": [1, 1, 1, 1, 1, 1],
    "transformer_depth_middle": 1,
    "context_dim": CONTEXT_WIDTH,
    "num_heads": -1,
    "num_head_channels": 32,
    "use_spatial_transformer": True,
    "use_linear_in_transformer": False,
    "adm_in_channels": None,
    "use_temporal_attention": False,
    "legacy": False,
}
