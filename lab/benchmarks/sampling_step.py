"""The price of whole sampling steps of full-width UNets inside a real ComfyUI, on the CPU in float32."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lab.benchmarks import authors_way
from lab.benchmarks.rows import Row
from lab.benchmarks.timing import Work, compare
from lab.testing.in_process_host import pack_in_host

UNET: dict[str, Any] = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "use_spatial_transformer": True,
    "legacy": False,
    "use_temporal_attention": False,
    "model_channels": 320,
}
MODELS: dict[str, dict[str, Any]] = {
    "SD15": {
        **UNET,
        "num_res_blocks": [2, 2, 2, 2],
        "channel_mult": [1, 2, 4, 4],
        "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
        "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
        "transformer_depth_middle": 1,
        "context_dim": 768,
        "use_linear_in_transformer": False,
        "adm_in_channels": None,
        "num_heads": 8,
    },
    "SDXL": {
        **UNET,
        "num_res_blocks": [2, 2, 2],
        "channel_mult": [1, 2, 4],
        "transformer_depth": [0, 0, 2, 2, 10, 10],
        "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
        "transformer_depth_middle": 10,
        "context_dim": 2048,
        "use_linear_in_transformer": True,
        "num_classes": "sequential",
        "adm_in_channels": 2816,
        "num_head_channels": 64,
        "num_heads": -1,
    },
}
GOALS = {"γ": 1.15, "γ and β, value norm": 1.3, "probe on all sites": 1.15, "γ = 1": 1.0}
LATENT = (4, 64, 64)


def build(name: str) -> Any:
    """A full-width model of ComfyUI's own class with random weights, as a MODEL."""
    import comfy.supported_models
    from comfy.model_patcher import ModelPatcher

    settings = getattr(comfy.supported_models, name)(dict(MODELS[name]))
    settings.set_inference_dtype(torch.float32, None)
    model = settings.get_model({}, "")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.diffusion_model.parameters():
            if weight.dim() > 1:
                weight.normal_(0, weight[0].numel() ** -0.5, generator=generator)
            else:
                weight.fill_(1.0)
        for path, part in model.diffusion_model.named_parameters():
            if path.endswith("bias"):
                part.zero_()
    cpu = torch.device("cpu")
    return ModelPatcher(model, load_device=cpu, offload_device=cpu)


def sampler(name: str, model: Any) -> Work:
    """One Euler step at CFG 1, which is one model call of one picture."""
    import comfy.sample

    generator = torch.Generator().manual_seed(1)
    noise = torch.randn((1, *LATENT), generator=generator)
    text = torch.randn((1, 77, MODELS[name]["context_dim"]), generator=generator)
    conditioning = [[text, {"pooled_output": torch.randn((1, 1280), generator=generator)}]]
    chosen = {"seed": 0, "disable_pbar": True}

    def work() -> Tensor:
        empty = torch.zeros_like(noise)
        wiring = (conditioning, conditioning, empty)
        step: Tensor = comfy.sample.sample(model, noise, 1, 1.0, "euler", "normal", *wiring, **chosen)
        return step

    return work


def measure_steps(comfyui: Path, name: str, rounds: int) -> Iterator[Row]:
    """The rows of one model: a step with skew attention and with the probe, against the plain step."""
    pack_in_host(comfyui)
    from lab.testing.run_nodes import probe, skew

    model = build(name)
    patched = {
        "plain": model,
        "γ = 1": skew(model, gamma=1.0)[0],
        "γ": skew(model, gamma=1.05, beta=1.0)[0],
        "γ and β, value norm": skew(model, gamma=1.05, beta=3.0)[0],
        "adaptive γ and β": skew(model, gamma=1.05, beta=3.0, adaptive="gamma and beta")[0],
        "probe on all sites": probe(model)[0],
        "probe, depth and curvature": probe(model, depth_and_curvature=True)[0],
    }
    ways = {label: sampler(name, each) for label, each in patched.items()}
    # On their own: their matrices of gigabytes would disturb what is timed after them.
    authors = {
        "plain": ways["plain"],
        "authors' way: static": sampler(name, with_authors(model, measured=False)),
        "authors' way: stability": sampler(name, with_authors(model, measured=True)),
    }
    for timed, times in ((ways, rounds), (authors, max(2, rounds // 3))):
        for label, timing in list(compare(timed, times).items())[1:]:
            yield Row.of(label, f"{name}, step at 64x64", timing, "plain step", GOALS.get(label))


def with_authors(model: Any, measured: bool) -> Any:
    """A clone whose self-attention modules do it the authors' way: skewed, or plain and measured."""
    from types import MethodType

    patched = model.clone()

    def forward(module: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        heads = module.heads
        q, k = (part(x).unflatten(-1, (heads, -1)).transpose(1, 2) for part in (module.to_q, module.to_k))
        weights = [part.weight.unflatten(0, (heads, -1)).mT for part in (module.to_q, module.to_k, module.to_v)]
        if measured:
            patterns = (q @ k.mT * q.shape[-1] ** -0.5).softmax(dim=-1) @ x[:, None]
            authors_way.stability(x, patterns, weights[0], weights[1])
            out = patterns @ weights[2]
        else:
            out = authors_way.skew_attention(q, k, x, weights[2], 1.05, 3.0)
        projected: Tensor = module.to_out(out.transpose(1, 2).flatten(2))
        return projected

    for path, module in model.model.diffusion_model.named_modules():
        if path.endswith(".attn1"):
            patched.add_object_patch(f"diffusion_model.{path}.forward", MethodType(forward, module))
    return patched
