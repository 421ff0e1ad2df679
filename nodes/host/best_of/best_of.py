"""Drawing several seeds and finishing only the best of them; drawing again until they are good enough."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import comfy.model_management
import latent_preview

from ....sad_core import StabilityTrace
from ....sad_core.evaluation.selection import BOTH, CHOICES, DIFFERENT, Round, plan_rounds
from ....sad_core.parameters import check_choice
from ....sad_core.stability.score import StabilityScore
from ..patches.side_runs import StoppedEarly
from .inputs import check_by_row, of_one_image
from .judging import Judge, Verdict, judge_for
from .row_noise import StartingNoise, seeds_from
from .run import SeedRun, Task


@dataclass(frozen=True)
class BestOfSettings:
    """The settings of a best-of-N run.

    Attributes:
        choose: one of `selection.CHOICES`.
        candidates, keep, decide_at, rounds: see `plan_rounds`.
        score: of stability.
        max_tries: how often as many candidates are drawn; above 1, until all that are kept reach the threshold.
        threshold: the lowest score that passes.
        images_at_once: the most images of a model call; 0 means as many as fit into memory.

    Raises:
        ValueError: a number outside of its range.
    """

    choose: str = CHOICES[0]
    candidates: int = 8
    keep: int = 2
    decide_at: float = 0.3
    rounds: int = 1
    score: StabilityScore = field(default_factory=StabilityScore)
    max_tries: int = 1
    threshold: float = 0.0
    images_at_once: int = 0

    def __post_init__(self) -> None:
        check_choice("choose", self.choose, CHOICES)
        if self.choose in (DIFFERENT, BOTH) and self.keep < 2 <= self.candidates:
            raise ValueError(
                f'"keep" is {self.keep}, but "choose" is "{self.choose}", which compares the kept images. Set "keep" '
                "to 2 or more."
            )
        if self.max_tries < 1:
            raise ValueError(f'"max_tries" is {self.max_tries}, but it must be 1 or more.')
        if self.max_tries > 1 and math.isnan(self.threshold):
            raise ValueError('"threshold" is not a number. Give the lowest score that an image must reach.')
        if self.images_at_once < 0:
            raise ValueError(
                f'"images_at_once" is {self.images_at_once}, but it must be 0 or more. 0 means as many as fit into '
                "memory."
            )


@dataclass(frozen=True)
class BestOf:
    """The result of a best-of-N run.

    Attributes:
        latent: ComfyUI's LATENT of the kept images.
        scores: of them, in their order.
        table: CSV, a line for each candidate.
        trace: what a probe measured; empty where there is none.
        summary: all of it in sentences.
    """

    latent: dict[str, Any]
    scores: list[float]
    table: str
    trace: StabilityTrace
    summary: str


def sample_best(
    settings: BestOfSettings,
    noise: Any,
    guider: Any,
    sampler: Any,
    sigmas: Any,
    latent_image: dict[str, Any],
    vae: Any = None,
    clip_vision: Any = None,
) -> BestOf:
    """Sample the candidates as far as they are judged, and the best of them to the end.

    Args:
        settings: what to draw and what to keep.
        noise, guider, sampler, sigmas, latent_image: ComfyUI's, as for its SamplerCustomAdvanced.
        vae, clip_vision: compare images by what they show; without them the latents are compared.

    Raises:
        ValueError: something that was given does not fit; the sentence says what.
    """
    rounds = plan_rounds(settings.candidates, settings.keep, settings.decide_at, settings.rounds, len(sigmas) - 1)
    check_by_row(guider, sampler)
    judge = judge_for(settings.choose, settings.score, guider.model_patcher, vae, clip_vision)
    task = Task(guider, sampler, sigmas, of_one_image(guider, latent_image), settings.images_at_once)
    tries = _Tries(settings, task, noise, judge, rounds)
    samples = tries.sample()
    return tries.result(samples)


class _Tries:
    """The runs of one execution.

    Attributes:
        judged: every run that was judged, in order.
        best: the one whose images are kept.
        last: the one that finished them; `best`, or what went on with it.
    """

    def __init__(self, settings: BestOfSettings, task: Task, noise: Any, judge: Judge, rounds: Sequence[Round]):
        self.settings = settings
        self.task = task
        self.noise = noise
        self.judge = judge
        self.rounds = rounds
        self.judged: list[SeedRun] = []
        self.best: SeedRun | None = None
        self.last: SeedRun | None = None
        self._judged_at = rounds[-1].after
        total = task.steps + (settings.max_tries - 1) * self._judged_at
        self._show = latent_preview.prepare_callback(task.guider.model_patcher, total)
        self._total = total

    def sample(self) -> Any:
        """Return the latents of what is kept."""
        for number in range(self.settings.max_tries):
            run = self._run(number)
            try:
                return self._finished(run, run.sample())
            except StoppedEarly:
                self._settle(run)
        assert self.best is not None
        run = self.best.resumed(self._shown_from(self.settings.max_tries - 1, self._judged_at))
        return self._finished(run, run.sample(), self.best)

    def _run(self, number: int) -> SeedRun:
        """Return the run of one try."""
        count, is_last = self.settings.candidates, number == self.settings.max_tries - 1
        offsets = range(number * count, (number + 1) * count)
        seeds = seeds_from(self.noise.seed + offsets[0], count)
        start = StartingNoise(self.noise, self.task.latent, seeds)

        def accepts(verdict: Verdict) -> bool:
            is_best = self.best is None or run.score > self.best.score
            return self.settings.max_tries == 1 or run.score >= self.settings.threshold or (is_last and is_best)

        run = SeedRun(
            self.task,
            start,
            offsets,
            self.judge,
            self.rounds,
            accepts,
            self._shown_from(number),
            keeps=not is_last,
        )
        self.judged.append(run)
        return run

    def _settle(self, run: SeedRun) -> None:
        """Keep what was sampled of the better one of two runs."""
        if self.best is None or run.score > self.best.score:
            self.best, run = run, self.best or run
        if run is not self.best:
            run.live.predictions = None

    def _finished(self, run: SeedRun, samples: Any, judged: SeedRun | None = None) -> Any:
        self.best, self.last = judged or run, run
        return samples

    def _shown_from(self, number: int, seen: int = 0) -> Any:
        """Return what shows the progress of a try: one bar for all tries, which jumps on once one is good enough.

        Args:
            number: of the try, from 0.
            seen: steps that were shown before.
        """

        def show(done: int, predicted: Any, x: Any) -> None:
            if done <= seen:
                return
            at = (number if done <= self._judged_at else self.settings.max_tries - 1) * self._judged_at + done
            self._show(at - 1, predicted, x, self._total)

        return show

    def result(self, samples: Any) -> BestOf:
        """Return what is given out."""
        assert self.best is not None
        _, verdict = self.best.verdicts[-1]
        kept = [self.best.offsets[row] for row in verdict.kept]
        latent = {name: each for name, each in self.task.latent.items() if not name.startswith("downscale_ratio_")}
        latent["samples"] = samples.to(comfy.model_management.intermediate_device())
        first = next(iter(self.task.latent.get("batch_index") or [0]))
        latent["batch_index"] = [first + offset for offset in kept]
        records = [run.record for run in [*self.judged, self.last] if run is not None and run.record is not None]
        trace = StabilityTrace()
        for record in {id(each): each for each in records}.values():
            trace.begin(record)  # which lets go of the oldest where there are many
        scores = [verdict.scores[row] for row in verdict.kept]
        return BestOf(latent, scores, self._table(), trace, self._summary(scores))

    def _table(self) -> str:
        """Return a line for each candidate, with the last score it had."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["try", "seed", "kept", "judged_after_step", "score"])
        for number, run in enumerate(self.judged, 1):
            for row, seed in enumerate(run.start.seeds):
                after, verdict = [each for each in run.verdicts if row in each[1].scores][-1]
                is_kept = run is self.best and row in verdict.kept and verdict is run.verdicts[-1][1]
                writer.writerow([number, seed, int(is_kept), after, f"{verdict.scores[row]:.6g}"])
        return text.getvalue()

    def _summary(self, scores: Sequence[float]) -> str:
        settings, best, last = self.settings, self.best, self.last
        assert best is not None
        assert last is not None
        kept = [best.start.seeds[row] for row in best.verdicts[-1][1].kept]
        by = "distance to the nearest one kept" if settings.choose == DIFFERENT else settings.score.describe()
        found = ", ".join(f"{seed} ({score:.4g})" for seed, score in zip(kept, scores, strict=True))
        candidates = "1 candidate" if settings.candidates == 1 else f"{settings.candidates} candidates"
        lines = [f"Kept from {candidates} ({settings.choose}): {found}. In brackets after each seed is its {by}."]
        if settings.max_tries > 1:
            lines.append(self._gate(best))
        computed = sum(run.live.computed for run in {id(run): run for run in [*self.judged, last]}.values())
        calls = max(last.live.evaluations, 1)
        lines.append(
            f"This cost as much as {computed / calls:.3g} finished images. The model computed {computed} image steps "
            "(one image in one model call). Finishing every candidate would have taken "
            f"{len(self.judged) * settings.candidates * calls}."
        )
        return "\n".join(lines)

    def _gate(self, best: SeedRun) -> str:
        tried = f"{len(self.judged)} of {self.settings.max_tries} tries"
        if best.score >= self.settings.threshold:
            return f"The gate was passed after {tried}. No score is below {self.settings.threshold:g}."
        return (
            f"The gate was not passed in {tried}. These are the best so far. Their lowest score, {best.score:.4g}, is "
            f"below the threshold, {self.settings.threshold:g}."
        )
