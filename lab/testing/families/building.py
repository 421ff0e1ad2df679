"""Building tiny models of the real classes, the same weights on every machine, in which attention matters.

A checkpoint's queries and keys tell tokens apart; freshly drawn ones hardly do, and then nothing that is done to the
logits shows. So the queries and keys of self- and joint attention are scaled to logits with a standard deviation above
1. Those of the families that everything is tried on (`build`) are leaned towards each other as well (`LEANING`), so
that both the symmetric and the skew part are there.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from types import SimpleNamespace
from typing import Any

import comfy.sd
import comfy.supported_models
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from lab.testing.families.family import Family, draw

SHARPNESS = 1.5
LEANING = 0.4
QK_NORM = re.compile(
    r"(^|\.)(norm_(added_)?[qk]|[qk]_?norm(_[xyt1-9])?|[qk]_rms_norm(_t)?|(query|key)_norm|knorm|qnorm|ln_[qk]"
    r"|(img|txt)_attn_[qk]_norm|to_[qk]\.1)(\.|$)"
)


def fill(model: nn.Module, label: Callable[[str], str], network: str = "") -> None:
    """Weights that keep the size of what flows through them, norms near 1, each drawn by the `label` of its path.

    Buffers are drawn where they are weights that a checkpoint holds, below the module `network`.
    """
    persistent = set(model.state_dict())
    with torch.no_grad():
        for path, weight in model.named_parameters():
            drawn = draw(label(path), weight.shape)
            if weight.dim() > 1:
                weight.copy_(drawn / weight[0].numel() ** 0.5)
            else:
                weight.copy_(drawn * 0.02 + (not path.endswith("bias")))
        for path, buffer in model.named_buffers():
            if path in persistent and buffer.is_floating_point() and path.startswith(network):
                buffer.copy_(draw(label(path), buffer.shape))


def assert_finite(model: nn.Module) -> None:
    """Fail where a weight was forgotten and holds whatever lay in memory."""
    for path, tensor in (*model.named_parameters(), *model.named_buffers()):
        assert not tensor.is_floating_point() or tensor.isfinite().all(), path


def sharpen_and_lean(name: str, module: nn.Module) -> None:
    """Scale and lean the queries and keys of one attention module."""
    fused: Any = getattr(module, "qkv", None)
    if fused is None and type(module).__name__ == "SingleStreamBlock":
        fused = module.linear1
    attention: Any = module
    if name.endswith("attn1") and attention.to_q.weight.shape == attention.to_k.weight.shape:
        lean(attention.to_q.weight, attention.to_k.weight)
        for projection in (attention.to_q, attention.to_k):
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


def on_cpu(model: nn.Module) -> ModelPatcher:
    """The MODEL of a network."""
    cpu = torch.device("cpu")
    return ModelPatcher(model, load_device=cpu, offload_device=cpu)


def build(name: str, config: dict[str, Any], salt: str = "", dtype: torch.dtype = torch.float32) -> ModelPatcher:
    """A model of the supported class `name`, queries and keys sharpened and leaned; another `salt`, other weights."""
    settings = getattr(comfy.supported_models, name)(dict(config))
    settings.set_inference_dtype(dtype, None)
    model = settings.get_model({}, "")
    fill(model.diffusion_model, lambda path: path + salt)
    with torch.no_grad():
        for path, module in model.diffusion_model.named_modules():
            sharpen_and_lean(path, module)
    assert_finite(model)
    return on_cpu(model)


def load(name: str, config: dict[str, Any]) -> ModelPatcher:
    """The same through ComfyUI's own loader, which has to recognise it from the names and shapes of its weights."""
    patcher = comfy.sd.load_diffusion_model_state_dict(build(name, config).model.diffusion_model.state_dict())
    assert type(patcher.model.model_config).__name__ == name
    return patcher


