"""Score the samples of a run so far, and choose those that continue."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import comfy.sampler_helpers
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ....sad_core.evaluation.diversity import cosines, rms_distances
from ....sad_core.evaluation.selection import DIFFERENT, STABLE, choose, separations
from ....sad_core.stability.score import StabilityScore
from ..clip_vision import embed
from ..patches.probe_patch import ProbePatch
from ..patches.side_runs import KEY

Distances = Callable[[Any, Tensor], Tensor]


@dataclass(frozen=True)
class Verdict:
    """The outcome of one decision.

    Attributes:
        kept: the rows that go on.
        scores: of every row that was there, higher is better.
    """

    kept: list[int]
    scores: dict[int, float]


@dataclass(frozen=True)
class Judge:
    """Choose among the rows of a run.

    Attributes:
        choice: one of `selection.CHOICES`.
        score: of stability.
        probe: of the run; needed unless the choice is "most different".
        distances: of the predicted results, `(n, …)` → `(n, n)`, called with the guider first.
    """

    choice: str
    score: StabilityScore
    probe: ProbePatch | None
    distances: Distances

    def decide(self, guider: Any, rows: Sequence[int], names: Sequence[int], predicted: Tensor, keep: int) -> Verdict:
        """Return which `keep` of the rows go on.

        Args:
            guider: of the run.
            rows: that are there.
            names: of these rows in the trace.
            predicted: what the model takes each of them for, `(rows, …)`.
            keep: how many go on.

        Raises:
            ValueError: a score is not a number, or nothing was measured.
        """
        stability = None if self.probe is None or self.choice == DIFFERENT else self._stability(self.probe, names)
        distances = None if self.choice == STABLE else self.distances(guider, predicted)
        kept = choose(self.choice, keep, stability, distances)
        if stability is None:
            assert distances is not None
            scores = separations(distances, kept)
        else:
            scores = stability
        return Verdict([rows[index] for index in kept], dict(zip(rows, scores.tolist(), strict=True)))

    def _stability(self, probe: ProbePatch, names: Sequence[int]) -> Tensor:
        assert probe.run is not None
        scores = self.score.of_run(probe.run.record)
        return torch.tensor([scores.get(name, math.nan) for name in names], dtype=torch.float64)


def probe_of(model: ModelPatcher) -> ProbePatch | None:
    """Return the probe on a MODEL, the one nearest to the sampler of several; None where there is none."""
    wrappers = model.get_wrappers(WrappersMP.OUTER_SAMPLE, KEY)
    probes = [each.__self__ for each in wrappers if isinstance(each.__self__, ProbePatch)]
    return probes[-1] if probes else None


def distances_of_latents(guider: Any, predicted: Tensor) -> Tensor:
    """Return the root mean square difference of every two predicted latents, `(n, …)` → `(n, n)`."""
    flat = predicted.flatten(1).float()
    return rms_distances(flat, flat)


@dataclass(frozen=True)
class DistancesOfPictures:
    """1 − cosine of what a CLIP vision model sees in the decoded predictions.

    Attributes:
        vae: decodes them.
        clip_vision: sees them.
    """

    vae: Any
    clip_vision: Any

    def __call__(self, guider: Any, predicted: Tensor) -> Tensor:
        """Return the distances of the predicted latents `(n, …)`: `(n, n)`.

        The VAE and the vision model may take the place of the sampled model in memory, so it is loaded again after.
        """
        latents = guider.inner_model.process_latent_out(predicted.to(torch.float32)).cpu()
        features = torch.cat([self._features(latents[row : row + 1]) for row in range(len(latents))])
        _load_again(guider, predicted)
        return (1.0 - cosines(features, features)).fill_diagonal_(0.0)

    def _features(self, latent: Tensor) -> Tensor:
        comfy.model_management.throw_exception_if_processing_interrupted()
        pictures = self.vae.decode(latent)
        pictures = pictures.flatten(0, -4) if pictures.dim() > 4 else pictures  # the frames of a video
        return embed(self.clip_vision, list(pictures), shows_progress=False).mean(dim=0, keepdim=True)


def _load_again(guider: Any, latents: Tensor) -> None:
    """Load the models of a run that is going on, as ComfyUI does when it begins."""
    model = guider.model_patcher
    comfy.sampler_helpers.prepare_sampling(model, latents.shape, guider.conds, guider.model_options)
    others = [each for each in vars(guider).values() if isinstance(each, ModelPatcher) and each is not model]
    if others:
        comfy.model_management.load_models_gpu(others)


def judge_for(choice: str, score: StabilityScore, model: ModelPatcher, vae: Any, clip_vision: Any) -> Judge:
    """Return what chooses.

    Raises:
        ValueError: stability is asked for and there is no probe, or one of vae and clip_vision is missing.
    """
    if (vae is None) != (clip_vision is None):
        given, missing = ("clip_vision", "vae") if vae is None else ("vae", "clip_vision")
        raise ValueError(
            f'"{given}" is wired, but "{missing}" is not. Wire both to compare images by what they show, or neither to '
            "compare latents."
        )
    probe = probe_of(model)
    if choice != DIFFERENT:
        if probe is None:
            raise ValueError(
                f'"choose" is "{choice}", but nothing measures how stable the samples are. Put a Stability '
                'Probe (SAD) between the model and the guider, or choose "most different".'
            )
        measured, wanted = probe.settings.measures, score.measure
        if wanted not in measured:
            raise ValueError(
                f'"measure" is "{wanted}", but the probe measures only {", ".join(measured)}. Choose one of these, or '
                'turn on "depth_and_curvature" on the probe.'
            )
    distances = distances_of_latents if vae is None else DistancesOfPictures(vae, clip_vision)
    return Judge(choice, score, probe, distances)
