"""The demo model as ComfyUI nodes, for the demo and the tests alone; the product does not register them.

Put (or link) this folder into a ComfyUI's `custom_nodes`. It reads the model in the folder above it and needs nothing
that ComfyUI does not bring.
"""

from __future__ import annotations

import sys
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import comfy.latent_formats
import comfy.model_base
import comfy.supported_models
import comfy.utils
import folder_paths
import torch
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import ComfyExtension, io
from safetensors.torch import load_file, save_file

# In a ComfyUI that the lab has not started only this folder says where `lab` is. Last, so that it hides nothing.
sys.path.append(str(Path(__file__).resolve().parents[3]))
from lab.demo.latent import LATENT_CHANNELS, LATENT_SIZE, decode
from lab.demo.shape import CATEGORIES, COMFYUI_UNET_CONFIG, MODEL_FILE, NO_CATEGORY

CATEGORY = "symmetric attention demo"
CHOICES = [*CATEGORIES, "no category"]


class DemoLatentFormat(comfy.latent_formats.LatentFormat):
    """Haar bands, whitened: unit variance already, so nothing to scale."""

    latent_channels = LATENT_CHANNELS
    scale_factor = 1.0


class DemoConfig(comfy.supported_models.SD15):
    """SD1.5 with the demo model's channels."""

    latent_format = DemoLatentFormat
    unet_extra_config: ClassVar = {"num_heads": -1, "num_head_channels": 32}  # SD1.5's own asks for 8 heads everywhere

    def model_type(self, *_: object) -> comfy.model_base.ModelType:
        """The network answers with the velocity."""
        return comfy.model_base.ModelType.V_PREDICTION

    def inpaint_model(self) -> bool:
        """Never: ComfyUI takes any SD1.5 of more than four channels for one that paints into a masked picture."""
        return False


def load_demo_model(
    path: Path = MODEL_FILE,
    kind: type[DemoConfig] = DemoConfig,
    unet_config: Mapping[str, Any] = COMFYUI_UNET_CONFIG,
) -> ModelPatcher:
    """A UNet of the demo's kind in float32 on the CPU, its weights renamed from diffusers' names to ComfyUI's."""
    weights = load_file(path)
    names = comfy.utils.unet_to_diffusers(unet_config)
    config = kind(dict(unet_config))
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, "")
    unet = {names[name.removeprefix("unet.")]: weights[name].float() for name in weights if name.startswith("unet.")}
    model.diffusion_model.load_state_dict(unet)
    device = torch.device("cpu")
    return ModelPatcher(model.eval(), load_device=device, offload_device=device)


class DemoModelNode(io.ComfyNode):
    """The demo model as MODEL."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SADDemoModel",
            display_name="Demo Model",
            category=CATEGORY,
            inputs=[],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(load_demo_model())


class DemoConditioningNode(io.ComfyNode):
    """One of the learned categories as CONDITIONING; "no category" is the negative one."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SADDemoConditioning",
            display_name="Demo Conditioning",
            category=CATEGORY,
            inputs=[io.Combo.Input("category", options=CHOICES)],
            outputs=[io.Conditioning.Output()],
        )

    @classmethod
    def execute(cls, category: str) -> io.NodeOutput:
        index = NO_CATEGORY if category == CHOICES[-1] else CATEGORIES.index(category)
        context = load_file(MODEL_FILE)["context"][[index]].float()
        return io.NodeOutput([[context, {}]])


class DemoLatentNode(io.ComfyNode):
    """An empty LATENT `(count, 12, 16, 16)`; another `nonce` makes ComfyUI sample again instead of using its cache."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SADDemoLatent",
            display_name="Demo Latent",
            category=CATEGORY,
            inputs=[
                io.Int.Input("count", default=1, min=1, max=64),
                io.Int.Input("nonce", default=0, min=0, max=2**31),
            ],
            outputs=[io.Latent.Output()],
        )

    @classmethod
    def execute(cls, count: int, nonce: int) -> io.NodeOutput:
        return io.NodeOutput({"samples": torch.zeros(count, LATENT_CHANNELS, LATENT_SIZE, LATENT_SIZE)})


class DemoDecodeNode(io.ComfyNode):
    """LATENT to IMAGE `(N, 32, 32, 3)`; `enlarge` repeats pixels, so that people can see them."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SADDemoDecode",
            display_name="Demo Decode",
            category=CATEGORY,
            inputs=[io.Latent.Input("samples"), io.Int.Input("enlarge", default=1, min=1, max=16)],
            outputs=[io.Image.Output()],
        )

    @classmethod
    def execute(cls, samples: dict[str, torch.Tensor], enlarge: int) -> io.NodeOutput:
        weights = load_file(MODEL_FILE)
        pictures = decode(samples["samples"], weights["latent_mean"], weights["latent_std"]).clamp(0, 1)
        pictures = pictures.repeat_interleave(enlarge, dim=-1).repeat_interleave(enlarge, dim=-2)
        return io.NodeOutput(pictures.movedim(1, -1))


class DemoSaveNode(io.ComfyNode):
    """Saves an IMAGE as float32 numbers, where 8 bits a channel would hide a difference."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SADDemoSave",
            display_name="Demo Save Numbers",
            category=CATEGORY,
            inputs=[io.Image.Input("images")],
            outputs=[],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, images: torch.Tensor) -> io.NodeOutput:
        name = f"demo_{uuid.uuid4().hex}.safetensors"
        save_file({"images": images.contiguous()}, Path(folder_paths.get_output_directory()) / name)
        return io.NodeOutput(ui={"numbers": [name]})


class DemoExtension(ComfyExtension):
    """What ComfyUI loads."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [DemoModelNode, DemoConditioningNode, DemoLatentNode, DemoDecodeNode, DemoSaveNode]


async def comfy_entrypoint() -> ComfyExtension:
    return DemoExtension()
