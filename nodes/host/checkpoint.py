"""By which a checkpoint is told from others of its class: a few numbers out of its weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from comfy.model_patcher import ModelPatcher

PLACES, NUMBERS = 4, 4  # weights that are looked at, and numbers of each
LARGEST_DIFFERENCE = 0.02  # of a number, as a share of the largest: what half precision and 8 bits do to one


def numbers_of(model: ModelPatcher) -> tuple[float, ...]:
    """Return some numbers of the network's biases and norms; none where they cannot be read.

    They are the weights of the file: LoRAs and merges on the way seldom touch a bias, and what ComfyUI has patched into
    the network for a run is read from its backup.
    """
    try:
        vectors = {name: weight for name, weight in model.model.diffusion_model.named_parameters() if weight.dim() == 1}
        names = sorted(name for name, weight in vectors.items() if weight.numel() >= NUMBERS)
        chosen = [names[index * (len(names) - 1) // (PLACES - 1)] for index in range(PLACES)] if names else []
        found = []
        for name in chosen:
            backup = model.backup.get(f"diffusion_model.{name}")
            weight = vectors[name] if backup is None else getattr(backup, "weight", backup)
            found += weight.detach().flatten()[:NUMBERS].to("cpu", torch.float32).tolist()
    except (AttributeError, RuntimeError, NotImplementedError):
        return ()
    return tuple(found) if all(torch.isfinite(torch.tensor(found)).tolist()) else ()


def are_the_same(one: Sequence[float], other: Sequence[float]) -> bool:
    """Return whether two checkpoints agree up to rounding. True if the numbers of one are unknown."""
    if not one or not other:
        return True
    scale = max(map(abs, (*one, *other)))
    is_near = all(abs(a - b) <= LARGEST_DIFFERENCE * scale for a, b in zip(one, other, strict=False))
    return len(one) == len(other) and is_near
