"""Sampling in large batches through nodes of the pack, on a CPU or a card. ComfyUI and the pack are loaded first."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import comfy.model_management
import comfy.samplers
import symmetric_attention.nodes.host.patches.feedback_patch as feedback_patch
import symmetric_attention.nodes.host.patches.probe_patch as probe_patch
import symmetric_attention.sad_core.stability.run as stability_run
import torch
from comfy.model_patcher import ModelPatcher
from symmetric_attention.nodes.host.demo_model import unet_of
from torch import Tensor

from demo_model.bands import decode
from lab.demo.model import NO_CATEGORY
from lab.demo.sampling import seed_noise
from lab.testbed.arms import GUIDANCE, STEPS
from lab.testbed.data import crop
from lab.testbed.model import classes_of
from lab.testbed.shape import COMFYUI_UNET_CONFIG, LATENT_CHANNELS, LATENT_SIZE

MOST_ROWS, MOST_BYTES = 2**14, 2**32
SHAPE = (LATENT_CHANNELS, LATENT_SIZE, LATENT_SIZE)


def lift_limits() -> None:
    """Have probes and feedback keep every sample of large batches, as they do of up to 64.

    No value depends on the other samples of a batch, so only memory and time differ.
    """
    for module in (probe_patch, feedback_patch):
        vars(module)["MOST_SAMPLES"] = MOST_ROWS
    vars(stability_run)["LARGEST_RUN"] = MOST_BYTES


@dataclass
class Network:
    """A network of the test bed.

    Attributes:
        model: as *Load Checkpoint* would give it.
        context: (11, 4, 64), the tokens of each class; the last are those of no class.
        mean, std: of the latents' channels.
    """

    model: ModelPatcher
    context: Tensor
    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, weights: Mapping[str, Tensor]) -> Network:
        """The network of a file's weights."""
        model = unet_of(weights, COMFYUI_UNET_CONFIG)
        if comfy.model_management.get_torch_device().type == "cpu":
            model.model.to(memory_format=torch.channels_last)
        return cls(model, weights["context"].float(), weights["latent_mean"].cpu(), weights["latent_std"].cpu())

    def pixels(self, latents: Tensor) -> Tensor:
        """Pictures (N, 1, 28, 28) uint8 of latents (N, 16, 8, 8)."""
        pictures = crop(decode(latents.float().cpu(), self.mean, self.std)).clamp(0, 1)
        return (pictures * 255).round().to(torch.uint8)


@dataclass
class Drawn:
    """The samples of some seeds.

    Attributes:
        pixels: (N, 1, 28, 28) uint8.
        runs: what the trace recorded, a run for each batch; empty without one.
        seen: what `look` returned for each batch.
    """

    pixels: Tensor
    runs: list[Any] = field(default_factory=list)
    seen: list[Any] = field(default_factory=list)


@dataclass(frozen=True)
class Bench:
    """The way samples are drawn: the network, and how many at a time, a multiple of 80."""

    network: Network
    batch: int

    @torch.no_grad()
    def draw(
        self,
        model: ModelPatcher,
        seeds: Sequence[int],
        trace: Any = None,
        predicted_after: Sequence[int] = (),
        look: Callable[[dict[int, Tensor]], Any] = lambda predicted: None,
    ) -> Drawn:
        """Sample each seed's own class with a patched MODEL, a batch at a time.

        Args:
            model: of the network.
            seeds: one for each sample.
            trace: of a probe or feedback on the model.
            predicted_after: numbers of steps.
            look: called once a batch with what the model takes the latents for after these numbers of steps.
        """
        found = Drawn(torch.empty(0, 1, 28, 28, dtype=torch.uint8))
        for start in range(0, len(seeds), self.batch):
            predicted: dict[int, Tensor] = {}

            def keep(step: int, x0: Tensor, x: Tensor, steps: int, kept: dict[int, Tensor] = predicted) -> None:
                if step + 1 in predicted_after:
                    kept[step + 1] = x0.clone()

            latents = self._sample(model, seeds[start : start + self.batch], keep)
            found.pixels = torch.cat([found.pixels, self.network.pixels(latents)])
            if predicted_after:
                found.seen.append(look(predicted))
            if trace is not None:
                found.runs.append(trace.runs[-1])
        return found

    def _sample(self, model: ModelPatcher, seeds: Sequence[int], callback: Any) -> Tensor:
        context = self.network.context
        guider = comfy.samplers.CFGGuider(model)
        nothing = context[NO_CATEGORY].expand(len(seeds), -1, -1)
        guider.set_conds([[context[classes_of(seeds)], {}]], [[nothing, {}]])
        guider.set_cfg(GUIDANCE)
        noise = torch.cat([seed_noise(seed, SHAPE) for seed in seeds])
        sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", STEPS)
        sampler = comfy.samplers.ksampler("euler")
        drawn: Tensor = guider.sample(
            noise, torch.zeros_like(noise), sampler, sigmas, callback=callback, disable_pbar=True, seed=0
        )
        return drawn
