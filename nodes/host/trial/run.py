"""A trial as it runs: the first pictures are timed, the rest is planned, and what is there is not sampled again."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import comfy.model_management
import latent_preview
import torch
from torch import Tensor

from ....sad_core.evaluation.measures import FeatureSpace, LookedAt, measure_set
from ....sad_core.evaluation.trial.plan import MOST_SEEDS, Plan, plan_trial, prompts_of
from ....sad_core.evaluation.trial.result import Measured, choose_way
from ....sad_core.evaluation.trial.ways import LADDER, PLAIN, RIVALS, Way
from .rivals import why_not
from .sampling import Checkpoint
from .shelf import Kept, Shelf, digest_of, parts_of

clock = time.perf_counter


@dataclass(frozen=True)
class Found:
    """The results of a trial.

    Attributes:
        plan: with the seeds that were reported in the end.
        choice, report: the ways of both parts.
        chosen: the way.
        sheet: pictures of γ = 1 and of the chosen way with the same seeds of the report.
        seconds: of all pictures.
        notes: sentences on what is missing, and on what happened on the way.
    """

    plan: Plan
    choice: tuple[Measured, ...]
    report: tuple[Measured, ...]
    chosen: Way
    sheet: tuple[list[Tensor], list[Tensor]]
    seconds: float
    notes: tuple[str, ...]


@dataclass
class TrialRun:
    """One trial.

    Attributes:
        checkpoint: what is sampled.
        prompts: at least one; each gives its CONDITIONING, and is called once, when it is needed first.
        shelf: where pictures are kept.
        first_seed: the first seed of the choice.
        minutes: the budget.
        space: where images are compared; asked for when they are there.
        texts: given the conditionings of the prompts and the width of the features, the texts in their space
            `(prompts, d)`, or a sentence on why there are none.
        tell: called with sentences about the plan.
        most_seeds: of a part, also where there is time for more.
    """

    checkpoint: Checkpoint
    prompts: Sequence[Callable[[], Any]]
    shelf: Shelf
    first_seed: int
    minutes: float
    space: FeatureSpace
    texts: Callable[[Sequence[Any], int], Tensor | str]
    tell: Callable[[str], None] = lambda sentence: None
    most_seeds: int = MOST_SEEDS
    _conditionings: dict[int, tuple[Any, str]] = field(default_factory=dict, init=False)
    _pictures: int = field(default=0, init=False)  # so far
    _planned: int = field(default=3, init=False)
    _progress: Any = field(default=None, init=False)
    _no_agreement: str = field(default="", init=False)

    def run(self) -> Found:
        """Sample all pictures and measure them.

        Raises:
            ValueError: the budget is too small.
        """
        self._progress = latent_preview.prepare_callback(self.checkpoint.model, self._planned * self.checkpoint.steps)
        wanted, reasons = [], []
        for way in RIVALS:
            reason = why_not(self.checkpoint.model, way, self.checkpoint.cfg)
            if reason:
                reasons.append(reason)
            else:
                wanted.append(way)
        first = {way: self._pictures_of(way, [self.first_seed], [0])[0] for way in (PLAIN, *LADDER[:2])}
        self._pictures = 0  # they are counted with the others of their part
        seconds = min(first[way].seconds for way in LADDER[:2])  # the first one of γ = 1 loaded the model
        plan = plan_trial(self.minutes, seconds, LADDER, wanted, " ".join(reasons), self.most_seeds)
        self._planned = plan.pictures
        self.tell(plan.describe(seconds))
        seeds = [self.first_seed + index for index in range(plan.choice_seeds)]
        pictures = self._part((PLAIN, *plan.ladder), seeds)
        choice = self._measured(pictures, seeds)
        spent = sum(each.seconds for kept in pictures.values() for each in kept)
        chosen = choose_way(choice)
        mean = spent / (len(seeds) * len(pictures))
        plan = plan.with_time_left(60 * self.minutes - spent, mean)
        self._planned = plan.pictures
        self.tell(f"{chosen.name} was chosen. The report uses {plan.report_seeds} other seeds.")
        seeds = [self.first_seed + MOST_SEEDS + index for index in range(plan.report_seeds)]
        pictures = self._part((PLAIN, chosen, *plan.rivals), seeds)
        report = self._measured(pictures, seeds)
        spent += sum(each.seconds for kept in pictures.values() for each in kept)
        notes = [plan.left_out, self._no_agreement]
        if self.checkpoint.failed_at:
            notes.append(
                f"Memory ran out with {self.checkpoint.failed_at} images at once, so at most "
                f"{self.checkpoint.at_once} were sampled at once."
            )
        before, after = ([each.image for each in pictures[way]] for way in (PLAIN, chosen))
        return Found(plan, choice, report, chosen, (before, after), spent, tuple(filter(None, notes)))

    def _part(self, ways: Sequence[Way], seeds: Sequence[int]) -> dict[Way, list[Kept]]:
        labels = prompts_of(len(seeds), len(self.prompts))
        return {way: self._pictures_of(way, seeds, labels) for way in ways}

    def _pictures_of(self, way: Way, seeds: Sequence[int], labels: Sequence[int]) -> list[Kept]:
        """Return a picture for each seed, with the prompt of each; those that are not there yet are sampled."""
        found: dict[int, Kept] = {}
        for label in sorted(set(labels)):
            own = [seed for seed, each in zip(seeds, labels, strict=True) if each == label]
            found |= self._pictures_of_prompt(way, label, own)
        return [found[seed] for seed in seeds]

    def _pictures_of_prompt(self, way: Way, label: int, seeds: Sequence[int]) -> dict[int, Kept]:
        conditioning, digest = self._conditioning(label)
        paths = {seed: self.shelf.path(way, digest, seed) for seed in seeds}
        found = {seed: kept for seed, path in paths.items() if (kept := self.shelf.load(path)) is not None}
        self._pictures += len(found)
        missing = [seed for seed in seeds if seed not in found]
        while missing:
            comfy.model_management.throw_exception_if_processing_interrupted()
            batch = missing[: self.checkpoint.at_once]
            started = clock()
            images = self.checkpoint.sample(way, conditioning, batch, self._shown(len(batch)))
            took = (clock() - started) / len(batch)
            for seed, image in zip(batch, images, strict=True):
                self.shelf.save(paths[seed], image, took)
                kept = self.shelf.load(paths[seed])
                if kept is None:
                    raise OSError(f"An image that was just saved cannot be read: {paths[seed]}.")
                found[seed] = kept
            self._pictures += len(batch)
            del missing[: len(batch)]
        return found

    def _conditioning(self, label: int) -> tuple[Any, str]:
        """Return the CONDITIONING of a prompt and its digest."""
        if label not in self._conditionings:
            encoded = self.prompts[label]()
            self._conditionings[label] = encoded, digest_of(*parts_of(encoded))
        return self._conditionings[label]

    def _shown(self, batch: int) -> Callable[[int, Any, Any], None]:
        """Return what moves the bar of all pictures on while a batch is sampled."""
        begun = self._pictures * self.checkpoint.steps

        def show(done: int, predicted: Any, x: Any) -> None:
            at = begun + done * batch
            self._progress(at - 1, predicted, x, max(at, self._planned * self.checkpoint.steps))

        return show

    def _measured(self, pictures: dict[Way, list[Kept]], seeds: Sequence[int]) -> tuple[Measured, ...]:
        labels = prompts_of(len(seeds), len(self.prompts))
        sets = {way: LookedAt.of([each.image for each in kept], labels, self.space) for way, kept in pictures.items()}
        used = [self._conditioning(label)[0] for label in range(max(labels) + 1)]
        texts = self.texts(used, sets[PLAIN].features.shape[1])
        self._no_agreement = texts if isinstance(texts, str) else ""
        in_space = texts if isinstance(texts, torch.Tensor) else None
        return tuple(
            Measured(
                way,
                measure_set(way.gamma, found, sets[PLAIN], self.space, in_space),
                median(each.seconds for each in pictures[way]),
            )
            for way, found in sets.items()
        )
