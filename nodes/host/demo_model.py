"""The demo model in ComfyUI: its file in the folder of checkpoints, and the MODEL, the texts and the VAE made of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.sd
import comfy.supported_models
import comfy.utils
import folder_paths
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from ...demo_model.bands import decode, encode
from ...demo_model.shape import (
    ADDRESS,
    CATEGORIES,
    COMFYUI_UNET_CONFIG,
    FILE,
    LATENT_CHANNELS,
    LATENT_SIZE,
    MEGABYTES,
    NO_CATEGORY,
    PATH,
)

FOLDER = "checkpoints"
CLONE = Path(__file__).resolve().parents[2]
HAAR_STEP = 2  # pixels of a picture, on each side, that become one of the latent


class DemoLatentFormat(comfy.latent_formats.LatentFormat):
    """Haar bands, whitened: unit variance already, so nothing to scale."""

    scale_factor = 1.0


class DemoModel(comfy.supported_models.SD15):
    """SD1.5 with the channels of another latent."""

    latent_format = DemoLatentFormat
    unet_extra_config: ClassVar = {"num_heads": -1, "num_head_channels": 32}  # SD1.5's own asks for 8 heads everywhere

    def __init__(self, unet_config: dict[str, Any]):
        super().__init__(unet_config)
        self.latent_format.latent_channels = unet_config["in_channels"]

    def model_type(self, *_: object) -> comfy.model_base.ModelType:
        """The network answers with the velocity."""
        return comfy.model_base.ModelType.V_PREDICTION

    def inpaint_model(self) -> bool:
        """Never: ComfyUI takes any SD1.5 of more than four channels for one that paints into a masked picture."""
        return False


class Bands(nn.Module):
    """The demo model's substitute for an autoencoder: the Haar transform and the whitening."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def encode(self, pictures: Tensor) -> Tensor:
        """Latents of pictures (N, C, H, W) in [0, 1]."""
        return encode(pictures, self.mean, self.std)

    def decode(self, latents: Tensor, **_: object) -> Tensor:
        """Pictures of latents, a little outside [0, 1] at times."""
        return decode(latents, self.mean, self.std)


def find_file() -> Path:
    """The file of the demo model: in the folder of checkpoints, or in a clone of the repository.

    Raises:
        FileNotFoundError: it is in neither; the sentence says where it is and where to put it.
    """
    found = folder_paths.get_full_path(FOLDER, FILE)
    if found is not None:
        return Path(found)
    if (CLONE / PATH).is_file():
        return CLONE / PATH
    raise FileNotFoundError(
        f"The file of the demo model is missing. Download {ADDRESS} ({MEGABYTES} MB), put it into "
        f"{folder_paths.get_folder_paths(FOLDER)[0]}, and run again."
    )


def fingerprint() -> str:
    """A text that changes when the file does."""
    try:
        path = find_file()
    except FileNotFoundError:
        return ""
    return f"{path} {path.stat().st_mtime_ns}"


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of the file.

    Raises:
        ValueError: it is not the file of the demo model, or not whole.
    """
    try:
        weights: dict[str, Tensor] = comfy.utils.load_torch_file(str(path), safe_load=True)
        known = len(weights["context"]) == len(CATEGORIES) + 1 and {"latent_mean", "latent_std"} <= weights.keys()
    except Exception as error:  # what readers raise for a file that is no safetensors differs from host to host
        raise ValueError(_not_the_file(path)) from error
    if not known:
        raise ValueError(_not_the_file(path))
    return weights


def _not_the_file(path: Path) -> str:
    return (
        f"{path} is not the file of this version's demo model, or is incomplete. Delete it, download {ADDRESS} "
        f"({MEGABYTES} MB) again, and put the new file into the same folder."
    )


def unet_of(weights: Mapping[str, Tensor], unet_config: Mapping[str, Any] = COMFYUI_UNET_CONFIG) -> ModelPatcher:
    """A UNet of the demo's kind in float32, its weights renamed from diffusers' names to ComfyUI's."""
    names = comfy.utils.unet_to_diffusers(unet_config)
    config = DemoModel(dict(unet_config))
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, "")
    unet = {names[name.removeprefix("unet.")]: weights[name].float() for name in weights if name.startswith("unet.")}
    model.diffusion_model.load_state_dict(unet)
    return ModelPatcher(
        model.requires_grad_(False).train(False),
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )


def conditioning_of(weights: Mapping[str, Tensor], category: str | None) -> list[Any]:
    """Return the learned conditioning of a category, or of no category for None."""
    row = NO_CATEGORY if category is None else CATEGORIES.index(category)
    return [[weights["context"][[row]].float(), {}]]


def vae_of(weights: Mapping[str, Tensor]) -> comfy.sd.VAE:
    """The exact way from pictures to latents and back as a VAE, with all that ComfyUI's VAE can do, such as tiles."""
    vae = comfy.sd.VAE(sd={"pixel_space_vae": torch.ones(1)}, dtype=torch.float32)  # the smallest that ComfyUI knows
    vae.first_stage_model = Bands(weights["latent_mean"], weights["latent_std"])
    vae.patcher = ModelPatcher(
        vae.first_stage_model,
        load_device=vae.device,
        offload_device=comfy.model_management.vae_offload_device(),
    )
    vae.size = None  # that of the model before
    vae.model_size()
    vae.latent_channels = len(weights["latent_mean"])
    vae.downscale_ratio = vae.upscale_ratio = HAAR_STEP
    vae.process_input = lambda pictures: pictures
    vae.process_output = lambda pictures: pictures.clamp_(0, 1)  # in place, as ComfyUI's own
    return vae


def empty_latent(count: int) -> dict[str, Tensor]:
    """A LATENT for so many pictures."""
    device = comfy.model_management.intermediate_device()
    return {"samples": torch.zeros(count, LATENT_CHANNELS, LATENT_SIZE, LATENT_SIZE, device=device)}
