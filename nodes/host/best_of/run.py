"""One sampling run of several seeds at once, in which those that are not chosen are dropped on the way."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import comfy.samplers
import comfy.utils
import torch
from comfy.model_patcher import create_model_options_clone
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ....sad_core.evaluation.selection import Round
from ....sad_core.stability.run import StabilityRun
from ..patches.side_runs import KEY, StoppedEarly
from .judging import Judge, Verdict
from .live_rows import LiveRows, Prediction
from .row_noise import RowNoise, StartingNoise

ROUNDING = 1e-5  # of a noise level that a sampler computes anew
Show = Callable[[int, Any, Any], None]


@dataclass(frozen=True)
class Task:
    """The inputs of ComfyUI's SamplerCustomAdvanced.

    Attributes:
        guider, sampler, sigmas: ComfyUI's.
        latent: ComfyUI's LATENT of one image, as the model needs it.
        at_once: the most images of a model call; 0 means as many as fit into memory.
    """

    guider: Any
    sampler: Any
    sigmas: Tensor
    latent: Mapping[str, Any]
    at_once: int = 0

    @property
    def steps(self) -> int:
        """The number of steps."""
        return len(self.sigmas) - 1


class SeedRun:
    """A run of several seeds.

    Args:
        task: what is sampled.
        start: noise of each seed.
        offsets: of the seeds from that of the NOISE, which name them in a trace.
        judge: chooses among them in the rounds, and has the probe; None where all are finished.
        rounds: when, and how many go on.
        accepts: called with the last verdict; where it returns False the run stops there.
        show: called with the number of finished steps, the prediction and the latents.
        keeps: whether the run can be gone on with later.
        recorded: what the model gave for these seeds before.

    Attributes:
        verdicts: of the rounds so far, each with the number of steps before it.
        live: the rows that go on.
        record: what the probe of the judge measured.
    """

    def __init__(
        self,
        task: Task,
        start: StartingNoise,
        offsets: Sequence[int],
        judge: Judge | None = None,
        rounds: Sequence[Round] = (),
        accepts: Callable[[Verdict], bool] = lambda verdict: True,
        show: Show = lambda done, predicted, x: None,
        keeps: bool = False,
        recorded: Sequence[Prediction] = (),
    ):
        self.task = task
        self.start = start
        self.offsets = list(offsets)
        self.verdicts: list[tuple[int, Verdict]] = []
        self.record: StabilityRun | None = None
        self._judge = judge
        self._waiting = list(rounds)
        self._accepts = accepts
        self._show = show
        self._done = 0  # steps
        self._predicted: Tensor | None = None
        self._mask: Tensor | None = None
        self._latent: Tensor | None = None
        self._guider: Any = None
        batch = start.batch()
        self._noise = RowNoise(start, batch)
        self.live = LiveRows(self.offsets, task.at_once, self._noise, recorded, keeps)
        self._batch = batch

    @property
    def score(self) -> float:
        """The lowest score of the images that the last round kept."""
        _, last = self.verdicts[-1]
        return min(last.scores[row] for row in last.kept)

    def sample(self) -> Any:
        """Return the latents of the seeds that were kept, in their order.

        Raises:
            StoppedEarly: the last verdict was not accepted.
            ValueError: see `Judge.decide`.
        """
        guider = copy.copy(self.task.guider)
        guider.model_options = create_model_options_clone(guider.model_options)
        self._guider = guider
        for kind, wrapper in (
            (WrappersMP.PREPARE_SAMPLING, self._prepare),
            (WrappersMP.SAMPLER_SAMPLE, self._sample_rows),
            (WrappersMP.PREDICT_NOISE, self._predict),
            (WrappersMP.CALC_COND_BATCH, self.live.evaluate),
        ):
            _put_outermost(guider.model_options, kind, wrapper)
        try:
            return guider.sample(
                self.start.noise[0],
                self.task.latent["samples"],
                self.task.sampler,
                self.task.sigmas,
                denoise_mask=self.task.latent.get("noise_mask"),
                callback=self._step_ended,
                disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
                seed=self.start.seeds[0],
            )
        finally:
            self._guider = self._predicted = self._mask = self._latent = None

    def resumed(self, show: Show) -> SeedRun:
        """Return a run that goes on with what this one kept when it stopped."""
        rows = self.verdicts[-1][1].kept
        start, offsets = self.start.of(rows), [self.offsets[row] for row in rows]
        return SeedRun(self.task, start, offsets, self._judge, show=show, recorded=self.live.recorded_of(rows))

    # In the run

    def _prepare(self, executor: Any, model: Any, noise_shape: Any, *args: Any, **kwargs: Any) -> Any:
        """Have ComfyUI make room for all rows, although it knows of one."""
        return executor(model, [self.task.at_once or len(self.offsets), *noise_shape[1:]], *args, **kwargs)

    def _sample_rows(
        self,
        executor: Any,
        guider: Any,
        sigmas: Tensor,
        extra_args: dict[str, Any],
        callback: Any,
        noise: Tensor,
        latent_image: Tensor | None = None,
        denoise_mask: Tensor | None = None,
        disable_pbar: bool = False,
    ) -> Tensor:
        """Have the sampler sample all rows, and return those that were kept."""
        rows = len(self.offsets)
        self._latent, self._mask = latent_image, denoise_mask
        many = (self._batch.to(noise), _repeated(latent_image, rows), _repeated(denoise_mask, rows), disable_pbar)
        with self._noise.drawn_by_row():
            samples: Tensor = executor(guider, sigmas, extra_args, callback, *many)
            while self._waiting:  # a sampler that never came so far down
                self._decide()
        return samples[self.live.alive]

    def _predict(self, executor: Any, x: Tensor, timestep: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Decide what is due before this noise level, then predict."""
        if self._judge is not None and self._judge.probe is not None and self._judge.probe.run is not None:
            self.record = self._judge.probe.run.record
        while self._waiting and self._predicted is not None and self._is_due(float(timestep.flatten()[0])):
            self._decide()
        predicted: Tensor = executor(x, timestep, *args, **kwargs)
        self._predicted = predicted
        return predicted

    def _is_due(self, sigma: float) -> bool:
        after = self._waiting[0].after
        first, level = float(self.task.sigmas[0]), float(self.task.sigmas[after])
        passed = sigma <= level * (1 + ROUNDING) if level <= first else sigma >= level * (1 - ROUNDING)
        return passed or self._done >= after

    def _decide(self) -> None:
        due = self._waiting.pop(0)
        assert self._judge is not None
        assert self._predicted is not None
        rows = self.live.alive
        with self._noise.paused():
            verdict = self._judge.decide(
                self._guider, rows, [self.offsets[row] for row in rows], self._result_of(rows), due.keep
            )
        self.verdicts.append((due.after, verdict))
        self.live.alive = verdict.kept
        if not self._waiting and not self._accepts(verdict):
            raise StoppedEarly

    def _result_of(self, rows: Sequence[int]) -> Tensor:
        """Return what the rows would be if the model were right now, with what a mask protects left as it was."""
        assert self._predicted is not None
        predicted = self._predicted[rows]
        if self._mask is None or self._latent is None:
            return predicted
        return predicted * self._mask + self._latent * (1.0 - self._mask)

    def _step_ended(self, step: int, predicted: Any, x: Any, steps: int) -> None:
        self._done = max(self._done, step + 1)
        first = self.live.alive[0]
        if not getattr(predicted, "is_nested", False):
            predicted, x = predicted[first : first + 1], x[first : first + 1]
        self._show(self._done, predicted, x)


def _put_outermost(model_options: dict[str, Any], kind: str, wrapper: Callable[..., Any]) -> None:
    """Put a wrapper around all others of its kind, of other packs and of the model too."""
    wrappers = model_options.setdefault("transformer_options", {}).setdefault("wrappers", {})
    wrappers[kind] = {f"{KEY}.best_of": [wrapper], **wrappers.get(kind, {})}


def _repeated(tensor: Tensor | None, rows: int) -> Tensor | None:
    return None if tensor is None else torch.cat([tensor] * rows)
