"""Running Best Of Sampler beside ComfyUI's own sampler node."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import comfy.samplers
import comfy_extras.nodes_custom_sampler as custom_sampler
import torch
from comfy.model_patcher import ModelPatcher
from symmetric_attention.nodes.best_of_sampler import BestOfSamplerNode
from torch import Tensor

from lab.testing.families.family import Family
from lab.testing.prompted import cfg_guider
from lab.testing.run_nodes import execute

SEED = 40
STEPS = 4


def inputs_of(
    family: Family,
    model: ModelPatcher | None = None,
    *,
    sampler: str = "euler",
    steps: int = STEPS,
    latent: dict[str, Any] | None = None,
    guider: Any = None,
) -> dict[str, Any]:
    """Return the inputs of ComfyUI's SamplerCustomAdvanced for the first seed `SEED`."""
    model = family.model if model is None else model
    sampling = model.get_model_object("model_sampling")
    return {
        "noise": execute(custom_sampler.RandomNoise, noise_seed=SEED)[0],
        "guider": guider or cfg_guider(model, family.conditioning("cond"), family.conditioning("uncond")),
        "sampler": comfy.samplers.sampler_object(sampler),
        "sigmas": comfy.samplers.calculate_sigmas(sampling, "normal", steps),
        "latent_image": latent or {"samples": torch.zeros(1, *family.latent)},
    }


def alone(inputs: dict[str, Any], offset: int) -> Any:
    """Return the result of ComfyUI's own node for the seed with this offset from the first one."""
    noise = execute(custom_sampler.RandomNoise, noise_seed=SEED + offset)[0]
    return execute(custom_sampler.SamplerCustomAdvanced, **{**inputs, "noise": noise})[0]["samples"]


def best_of(inputs: dict[str, Any], choose: str = "most different", **widgets: Any) -> tuple[Any, ...]:
    """The outputs of Best Of Sampler: of three seeds two, chosen in the middle, one image a model call."""
    settings = {"candidates": 3, "keep": 2, "decide_at": 0.5, "images_at_once": 1, **widgets}
    return execute(BestOfSamplerNode, **inputs, choose=choose, **settings)


def assert_as_alone(inputs: dict[str, Any], latent: dict[str, Any]) -> None:
    """Fail if a kept image differs in any bit from a run of its seed by itself."""
    assert len(latent["samples"]) == len(latent["batch_index"])
    for row, offset in enumerate(latent["batch_index"]):
        assert torch.equal(latent["samples"][row : row + 1], alone(inputs, offset)), offset


@contextmanager
def rows_computed(model: ModelPatcher) -> Iterator[list[int]]:
    """The rows of each call of the network inside the block."""
    rows: list[int] = []

    def count(_: Any, given: tuple[Tensor, ...]) -> None:
        rows.append(len(given[0]))

    handle = model.model.diffusion_model.register_forward_pre_hook(count)
    try:
        yield rows
    finally:
        handle.remove()