def hosted(
    config_class: str,
    config: dict[str, Any],
    *,
    paths: Mapping[str, str],
    name: str | None = None,
    weights: Callable[[], dict[str, Tensor]] = dict,
    sharp: float = 1.0,
    fields_of: str = "",
    sharpen: str = "",
    soften: str = "",
    text: tuple[int, int] = (10, 48),
    latent: tuple[int, ...] = (16, 8, 8),
    pooled: int | None = None,
    image_tokens: int | None = None,
    **row: Any,
) -> Family:
    """A row for the family `config_class` of `comfy.supported_models`.

    Args:
        fields_of: a dataclass below `comfy.ldm`; what it has no field for is left out of `config`, for older hosts.
        sharp: factor on the weights of the norms of queries and keys.
        sharpen: names of query and key weights to scale by 1.7 where there are no such norms.
        soften: names of weights to scale by 0.3, where so many blocks follow each other that all tokens become one.
        weights: of modules outside of the network, which its constructor reads.
    """
    name = name or config_class

    def build(dtype: torch.dtype = torch.float32) -> ModelPatcher:
        supported = getattr(comfy.supported_models, config_class)
        known = {each.name for each in fields(host_class(fields_of))} | {"image_model"} if fields_of else set(config)
        options = {key: value for key, value in config.items() if key in known}
        settings = type(config_class, (supported,), {"unet_extra_config": {}})(options)
        settings.set_inference_dtype(dtype, None)
        model = settings.get_model(weights(), "")
        fill(model, lambda path: f"{name} {path}", "diffusion_model")
        with torch.no_grad():
            for path, weight in model.named_parameters():
                if QK_NORM.search(path.rpartition(".")[0]) and path.endswith(("weight", "gamma")):
                    weight.copy_((1 + draw(f"{name} {path}", weight.shape) * 0.02) * SHARPNESS * sharp)
                if sharpen and re.search(sharpen, path):
                    weight.mul_(1.7)
                if soften and re.search(soften, path):
                    weight.mul_(0.3)
        assert_finite(model)
        return on_cpu(model)

    row = {"calls": len(paths), "edge": None if image_tokens is None else 0, **row}
    return Family(name, build, latent, text, pooled, image_tokens, config_class, paths, **row)


def each(stem: str, path: str, count: int) -> dict[str, str]:
    """Addresses `stem.0 …` and the modules `path` with the number in the place of `#`."""
    return {f"{stem}.{index}": path.replace("#", str(index)) for index in range(count)}


def hidream_o1_tokens(name: str) -> Tensor:
    """A text of HiDream-O1 in tokens, the last of which means the timestep; another one for every name."""
    words = draw(f"words {name}", (1, 9)).mul(100).long().abs()
    return torch.cat([words, torch.tensor([[151673]])], dim=1)


def voxels(count: int) -> Tensor:
    """Coordinates of so many voxels, each another: the sample and three places."""
    order = torch.arange(count)
    return torch.stack([torch.zeros_like(order), order % 8, order // 8 % 8, order * 3 % 8], dim=1)


def mask_of_ones(length: int) -> Callable[[str], dict[str, Any]]:
    """Conditioning whose mask keeps all of the text."""
    return lambda name: {"attention_mask": torch.ones(1, length, dtype=torch.long)}


def a_reference(shape: tuple[int, ...]) -> Callable[[str], dict[str, Any]]:
    """Conditioning with the latent of a picture."""
    return lambda name: {"reference_latents": [draw("reference", (1, *shape))]}


def padded(length: int, kept: int) -> dict[str, Tensor]:
    """A mask that keeps the first tokens of the text."""
    mask = torch.zeros(1, length, dtype=torch.long)
    mask[:, :kept] = 1
    return {"attention_mask": mask}


def number_conditioner(**features: Any) -> dict[str, Tensor]:
    """Weights of Stable Audio's embedding of seconds, which its constructor wants."""
    from comfy.ldm.audio.embedders import NumberConditioner

    state = NumberConditioner(768, min_val=0, max_val=512, **features).state_dict()
    filled = {key: draw(f"seconds {key}", value.shape) * 0.05 for key, value in state.items()}
    return {
        f"conditioner.conditioners.{name}.{key}": value
        for name in ("seconds_start", "seconds_total")
        for key, value in filled.items()
    }


def vision(name: str) -> SimpleNamespace:
    """A substitute for the output of a CLIP vision model."""
    return SimpleNamespace(penultimate_hidden_states=draw(f"picture {name}", (1, 257, 1280)), all_hidden_states=None)


def host_class(name: str) -> type:
    """The class `file.Class` below `comfy.ldm`."""
    module, _, attribute = name.rpartition(".")
    found: type = getattr(importlib.import_module(f"comfy.ldm.{module}"), attribute)
    return found
