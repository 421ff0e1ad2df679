"""Pictures of a checkpoint for a trial: sampled now with a clock beside them, or kept by a trial before."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import comfy.model_management
import latent_preview

from ....sad_core.evaluation.trial.pictures import Picture
from ....sad_core.evaluation.trial.ways import RIVALS, Way
from .rivals import why_not
from .sampling import Checkpoint
from .shelf import Shelf, digest_of, parts_of

clock = time.perf_counter


@dataclass
class PictureSource:
    """The pictures of a checkpoint.

    What is loaded, compiled or tuned at the first pictures of a way is no part of their time, so γ = 1 is not flattered
    or burdened by being sampled first.

    Attributes:
        checkpoint: what is sampled.
        prompts: at least one; each gives its CONDITIONING, and is called once.
        shelf: where pictures are kept.
    """

    checkpoint: Checkpoint
    prompts: Sequence[Callable[[], Any]]
    shelf: Shelf
    conditionings: list[Any] = field(default_factory=list, init=False)
    _digests: list[str] = field(default_factory=list, init=False)
    _warm: set[Way] = field(default_factory=set, init=False)
    _is_loaded: bool = field(default=False, init=False)
    _pictures: int = field(default=0, init=False)  # so far
    _expected: int = field(default=1, init=False)
    _progress: Any = field(default=None, init=False)

    def prepare(self, prompts: int) -> None:
        """Encode the first so many prompts; the model is loaded again before the next picture is sampled."""
        for encode in self.prompts[len(self.conditionings) : prompts]:
            comfy.model_management.throw_exception_if_processing_interrupted()
            self.conditionings.append(encode())
            self._digests.append(digest_of(*parts_of(self.conditionings[-1])))
        self._is_loaded = False

    def expect(self, pictures: int) -> None:
        """Show progress towards so many pictures in all."""
        self._expected = pictures
        if self._progress is None:
            self._progress = latent_preview.prepare_callback(self.checkpoint.model, pictures * self.checkpoint.steps)

    def draw(self, way: Way, prompt: int, seeds: Sequence[int]) -> list[Picture]:
        """Return the pictures of a block of seeds; those that are not there yet are sampled.

        Batches do not depend on which pictures are there: neighbours can change the last bit of a picture.
        """
        paths = [self.shelf.path(way, self._digests[prompt], seed) for seed in seeds]
        found = [self.shelf.load(path) for path in paths]
        begin = 0
        while begin < len(seeds):
            batch = slice(begin, begin + self.checkpoint.at_once)
            if None in found[batch]:
                sampled = self._sample(way, prompt, seeds[batch])
                for path, picture in zip(paths[batch], sampled, strict=True):
                    self.shelf.save(path, picture)
                found[batch] = sampled
            begin = batch.stop
        self._pictures += len(seeds)
        return [each for each in found if each is not None]

    def _sample(self, way: Way, prompt: int, seeds: Sequence[int]) -> list[Picture]:
        """Sample pictures; in smaller batches, then and later, where memory runs out."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        if not self._is_loaded or way not in self._warm:
            self.checkpoint.warm_up(way, self.conditionings[prompt], seeds)
            self._is_loaded = True
            self._warm.add(way)
        started = clock()
        sampled = self.checkpoint.sample(way, self.conditionings[prompt], seeds, self._shown(len(seeds)))
        images = [image.cpu() for image in sampled]  # a card computes on after a call has returned
        seconds = (clock() - started) / len(seeds)
        return [Picture.of(image, seconds) for image in images]

    def _shown(self, batch: int) -> Callable[[int, Any, Any], None]:
        """Return what moves the bar of all pictures on while a batch is sampled."""
        steps, begun = self.checkpoint.steps, self._pictures

        def show(done: int, predicted: Any, x: Any) -> None:
            at = begun * steps + done * batch
            self._progress(at - 1, predicted, x, max(at, self._expected * steps))

        return show


def rivals_of(checkpoint: Checkpoint) -> tuple[tuple[Way, ...], str]:
    """Return the rivals that mean something for a checkpoint, and a sentence on each of the others."""
    reasons = {way: why_not(checkpoint.model, way, checkpoint.cfg) for way in RIVALS}
    return tuple(way for way in RIVALS if not reasons[way]), " ".join(filter(None, reasons.values()))


def notes_of(checkpoint: Checkpoint) -> tuple[str, ...]:
    """Return sentences on what happened on the way."""
    if not checkpoint.failed_at:
        return ()
    return (
        f"Memory ran out with {checkpoint.failed_at} images at once, so at most {checkpoint.at_once} were sampled at "
        "once.",
    )
