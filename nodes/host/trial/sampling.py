"""A checkpoint as it is sampled in a trial: its pictures are those of ComfyUI's KSampler with the same seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.samplers
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ....sad_core import GammaSchedule
from ....sad_core.evaluation.trial.ways import PLAIN, STABILITY_PROBE, Way
from ..apply import choose_sites, install_skew_attention, install_stability_probe
from ..best_of.inputs import check_by_row, of_one_image
from ..best_of.row_noise import StartingNoise
from ..best_of.run import SeedRun, Task
from ..memory import is_out_of_memory
from ..patches.side_runs import KEY
from ..patches.skew_patch import SkewPatch
from ..settings import ProbeSettings, SkewSettings
from .rivals import with_rival

NODE = "Measure Your Checkpoint (SAD)"
SAMPLERS: tuple[str, ...] = tuple(comfy.samplers.KSampler.SAMPLERS)
SCHEDULERS: tuple[str, ...] = tuple(comfy.samplers.KSampler.SCHEDULERS)
Show = Callable[[int, Any, Any], None]


@dataclass
class Checkpoint:
    """A MODEL and how it is sampled.

    Attributes:
        model: ComfyUI's MODEL, without Skew Attention.
        vae: decodes its latents.
        latent: ComfyUI's LATENT of one picture.
        negative: CONDITIONING.
        steps, cfg, sampler, scheduler: as in KSampler.
        at_once: the most pictures of a model call; fewer once memory ran out.
        act_where_unverified: as in `SkewSettings`.
        failed_at: how many pictures the first model call had that ran out of memory; 0 where none did.
    """

    model: ModelPatcher
    vae: Any
    latent: Mapping[str, Any]
    negative: Any
    steps: int
    cfg: float
    sampler: str
    scheduler: str
    at_once: int
    act_where_unverified: bool = False
    failed_at: int = field(default=0, init=False)
    _patched: dict[Way, ModelPatcher] = field(default_factory=dict, init=False)

    def patched(self, way: Way) -> ModelPatcher:
        """Return the MODEL of a way; that of γ = 1 is the MODEL as it came."""
        if way not in self._patched:
            self._patched[way] = self._patch(way)
        return self._patched[way]

    def _patch(self, way: Way) -> ModelPatcher:
        if way == PLAIN:
            return self.model
        if way.rival == STABILITY_PROBE:
            return install_stability_probe(self.model, ProbeSettings(act_where_unverified=self.act_where_unverified))[0]
        if way.rival:
            return with_rival(self.model, way)
        settings = SkewSettings(
            GammaSchedule.from_preset("constant", way.gamma),
            beta=way.beta,
            start=way.start,
            end=way.end,
            act_where_unverified=self.act_where_unverified,
        )
        return install_skew_attention(self.model, settings)[0]

    def sample(self, way: Way, positive: Any, seeds: Sequence[int], show: Show) -> list[Tensor]:
        """Return the pictures of some seeds of one prompt, `(height, width, 3)` each, in fewer calls where memory ends.

        Args:
            way: how.
            positive: CONDITIONING.
            seeds: at most `at_once`.
            show: called with the number of finished steps, the prediction and the latents.
        """
        try:
            return self._sample(way, positive, seeds, show)
        except Exception as error:
            if len(seeds) == 1 or not is_out_of_memory(error):
                raise
        comfy.model_management.soft_empty_cache()
        self.failed_at = self.failed_at or len(seeds)
        self.at_once = (len(seeds) + 1) // 2
        halves = (seeds[: self.at_once], seeds[self.at_once :])
        return [image for half in halves for image in self.sample(way, positive, half, show)]

    def warm_up(self, way: Way, positive: Any, seeds: Sequence[int]) -> None:
        """Load the model, and have kernels compiled and tuned: the first step of pictures, which are thrown away."""
        try:
            self._sample(way, positive, seeds, lambda done, predicted, x: None, is_warm_up=True)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            comfy.model_management.soft_empty_cache()  # `sample` takes fewer at once

    def _sample(
        self, way: Way, positive: Any, seeds: Sequence[int], show: Show, is_warm_up: bool = False
    ) -> list[Tensor]:
        guider = comfy.samplers.CFGGuider(self.patched(way))
        guider.set_conds(positive, self.negative)
        guider.set_cfg(self.cfg)
        sigmas = self._sigmas(way)
        task = Task(guider, comfy.samplers.sampler_object(self.sampler), sigmas, self.latent)
        if is_warm_up:
            task = Task(guider, comfy.samplers.sampler_object("euler"), sigmas[:2], self.latent)
        start = StartingNoise(SeededNoise(seeds[0]), self.latent, seeds)
        run = SeedRun(task, start, range(len(seeds)), show=show)
        latents = run.sample()
        if run.live.at_once:
            self.failed_at = self.failed_at or len(seeds)
            self.at_once = min(self.at_once, run.live.at_once)
        rows = 1 if is_warm_up else len(latents)
        return [_picture(self.vae.decode(latents[row : row + 1])) for row in range(rows)]

    def _sigmas(self, way: Way) -> Tensor:
        model = self.patched(way)
        sampler = comfy.samplers.KSampler(
            model, self.steps, "cpu", self.sampler, self.scheduler, denoise=1.0, model_options=model.model_options
        )
        sigmas: Tensor = sampler.sigmas
        return sigmas


@dataclass
class SeededNoise:
    """ComfyUI's NOISE of a seed, as its node *RandomNoise* gives it."""

    seed: int

    def generate_noise(self, latent: Mapping[str, Any]) -> Tensor:
        """Return the noise that a LATENT is sampled from."""
        noise: Tensor = comfy.sample.prepare_noise(latent["samples"], self.seed, latent.get("batch_index"))
        return noise


def check_model(model: ModelPatcher, act_where_unverified: bool = False) -> None:
    """Refuse a model that cannot be tried, before anything is sampled.

    Raises:
        ValueError: γ cannot act on it, or acts on it already.
    """
    choose_sites(model, "", NODE, act_where_unverified)
    patches = [getattr(each, "__self__", None) for each in model.get_wrappers(WrappersMP.OUTER_SAMPLE, KEY)]
    if any(isinstance(patch, SkewPatch) for patch in patches):
        raise ValueError(
            f"The MODEL went through Skew Attention (SAD), but {NODE} sets gamma itself. Wire the MODEL that goes "
            "into Skew Attention (SAD)."
        )


def latent_of_one(model: ModelPatcher, latent: dict[str, Any], sampler: str) -> dict[str, Any]:
    """Return a LATENT of one picture in the form that the model needs, once it and the sampler fit.

    Raises:
        ValueError: it holds several pictures or more than pictures, or the sampler cannot sample seed by seed.
    """
    if latent["samples"].is_nested:
        raise ValueError(
            "latent_image holds more than an image, such as sound, and a trial compares only images. Wire an empty "
            "latent of one image."
        )
    count = len(latent["samples"])
    if count != 1:
        raise ValueError(f"latent_image holds {count} images, but a trial draws its own seeds. Set batch_size to 1.")
    guider = comfy.samplers.CFGGuider(model)
    check_by_row(guider, comfy.samplers.sampler_object(sampler))
    return of_one_image(guider, latent)


def machine_of(model: ModelPatcher) -> str:
    """Return what samples: the name of the card, or of the kind of device."""
    device = torch.device(model.load_device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper()
    return " ".join(name.replace("/", " ").split())


def _picture(decoded: Tensor) -> Tensor:
    """The picture of what a VAE gives for one latent; the first frame of a video."""
    picture: Tensor = decoded.flatten(0, -4)[0, ..., :3]
    return picture
