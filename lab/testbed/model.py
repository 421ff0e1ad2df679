"""The test bed's model: the demo's kind of network, larger, for ten classes of grey pictures.

Its file holds what the demo model's file holds, with a context (11, 4, 64) and a whitening of 16 channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from lab.demo import model as demo_model
from lab.demo.model import DemoModel
from lab.demo.sampling import sample
from lab.testbed.data import crop
from lab.testbed.shape import CLASSES, COMFYUI_UNET_CONFIG, MODEL_FILE

STEPS = 10


def build_model() -> DemoModel:
    """The model with random weights; latents (N, 16, 8, 8), classes as in CLASSES."""
    return DemoModel(COMFYUI_UNET_CONFIG, len(CLASSES))


def load_model(path: Path = MODEL_FILE) -> DemoModel:
    """The model of a file in float32, ready for sampling."""
    return demo_model.load_model(path, build_model)


def classes_of(seeds: Sequence[int]) -> Tensor:
    """The classes (N,) of the seeds, taking turns, so that all are equally frequent."""
    return torch.tensor([seed % len(CLASSES) for seed in seeds])


def draw(model: DemoModel, seeds: Sequence[int], guidance: float, steps: int = STEPS, chunk: int = 100) -> Tensor:
    """Samples (N, 1, 28, 28) in [0, 1] of the seeds' own classes, by Euler steps."""
    return crop(sample(model, classes_of(seeds), seeds, steps, guidance, chunk))
