"""Tiny models of the real classes, the same weights on every machine, in which attention matters.

A checkpoint's queries and keys tell tokens apart; freshly drawn ones hardly do, and then nothing that is done to the
logits shows. So the queries and keys of self- and joint attention are scaled to logits with a standard deviation above
1, and leaned towards each other (`LEANING`) so that both the symmetric and the skew part are there.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import comfy.sample
import comfy.sd
import comfy.supported_models
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

SHARPNESS = 1.5
LEANING = 0.4
STEPS = 2


@dataclass(frozen=True)
class Family:
    """A tiny model with what is needed to sample from it.

    Attributes:
        build: makes the model; `model` does so once.
        latent: shape of one latent, without the batch.
        text: tokens and channels of the text.
        pooled: channels of the pooled text, or None.
        image_tokens: tokens of the image at a joint site, None where sites see the image alone.
        sites: addresses of all attention sites.
        image_first: whether the image comes before the text in the sequence of a joint site.
        acts_on: what γ acts among, for docs/support.md.
        notes: what a user should know.
        covers: other classes of `comfy.supported_models` built from the same blocks.
    """

    name: str
    build: Callable[[], ModelPatcher]
    latent: tuple[int, ...]
    text: tuple[int, int]
    pooled: int | None
    image_tokens: int | None
    sites: tuple[str, ...]
    image_first: bool = False
    acts_on: str = "every token"
    notes: str = ""
    covers: tuple[str, ...] = ()

    def image(self, tokens: int) -> slice:
        """The image's place among the tokens of a site."""
        image = min(self.image_tokens or tokens, tokens)
        return slice(0, image) if self.image_first else slice(tokens - image, tokens)

    @cached_property
    def model(self) -> ModelPatcher:
        return self.build()

    @cached_property
    def picture(self) -> Tensor:
        """What the plain model gives for the defaults of `sample`, before anything was ever patched."""
        return self.sample()

    def noise(self, batch: int = 1) -> Tensor:
        """`batch` rows of noise, each another."""
        return draw(f"noise of {self.name}", (batch, *self.latent))

    def conditioning(self, name: str, **extra) -> list:
        extra = {"guidance": 3.5, **extra}
        if self.pooled is not None:
            extra["pooled_output"] = draw(f"pooled {name}", (1, self.pooled))
        return [[draw(name, (1, *self.text)), extra]]

    def sample(
        self,
        model: ModelPatcher | None = None,
        *,
        steps: int = STEPS,
        cfg: float = 3.0,
        sampler: str = "euler",
        scheduler: str = "normal",
        noise: Tensor | None = None,
        latent: Tensor | None = None,
        seed: int = 0,
        texts: tuple[list, list] | None = None,
        **options,
    ) -> Tensor:
        """The latent a KSampler gives for `model`, or for the plain model."""
        noise = self.noise() if noise is None else noise
        latent = torch.zeros_like(noise) if latent is None else latent
        texts = texts or (self.conditioning("cond"), self.conditioning("uncond"))
        options = {"seed": seed, "disable_pbar": True, **options}
        return comfy.sample.sample(
            model or self.model, noise, steps, cfg, sampler, scheduler, *texts, latent, **options
        )


def draw(name: str, shape: tuple[int, ...]) -> Tensor:
    """Normal numbers that depend on `name` alone."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))


def fill(model: nn.Module, salt: str = "") -> None:
    """Weights that keep the size of what flows through them, norms near 1, queries and keys that tell tokens apart."""
    with torch.no_grad():
        for name, weight in model.diffusion_model.named_parameters():
            if weight.dim() > 1:
                weight.copy_(draw(name + salt, weight.shape) / weight[0].numel() ** 0.5)
            else:
                weight.copy_(draw(name + salt, weight.shape) * 0.02 + (not name.endswith("bias")))
        for name, buffer in model.diffusion_model.named_buffers():
            buffer.copy_(draw(name, buffer.shape))
        for name, module in model.diffusion_model.named_modules():
            sharpen(name, module)
    tensors = [*model.named_parameters(), *model.named_buffers()]
    assert all(tensor.isfinite().all() for _, tensor in tensors if tensor.is_floating_point())


def sharpen(name: str, module: nn.Module) -> None:
    """Scale and lean the queries and keys of one attention module."""
    fused = getattr(module, "qkv", None) or (module.linear1 if type(module).__name__ == "SingleStreamBlock" else None)
    if name.endswith("attn1") and module.to_q.weight.shape == module.to_k.weight.shape:
        lean(module.to_q.weight, module.to_k.weight)
        for projection in (module.to_q, module.to_k):
            projection.weight.mul_(SHARPNESS)
    elif fused is not None:
        width = fused.in_features
        lean(fused.weight[:width], fused.weight[width : 2 * width])
        # After QK-norm the length of queries and keys is that of the norms' weights.
        for part, norm in module.named_modules():
            if part.rpartition(".")[2] in ("ln_q", "ln_k", "query_norm", "key_norm"):
                next(norm.parameters()).fill_(SHARPNESS)


def lean(queries: Tensor, keys: Tensor) -> None:
    """Turn the key weights towards the query weights; the leaning squared is about the symmetricity of the logits."""
    keys.mul_((1 - LEANING**2) ** 0.5).add_(queries, alpha=LEANING)


def build(name: str, config: dict, salt: str = "") -> ModelPatcher:
    """A model of the supported class `name`, weights filled."""
    settings = getattr(comfy.supported_models, name)(dict(config))
    settings.set_inference_dtype(torch.float32, None)
    model = settings.get_model({}, "")
    fill(model, salt)
    cpu = torch.device("cpu")
    return ModelPatcher(model, load_device=cpu, offload_device=cpu)


def load(name: str, config: dict) -> ModelPatcher:
    """The same through ComfyUI's own loader, which has to recognise it from the names and shapes of its weights."""
    patcher = comfy.sd.load_diffusion_model_state_dict(build(name, config).model.diffusion_model.state_dict())
    assert type(patcher.model.model_config).__name__ == name
    return patcher


