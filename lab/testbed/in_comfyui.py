"""A model of the test bed in a ComfyUI of this process: a MODEL, sampled through the nodes of an arm.

ComfyUI and the pack are loaded first, by `lab.testing.in_process_host`.
"""

from __future__ import annotations

import asyncio
import importlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.supported_models
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from comfy_api.latest import io
from safetensors.torch import load_file
from symmetric_attention.nodes.host.demo_model import DemoLatentFormat, unet_of
from torch import Tensor

from lab.demo.model import NO_CATEGORY
from lab.demo.sampling import seed_noise
from lab.testbed.arms import Arm, Use, use
from lab.testbed.dit_rivals import DIT_RIVALS
from lab.testbed.model import classes_of, holds_dit
from lab.testbed.rivals import RIVALS
from lab.testbed.seeded_noise import SeededNoise
from lab.testbed.shape import COMFYUI_DIT_CONFIG, COMFYUI_UNET_CONFIG, LATENT_CHANNELS, LATENT_SIZE
from lab.testing.in_process_host import PACK, nodes_of

MODULES = (  # of ComfyUI, where the nodes of the arms are
    "nodes_apg",
    "nodes_attention_multiply",
    "nodes_custom_sampler",
    "nodes_eps",
    "nodes_model_advanced",
    "nodes_pag",
    "nodes_sag",
)
NODE_ID = "1"
METHODS = {**RIVALS, **DIT_RIVALS}


@dataclass
class Bed:
    """A trained model in ComfyUI.

    Attributes:
        model: as *Load Checkpoint* would give it.
        context: (11, 4, 64), the tokens of each class; the last are those of no class.
        early: the same network after less training, for autoguidance; None where there is none.
        early_context: the tokens that belong to it.
        rows: how many samples the networks have looked at so far, each pass counted.
        seconds: how long this process has computed in sampling so far. What its nodes do before is not counted, nor
            what other processes do.
    """

    model: ModelPatcher
    context: Tensor
    early: ModelPatcher | None = None
    early_context: Tensor | None = None
    rows: int = field(default=0, init=False)
    seconds: float = field(default=0.0, init=False)

    def counted(self, model: ModelPatcher) -> ModelPatcher:
        """The model, each of whose rows counts."""

        def count(executor: Any, x: Tensor, *arguments: Any, **named: Any) -> Any:
            self.rows += len(x)
            return executor(x, *arguments, **named)

        model = model.clone()
        model.add_wrapper(WrappersMP.DIFFUSION_MODEL, count)
        return model


def load_bed(model: Path, early: Path | None = None) -> Bed:
    """The MODEL of a file, and of an early checkpoint."""
    bed = Bed(*_network(model))
    if early is not None:
        bed.early, bed.early_context = _network(early)
    return bed


def _network(path: Path) -> tuple[ModelPatcher, Tensor]:
    """The MODEL and the tokens of each class of a file. On a CPU its convolutions are faster with channels last."""
    weights = load_file(path)
    if holds_dit(path):
        return dit_of(weights), weights["context"].float()
    model = unet_of(weights, COMFYUI_UNET_CONFIG)
    model.model.to(memory_format=torch.channels_last)
    return model, weights["context"].float()


class DitConfig(comfy.supported_models.Lumina2):
    """Lumina 2 with the test bed's latents and equal steps of σ."""

    latent_format = DemoLatentFormat
    sampling_settings: ClassVar = {"multiplier": 1.0, "shift": 1.0}


def dit_of(weights: Mapping[str, Tensor]) -> ModelPatcher:
    """The MODEL of the DiT's weights in float32."""
    config = DitConfig(dict(COMFYUI_DIT_CONFIG))
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, "")
    dit = {name.removeprefix("dit."): weights[name].float() for name in weights if name.startswith("dit.")}
    model.diffusion_model.load_state_dict(dit)
    return ModelPatcher(
        model.requires_grad_(False).train(False),
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )


