"""The test bed's models: the demo's kind of UNet, larger, for ten classes of grey pictures, and the DiT of `flow.py`.

The UNet's file holds what the demo model's file holds, with a context (11, 4, 64) and a whitening of 16 channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from lab.demo.model import DemoModel, LatentModel, load_as
from lab.demo.sampling import sample, sample_latents
from lab.testbed import flow
from lab.testbed.data import crop
from lab.testbed.flow import FlowModel
from lab.testbed.shape import CLASSES, COMFYUI_UNET_CONFIG, MODEL_FILE

STEPS = 10


def build_model() -> DemoModel:
    """The model with random weights; latents (N, 16, 8, 8), classes as in CLASSES."""
    return DemoModel(COMFYUI_UNET_CONFIG, len(CLASSES))


def load_model(path: Path = MODEL_FILE) -> LatentModel:
    """The model of a file in float32, ready for sampling; the names of its weights say which network it is."""
    return load_as(FlowModel, path) if holds_dit(path) else load_as(build_model, path)


def holds_dit(path: Path) -> bool:
    """Return whether a file holds the DiT and not the UNet."""
    with safe_open(path, framework="pt") as file:
        return any(name.startswith("dit.") for name in file.keys())  # noqa: SIM118 (not a dict)


def classes_of(seeds: Sequence[int]) -> Tensor:
    """The classes (N,) of the seeds, taking turns, so that all are equally frequent."""
    return torch.tensor([seed % len(CLASSES) for seed in seeds])


def draw(model: LatentModel, seeds: Sequence[int], guidance: float, steps: int = STEPS, chunk: int = 100) -> Tensor:
    """Samples (N, 1, 28, 28) in [0, 1] of the seeds' own classes, by Euler steps."""
    latents_of = flow.sample_latents if isinstance(model, FlowModel) else sample_latents
    return crop(sample(model, classes_of(seeds), seeds, steps, guidance, chunk, latents_of))