UNET = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "use_spatial_transformer": True,
    "legacy": False,
    "use_temporal_attention": False,
}
SD15 = {
    **UNET,
    "model_channels": 32,
    "num_res_blocks": [1, 1],
    "channel_mult": [1, 2],
    "transformer_depth": [1, 1],
    "transformer_depth_output": [1, 1, 1, 1],
    "transformer_depth_middle": 1,
    "context_dim": 64,
    "use_linear_in_transformer": False,
    "adm_in_channels": None,
}
SDXL = {
    **UNET,
    "model_channels": 64,
    "num_res_blocks": [1, 1, 1],
    "channel_mult": [1, 1, 2],
    "transformer_depth": [0, 1, 2],
    "transformer_depth_output": [0, 0, 1, 1, 2, 2],
    "transformer_depth_middle": 2,
    "context_dim": 96,
    "use_linear_in_transformer": True,
    "num_classes": "sequential",
    "adm_in_channels": 2816,
    "num_head_channels": 64,
    "num_heads": -1,
}
SD3 = {
    "in_channels": 16,
    "out_channels": 16,
    "patch_size": 2,
    "input_size": None,
    "depth": 2,
    "context_embedder_config": {"target": "torch.nn.Linear", "params": {"in_features": 48, "out_features": 128}},
    "adm_in_channels": 64,
    "num_patches": 1024,
    "pos_embed_max_size": 32,
    "pos_embed_scaling_factor": None,
    "qk_norm": "rms",
    "x_block_self_attn_layers": [],
}
FLUX = {
    "image_model": "flux",
    "in_channels": 16,
    "out_channels": 16,
    "hidden_size": 64,
    "num_heads": 2,
    "mlp_ratio": 4.0,
    "depth": 2,
    "depth_single_blocks": 3,
    "axes_dim": [8, 12, 12],
    "theta": 10000,
    "vec_in_dim": 32,
    "context_in_dim": 48,
    "guidance_embed": True,
    "qkv_bias": True,
    "patch_size": 2,
    "txt_ids_dims": [],
}

FAMILIES = {
    family.name: family
    for family in (
        Family(
            "SD15",
            lambda: build("SD15", SD15),
            latent=(4, 8, 12),
            text=(77, 64),
            pooled=None,
            image_tokens=None,
            sites=(
                *("input.1.0", "input.3.0", "middle.0.0"),
                *("output.0.0", "output.1.0", "output.2.0", "output.3.0"),
            ),
            covers=("Stable_Zero123", "SD15_instructpix2pix"),
        ),
        Family(
            "SDXL",
            lambda: build("SDXL", SDXL),
            latent=(4, 8, 16),
            text=(77, 96),
            pooled=1280,
            image_tokens=None,
            sites=(
                *("input.3.0", "input.5.0", "input.5.1", "middle.0.0", "middle.0.1"),
                *("output.0.0", "output.0.1", "output.1.0", "output.1.1", "output.2.0", "output.3.0"),
            ),
            covers=("SDXL_instructpix2pix", "SDXLRefiner", "SSD1B", "KOALA_700M", "KOALA_1B", "Segmind_Vega"),
        ),
        Family(
            "SD3",
            lambda: load("SD3", SD3),
            latent=(16, 16, 16),
            text=(20, 48),
            pooled=64,
            image_tokens=64,
            sites=("joint.0", "joint.1"),
            acts_on="the image tokens, text aside",
        ),
        Family(
            "SD3 with image-only attention",
            lambda: load("SD3", {**SD3, "x_block_self_attn_layers": [0, 1]}),
            latent=(16, 16, 16),
            text=(20, 48),
            pooled=64,
            image_tokens=64,
            sites=("joint.0", "joint.1"),
            acts_on="the image tokens, text aside",
            notes="SD3.5 medium; two calls a site, joint and image alone",
        ),
        Family(
            "Flux",
            lambda: build("Flux", FLUX),
            latent=(16, 16, 16),
            text=(10, 48),
            pooled=32,
            image_tokens=64,
            sites=("double.0", "double.1", "single.0", "single.1", "single.2"),
            acts_on="the image tokens, text aside",
            notes="reference images count as image",
            covers=("FluxInpaint", "FluxSchnell"),
        ),
    )
}
# Self- and joint-attention calls of one model call.
CALLS = {"SD15": 7, "SDXL": 11, "SD3": 2, "SD3 with image-only attention": 4, "Flux": 5}
