"""Whole sampling steps of models of full width with random weights, by each mode, and a compiled one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lab.benchmarks.gpu.attention_calls import BETA, GAMMA
from lab.benchmarks.gpu.clock import Clock
from lab.benchmarks.sampling_step import MODELS as UNETS
from lab.benchmarks.timing import Work

FLUX: dict[str, Any] = {
    "image_model": "flux",
    "in_channels": 16,
    "out_channels": 16,
    "hidden_size": 3072,
    "num_heads": 24,
    "mlp_ratio": 4.0,
    "depth": 4,
    "depth_single_blocks": 8,
    "axes_dim": [16, 56, 56],
    "theta": 10000,
    "vec_in_dim": 768,
    "context_in_dim": 4096,
    "guidance_embed": True,
    "qkv_bias": True,
    "patch_size": 2,
    "txt_ids_dims": [],
}
TINY_FLUX = {
    **FLUX,
    "hidden_size": 64,
    "num_heads": 2,
    "depth": 1,
    "depth_single_blocks": 2,
    "axes_dim": [8, 12, 12],
    "vec_in_dim": 32,
    "context_in_dim": 48,
}
TINY_UNET: dict[str, Any] = {
    "model_channels": 64,
    "num_res_blocks": [1, 1],
    "channel_mult": [1, 2],
    "transformer_depth": [1, 1],
    "transformer_depth_output": [1, 1, 1, 1],
    "transformer_depth_middle": 1,
    "context_dim": 48,
}
MODES: dict[str, dict[str, Any]] = {
    "γ = 1": {"gamma": 1.0},
    "γ": {"gamma": GAMMA},
    "γ and β": {"gamma": GAMMA, "beta": BETA},
    "adaptive γ and β": {"gamma": GAMMA, "beta": BETA, "adaptive": "gamma and beta"},
}


def build(class_name: str, config: dict[str, Any], device: torch.device, dtype: torch.dtype) -> Any:
    """A model of ComfyUI's own class with random weights, as a MODEL on the device."""
    import comfy.supported_models
    from comfy.model_patcher import ModelPatcher

    settings = getattr(comfy.supported_models, class_name)(dict(config))
    settings.set_inference_dtype(dtype, None)
    model = settings.get_model({}, "", device=device)
    model.to(device)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, weight in model.diffusion_model.named_parameters():
            if weight.dim() > 1:
                weight.normal_(0, weight[0].numel() ** -0.5)
            else:
                weight.fill_(0.0 if name.endswith("bias") else 1.0)
    return ModelPatcher(model, load_device=device, offload_device=device)


@dataclass(frozen=True)
class Run:
    """A model and what it samples: its class, configuration, dtype, latent, text, and guidance."""

    title: str
    class_name: str
    config: dict[str, Any]
    dtype: torch.dtype
    latent: tuple[int, int, int]
    text: tuple[int, int]
    pooled: int
    cfg: float

    def sampler(self, model: Any, steps: int) -> Work:
        """Some Euler steps with `model`."""
        import comfy.sample

        generator = torch.Generator().manual_seed(1)
        noise = torch.randn((1, *self.latent), generator=generator)
        text = torch.randn((1, *self.text), generator=generator)
        extra = {"pooled_output": torch.zeros(1, self.pooled), "guidance": 3.5}
        wiring = [[text, extra]]

        def work() -> Tensor:
            empty = torch.zeros_like(noise)
            arguments = (model, noise, steps, self.cfg, "euler", "simple", wiring, wiring, empty)
            result: Tensor = comfy.sample.sample(*arguments, seed=0, disable_pbar=True)
            return result

        return work


def runs_of(tiny: bool) -> list[Run]:
    """The models whose steps are timed."""
    half, brain = torch.float16, torch.bfloat16
    if tiny:
        unet = {**UNETS["SD15"], **TINY_UNET}
        single = torch.float32
        return [
            Run("SD1.5, tiny", "SD15", unet, single, (4, 16, 16), (77, 48), 1280, 7.0),
            Run("Flux, tiny", "Flux", TINY_FLUX, single, (16, 8, 8), (10, 48), 32, 1.0),
        ]
    return [
        Run("SDXL 1024²", "SDXL", UNETS["SDXL"], half, (4, 128, 128), (77, 2048), 1280, 7.0),
        Run("SD1.5 512²", "SD15", UNETS["SD15"], half, (4, 64, 64), (77, 768), 1280, 7.0),
        Run("Flux 1024²", "Flux", FLUX, brain, (16, 128, 128), (512, 4096), 768, 1.0),
    ]


def measure_steps(run: Run, clock: Clock, steps: int, tiny: bool) -> dict[str, Any]:
    """Seconds a step by mode, whether γ = 1 gives the bits of the plain model, and the compiled model where wanted."""
    from lab.testing.run_nodes import compiled, probe, skew

    model = build(run.class_name, run.config, clock.device, run.dtype)
    patched: dict[str, Any] = {"plain": model}
    patched.update({name: skew(model, **widgets)[0] for name, widgets in MODES.items()})
    patched["probe"] = probe(model)[0]
    patched["probe, depth and curvature"] = probe(model, depth_and_curvature=True)[0]
    works = {name: run.sampler(each, steps) for name, each in patched.items()}
    found: dict[str, Any] = {"same bits at γ = 1": torch.equal(works["plain"](), works["γ = 1"]())}
    most = 1.0 * steps
    seconds = clock.wall_times(works, most)
    if run.class_name == "Flux":
        backend = "eager" if tiny else "inductor"
        graphs = {
            name: compiled(each, fullgraph=False, backend=backend)
            for name, each in (("compiled, plain", model), ("compiled, γ", patched["γ"]))
        }
        seconds.update(clock.wall_times({name: run.sampler(each, steps) for name, each in graphs.items()}, most))
        torch._dynamo.reset()
    found["seconds"] = {name: value / steps for name, value in seconds.items()}
    return found
