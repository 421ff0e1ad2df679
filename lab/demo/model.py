"""The demo model: a Stable-Diffusion-shaped UNet of about five million parameters, its category tokens, its whitening.

All of it lives in one file, `MODEL_FILE`, under four kinds of names:

    unet.*         weights of diffusers' UNet2DConditionModel, diffusers names, float16
    context        (categories + 1, 4, 64) learned cross-attention tokens, float16; the last one means "no category"
    latent_mean    (12,) float32, see demo_model/bands.py
    latent_std     (12,) float32

The shape is that of Stable Diffusion 1.x made small, so hosts that know that family hold the same weights after
renaming them, with the options in demo_model/shape.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers import UNet2DConditionModel
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from demo_model.bands import decode, encode
from demo_model.shape import CATEGORIES, COMFYUI_UNET_CONFIG, CONTEXT_TOKENS, NO_CATEGORY, PATH
from lab.folders import ROOT
from sad_core.whole_file import whole_file

__all__ = [
    "CATEGORIES",
    "COMFYUI_UNET_CONFIG",
    "MODEL_FILE",
    "NO_CATEGORY",
    "DemoModel",
    "LatentModel",
    "build_unet",
    "load_as",
    "load_model",
    "read_metadata",
    "save_model",
]

MODEL_FILE = ROOT / PATH
AnyModel = TypeVar("AnyModel", bound="LatentModel")


def build_unet(config: Mapping[str, Any] = COMFYUI_UNET_CONFIG) -> UNet2DConditionModel:
    """The UNet of a ComfyUI `config` with fresh random weights, one ResNet a block and attention in every block.

    Latents (N, in_channels, 16, 16) in and out, context (N, tokens, context_dim).
    """
    widths = tuple(config["model_channels"] * factor for factor in config["channel_mult"])
    return UNet2DConditionModel(
        sample_size=config["image_size"],
        in_channels=config["in_channels"],
        out_channels=config["out_channels"],
        block_out_channels=widths,
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * len(widths),
        mid_block_type="UNetMidBlock2DCrossAttn",
        up_block_types=("CrossAttnUpBlock2D",) * len(widths),
        transformer_layers_per_block=1,
        attention_head_dim=tuple(width // config["num_head_channels"] for width in widths),  # the number of heads
        cross_attention_dim=config["context_dim"],
        norm_num_groups=32,
        use_linear_projection=False,
    )


class LatentModel(nn.Module):
    """The parts of all such models beside their network: learned tokens of the categories, and the latents' whitening.

    Attributes:
        context: (categories + 1, tokens, width); the last row means "no category".
        latent_shape: channels, height and width of a latent.
    """

    latent_mean: Tensor
    latent_std: Tensor

    def __init__(self, categories: int, width: int, latent_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.context = nn.Parameter(torch.randn(categories + 1, CONTEXT_TOKENS, width))
        self.latent_shape = latent_shape
        self.register_buffer("latent_mean", torch.zeros(latent_shape[0]))
        self.register_buffer("latent_std", torch.ones(latent_shape[0]))

    @property
    def network(self) -> nn.Module:
        """The network that predicts from latents."""
        raise NotImplementedError

    def encode(self, pictures: Tensor) -> Tensor:
        """Pictures (N, 3, 32, 32) in [0, 1] -> latents (N, 12, 16, 16)."""
        return encode(pictures, self.latent_mean, self.latent_std)

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (N, 12, 16, 16) -> pictures (N, 3, 32, 32), a little outside [0, 1] at times."""
        return decode(latents, self.latent_mean, self.latent_std)


class DemoModel(LatentModel):
    """Predicts noise and latent in a noisy latent, given how noisy it is and which category it should show."""

    def __init__(self, config: Mapping[str, Any] = COMFYUI_UNET_CONFIG, categories: int = len(CATEGORIES)) -> None:
        shape = (config["in_channels"], config["image_size"], config["image_size"])
        super().__init__(categories, config["context_dim"], shape)
        self.unet = build_unet(config)

    @property
    def network(self) -> UNet2DConditionModel:
        """The network that predicts from latents."""
        return self.unet

    def forward(self, noisy: Tensor, timesteps: Tensor, categories: Tensor) -> Tensor:
        """Velocity (N, 12, 16, 16) of `noisy`, at whole `timesteps` 0...999 (N,), for `categories` (N,) or NO_CATEGORY.

        `noisy` is sqrt(a) * latent + sqrt(1 - a) * noise, a the cumulative alpha of the timestep, and the velocity is
        sqrt(a) * noise - sqrt(1 - a) * latent (v-prediction, Salimans and Ho 2022). Where there is almost only noise,
        it is the picture; a model that predicts the noise there must hand its input through without fault instead.
        """
        velocity: Tensor = self.unet(noisy, timesteps, self.context[categories], return_dict=False)[0]
        return velocity


def save_model(model: LatentModel, path: Path, metadata: dict[str, str]) -> None:
    """Writes one .safetensors: network and context in float16, whitening in float32. Never leaves half a file."""
    tensors = {
        name: (tensor if name.startswith("latent_") else tensor.half()).contiguous()
        for name, tensor in model.state_dict().items()
    }
    with whole_file(path) as unfinished:
        save_file(tensors, unfinished, metadata=metadata)


def load_model(path: Path = MODEL_FILE) -> DemoModel:
    """The demo model of a file in float32, ready for sampling."""
    return load_as(DemoModel, path)


def load_as(build: Callable[[], AnyModel], path: Path) -> AnyModel:
    """The model that `build` makes, with the weights of a file. Raises where tensors are missing or foreign."""
    model = build()
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118 (not a dict)
    model.load_state_dict(tensors)
    return model.eval().requires_grad_(False)


def read_metadata(path: Path = MODEL_FILE) -> dict[str, str]:
    """Return the metadata that training wrote beside the weights: steps, minutes, loss."""
    with safe_open(path, framework="pt") as file:
        return file.metadata() or {}
