"""By which a checkpoint is told from others of its class: a few numbers out of its weights."""

from __future__ import annotations

from collections.abc import Sequence

from comfy.model_patcher import ModelPatcher

from ...sad_core.evaluation.checkpoint_numbers import first_numbers, some_vectors

LARGEST_DIFFERENCE = 0.02  # of a number, as a share of the largest: what half precision and 8 bits do to one


def numbers_of(model: ModelPatcher) -> tuple[float, ...]:
    """Return some numbers of the network's biases and norms; none where they cannot be read.

    They are the weights of the file: LoRAs and merges on the way seldom touch a bias, and what ComfyUI has patched into
    the network for a run is read from its backup.
    """
    try:
        vectors = some_vectors(model.model.diffusion_model.named_parameters())
        backups = [model.backup.get(f"diffusion_model.{name}") for name, _ in vectors]
        return first_numbers(
            weight if backup is None else getattr(backup, "weight", backup)
            for (_, weight), backup in zip(vectors, backups, strict=True)
        )
    except (AttributeError, RuntimeError, NotImplementedError):
        return ()


def are_the_same(one: Sequence[float], other: Sequence[float]) -> bool:
    """Return whether two checkpoints agree up to rounding. True if the numbers of one are unknown."""
    if not one or not other:
        return True
    scale = max(map(abs, (*one, *other)))
    is_near = all(abs(a - b) <= LARGEST_DIFFERENCE * scale for a, b in zip(one, other, strict=False))
    return len(one) == len(other) and is_near