@cache
def node_classes() -> dict[str, Any]:
    """The nodes of an arm by id: those of ComfyUI's modules, and those of the pack where it is loaded."""
    found: dict[str, Any] = {}
    for module in (importlib.import_module(f"comfy_extras.{name}") for name in MODULES):
        found |= getattr(module, "NODE_CLASS_MAPPINGS", {})
        if hasattr(module, "comfy_entrypoint"):
            nodes = asyncio.run(_listed(module))
            found |= {node.GET_SCHEMA().node_id: node for node in nodes}
    return found | {node.GET_SCHEMA().node_id: node for node in nodes_of(importlib.import_module(PACK))}


async def _listed(module: Any) -> list[Any]:
    return list(await (await module.comfy_entrypoint()).get_node_list())


def output_of(node: Use, **given: Any) -> Any:
    """The first output of a node, run as ComfyUI runs it. Inputs that are nodes are run first."""
    return outputs_of(node, **given)[0]


def outputs_of(node: Use, **given: Any) -> tuple[Any, ...]:
    """All outputs of a node, run as ComfyUI runs it. Inputs that are nodes are run first."""
    inputs = {name: output_of(each) if isinstance(each, Use) else each for name, each in node.inputs}
    kind = node_classes()[node.node]
    if not hasattr(kind, "EXECUTE_NORMALIZED"):  # of the first kind of node, which has no schema
        return tuple(getattr(kind(), kind.FUNCTION)(**given, **inputs))
    widgets = {each.id: each.default for each in kind.GET_SCHEMA().inputs if getattr(each, "default", None) is not None}
    copy = kind.PREPARE_CLASS_CLONE({"hidden_inputs": {io.Hidden.unique_id: NODE_ID}})
    return tuple(copy.EXECUTE_NORMALIZED(**{**widgets, **given, **inputs}).args)


def patched(bed: Bed, arm: Arm, noise: SeededNoise) -> ModelPatcher:
    """The bed's MODEL after the nodes of an arm."""
    model = bed.model
    for node in arm.uses:
        if node.node in METHODS:
            model = METHODS[node.node](model, noise, **dict(node.inputs))
        else:
            model = output_of(node, model=model)
    return model


@torch.no_grad()
def draw_latents(bed: Bed, arm: Arm, seeds: Sequence[int]) -> Tensor:
    """Finished latents (N, 16, 8, 8), a sample for each seed, of the seeds' own classes."""
    noise, classes = SeededNoise(seeds), classes_of(seeds)
    positive = _conditioning(bed.context[classes])
    if arm.away_from_early:
        if bed.early is None or bed.early_context is None:
            raise ValueError(f'"{arm.name}" needs an early checkpoint of the model; none was given.')
        guider = output_of(
            use("DualModelGuider"),
            model=bed.counted(patched(bed, arm, noise)),
            positive=positive,
            cfg=arm.guidance,
            model_negative=bed.counted(bed.early),
            negative=_conditioning(bed.early_context[classes]),
        )
    else:
        guider = comfy.samplers.CFGGuider(bed.counted(patched(bed, arm, noise)))
        guider.set_conds(positive, _conditioning(bed.context[NO_CATEGORY].expand(len(seeds), -1, -1)))
        guider.set_cfg(arm.guidance)
    shape = (LATENT_CHANNELS, LATENT_SIZE, LATENT_SIZE)
    first = arm.noise * torch.cat([seed_noise(seed, shape) for seed in seeds])
    sigmas = comfy.samplers.calculate_sigmas(bed.model.get_model_object("model_sampling"), "simple", arm.steps)
    began = time.process_time()
    drawn: Tensor = guider.sample(
        first, torch.zeros_like(first), _sampler(arm, noise), sigmas, disable_pbar=True, seed=0
    )
    bed.seconds += time.process_time() - began
    return drawn.cpu()


def _conditioning(context: Tensor) -> list[Any]:
    return [[context, {}]]


def _sampler(arm: Arm, noise: SeededNoise) -> Any:
    """The sampler of an arm; what it adds on the way is each seed's own."""
    if arm.sampler == "euler":
        return comfy.samplers.ksampler(arm.sampler)
    shape, drawn = (LATENT_CHANNELS, LATENT_SIZE, LATENT_SIZE), iter(range(arm.steps))

    def add(sigma: Any, next_sigma: Any) -> Tensor:
        return noise.draw(arm.sampler, next(drawn), shape).to(sigma)

    return comfy.samplers.ksampler(arm.sampler, {"noise_sampler": add})
