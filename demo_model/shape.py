"""The name, the file and the shape of the demo model.

Plain values, so that hosts without diffusers can read them. A model that takes its place changes this file.
"""

from __future__ import annotations

REPOSITORY = "https://github.com/symmetric-attention/symmetric-attention"  # kept by lab/generate/addresses.py
FILE = "sad_demo_emoji.safetensors"
PATH = f"lab/demo/{FILE}"  # in the repository
ADDRESS = f"{REPOSITORY}/raw/main/{PATH}"
MEGABYTES = 10

CATEGORIES = ("smileys", "animals", "food")
NO_CATEGORY = -1  # the last row of the context, however many categories a model knows
CONTEXT_TOKENS = 4
CONTEXT_WIDTH = 64
LATENT_CHANNELS = 12
LATENT_SIZE = 16

# The network in ComfyUI's words; lab/demo/model.py builds the same one in diffusers' words.
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
