"""The test bed's weights as users change them: merged, quantised to 8 bits, with a LoRA."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

RANK = 4
Weights = Mapping[str, Tensor]


def is_matrix(name: str, weight: Tensor) -> bool:
    """Tell whether a weight is merged and quantised by columns: it is of the network, with two dimensions or more."""
    return name.startswith("unet.") and weight.dim() >= 2


def merged(weights: Weights, other: Weights, share: float) -> dict[str, Tensor]:
    """The weights with a share of another checkpoint's, all of the network's alike."""
    return {
        name: torch.lerp(weight.float(), other[name].float(), share) if name.startswith("unet.") else weight
        for name, weight in weights.items()
    }


def in_int8(weights: Weights) -> dict[str, Tensor]:
    """Every matrix rounded to 255 levels, with a scale for each row."""

    def rounded(weight: Tensor) -> Tensor:
        flat = weight.float().flatten(1)
        scale = flat.abs().amax(dim=1, keepdim=True).clamp_min(1e-12) / 127
        return ((flat / scale).round() * scale).view_as(weight)

    return {name: rounded(weight) if is_matrix(name, weight) else weight for name, weight in weights.items()}


def in_float8(weights: Weights) -> dict[str, Tensor]:
    """Every matrix rounded to float8 (e4m3), as ComfyUI's `fp8_e4m3fn` keeps weights."""
    return {
        name: weight.float().to(torch.float8_e4m3fn).float() if is_matrix(name, weight) else weight
        for name, weight in weights.items()
    }


def with_lora(weights: Weights, other: Weights, rank: int = RANK) -> dict[str, Tensor]:
    """The weights plus a LoRA: the best approximation of this rank to what is between them and another checkpoint.

    LoRAs are extracted so from fine-tuned checkpoints. Only the matrices of attention get one.
    """

    def low_rank(difference: Tensor) -> Tensor:
        left, sizes, right = torch.linalg.svd(difference, full_matrices=False)
        product: Tensor = (left[:, :rank] * sizes[:rank]) @ right[:rank]
        return product

    return {
        name: weight.float() + low_rank(other[name].float() - weight.float())
        if is_matrix(name, weight) and weight.dim() == 2 and ".attn" in name
        else weight
        for name, weight in weights.items()
    }


def alterations(twin: Weights) -> dict[str, Callable[[Weights], Weights]]:
    """Every alteration by name; `twin` is the checkpoint that was distilled from the weights, a fine-tuned one."""
    return {
        "merged, a quarter of the distilled twin": lambda weights: merged(weights, twin, 0.25),
        "merged, half of the distilled twin": lambda weights: merged(weights, twin, 0.5),
        "int8": in_int8,
        "float8": in_float8,
        f"LoRA of rank {RANK}": lambda weights: with_lora(weights, twin),
    }
