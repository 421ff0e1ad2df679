"""Nodes that come with ComfyUI, with drawn settings, by the kind of network that they work on."""

from __future__ import annotations

import importlib
import random
from collections.abc import Callable
from typing import Any

import comfy.sd
from comfy.model_patcher import ModelPatcher
from comfy_extras import nodes_custom_sampler

from lab.testing.families.family import draw as numbers
from lab.testing.run_nodes import execute

Neighbour = Callable[[ModelPatcher], ModelPatcher]
Draw = random.Random


def node(file: str, name: str, **inputs: Any) -> Neighbour:
    """A node of `comfy_extras`, in either of ComfyUI's ways to write one."""
    module = importlib.import_module(f"comfy_extras.{file}")
    found = getattr(module, name)
    if hasattr(found, "PREPARE_CLASS_CLONE"):
        return lambda model: execute(found, model=model, **inputs)[0]
    return lambda model: getattr(found(), found.FUNCTION)(model, **inputs)[0]


def lora(strength: float) -> Neighbour:
    """A LoRA on the queries, through ComfyUI's own loader."""

    def loaded(model: ModelPatcher) -> ModelPatcher:
        weights = {}
        for name, weight in model.model.diffusion_model.named_parameters():
            if name.endswith(("attn1.to_q.weight", "attn.qkv.weight", "self_attn.q.weight")):
                module = f"diffusion_model.{name.removesuffix('.weight')}"
                weights[f"{module}.lora_up.weight"] = numbers(f"{name} up", (weight.shape[0], 4)) * 0.3
                weights[f"{module}.lora_down.weight"] = numbers(f"{name} down", (4, weight.shape[1])) * 0.3
        patched: ModelPatcher = comfy.sd.load_lora_for_models(model, None, weights, strength, 0)[0]
        return patched

    return loaded


def neighbours(kind: str, draw: Draw) -> dict[str, Callable[[], Neighbour]]:
    """The neighbours of a kind of network, by name; each call draws further settings.

    Args:
        kind: "unet", "dit" or "video".
        draw: what chooses.
    """

    def among(low: float, high: float) -> float:
        return round(draw.uniform(low, high), 2)

    everywhere: dict[str, Callable[[], Neighbour]] = {
        "LoRA": lambda: lora(among(-1, 1)),
        "RescaleCFG": lambda: node("nodes_model_advanced", "RescaleCFG", multiplier=among(0, 1)),
        "CFGNorm": lambda: node("nodes_cfg", "CFGNorm", strength=among(0.5, 1.5)),
        "CFGZeroStar": lambda: node("nodes_cfg", "CFGZeroStar"),
        "Mahiro": lambda: node("nodes_mahiro", "Mahiro"),
        "APG": lambda: node("nodes_apg", "APG", eta=among(0, 1), norm_threshold=among(1, 9), momentum=among(-0.5, 0.5)),
        "TCFG": lambda: node("nodes_tcfg", "TCFG"),
        "EpsilonScaling": lambda: node("nodes_eps", "EpsilonScaling", scaling_factor=among(0.9, 1.1)),
        "TemporalScoreRescaling": lambda: node(
            "nodes_eps", "TemporalScoreRescaling", tsr_k=among(0.5, 1.5), tsr_sigma=among(0.3, 2)
        ),
        "DifferentialDiffusion": lambda: node("nodes_differential_diffusion", "DifferentialDiffusion", strength=0.7),
    }
    if hasattr(nodes_custom_sampler, "CFGOverride"):  # newer than the oldest ComfyUI
        everywhere["CFGOverride"] = lambda: node(
            "nodes_custom_sampler", "CFGOverride", cfg=draw.choice([1.0, 2.0, 5.0]), start_percent=0.0, end_percent=0.6
        )
    unet: dict[str, Callable[[], Neighbour]] = {
        "PAG": lambda: node("nodes_pag", "PerturbedAttentionGuidance", scale=among(0.5, 4)),
        "SAG": lambda: node("nodes_sag", "SelfAttentionGuidance", scale=among(0.1, 0.7), blur_sigma=2.0),
        "FreeU": lambda: node("nodes_freelunch", "FreeU", b1=1.2, b2=1.3, s1=0.9, s2=0.5),
        "FreeU_V2": lambda: node("nodes_freelunch", "FreeU_V2", b1=1.2, b2=1.3, s1=0.9, s2=0.5),
        "HyperTile": lambda: node(
            "nodes_hypertile", "HyperTile", tile_size=32, swap_size=2, max_depth=draw.choice([0, 1]), scale_depth=False
        ),
        "ToMe": lambda: node("nodes_tomesd", "TomePatchModel", ratio=among(0.1, 0.6)),
        "SelfAttentionMultiply": lambda: node(
            "nodes_attention_multiply",
            "UNetSelfAttentionMultiply",
            q=among(0.7, 1.3),
            k=among(0.7, 1.3),
            v=among(0.7, 1.3),
            out=among(0.7, 1.3),
        ),
        "CrossAttentionMultiply": lambda: node(
            "nodes_attention_multiply", "UNetCrossAttentionMultiply", q=among(0.7, 1.3), k=1.0, v=1.0, out=1.1
        ),
        "NAG": lambda: node("nodes_nag", "NAGuidance", nag_scale=among(1, 6), nag_alpha=0.5, nag_tau=1.5),
        "ModelSamplingDiscrete": lambda: node(
            "nodes_model_advanced", "ModelSamplingDiscrete", sampling=draw.choice(["eps", "v_prediction"]), zsnr=False
        ),
        "ModelSamplingContinuousEDM": lambda: node(
            "nodes_model_advanced",
            "ModelSamplingContinuousEDM",
            sampling="v_prediction",
            sigma_max=120.0,
            sigma_min=0.002,
        ),
        "Downscale": lambda: node(
            "nodes_model_downscale",
            "PatchModelAddDownscale",
            block_number=3,
            downscale_factor=2.0,
            start_percent=0.0,
            end_percent=0.5,
            downscale_after_skip=True,
            downscale_method="bilinear",
            upscale_method="bilinear",
        ),
    }
    dit: dict[str, Callable[[], Neighbour]] = {
        "SkipLayerGuidance": lambda: node(
            "nodes_slg",
            "SkipLayerGuidanceDiT",
            scale=among(1, 4),
            start_percent=0.0,
            end_percent=1.0,
            double_layers="0",
            single_layers="1",
        ),
        "ScaleROPE": lambda: node(
            "nodes_rope", "ScaleROPE", scale_x=1.2, shift_x=1.0, scale_y=1.1, shift_y=0.0, scale_t=1.0, shift_t=0.0
        ),
        "ModelSamplingSD3": lambda: node("nodes_model_advanced", "ModelSamplingSD3", shift=among(1, 6)),
    }
    video: dict[str, Callable[[], Neighbour]] = {
        "ContextWindows": lambda: node(
            "nodes_context_windows",
            "ContextWindowsManualNode",
            context_length=draw.choice([2, 3]),
            context_overlap=1,
            context_schedule=draw.choice(["standard_static", "standard_uniform"]),
            context_stride=1,
            closed_loop=False,
            fuse_method="pyramid",
            dim=2,
            freenoise=False,
        ),
        "ModelSamplingSD3": dit["ModelSamplingSD3"],
        "ScaleROPE": dit["ScaleROPE"],
    }
    return {**everywhere, **{"unet": unet, "dit": dit, "video": video}[kind]}
