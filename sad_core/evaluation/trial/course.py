"""The course of a trial: the first pictures are timed, the rest is planned, one way is chosen and then reported.

Nothing here samples. What does is a `Source`: ComfyUI (nodes/host/trial), or a pipeline of diffusers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Protocol

from torch import Tensor

from ..measures import FeatureSpace, LookedAt, measure_set
from .pictures import Images, Picture
from .plan import COSTS, MOST_SEEDS, SEEDS_A_PROMPT, SLOWER, Plan, plan_trial, prompts_of, used_prompts
from .result import Cost, Measured, choose_way
from .ways import LADDER, PLAIN, PROBED, RIVALS, Way, with_beta


class Source(Protocol):
    """The source of the pictures."""

    def prepare(self, prompts: int) -> None:
        """Encode the first so many prompts, and load the model before the next picture's time begins.

        It is called before each part, since what encodes and measures may have taken the model's memory.
        """

    def expect(self, pictures: int) -> None:
        """Show progress towards so many pictures in all."""

    def draw(self, way: Way, prompt: int, seeds: Sequence[int]) -> list[Picture]:
        """Return the pictures of a block of seeds, sampled now or before, without what is loaded in their seconds."""


@dataclass(frozen=True)
class Found:
    """The results of a trial.

    Attributes:
        plan: with the seeds that were reported in the end.
        choice, report: the ways of both parts.
        chosen: the way.
        costs: what other ways took.
        sheet: pictures of γ = 1 and of the chosen way with the same seeds of the report.
        seconds: of all pictures.
        notes: sentences on what is missing.
    """

    plan: Plan
    choice: tuple[Measured, ...]
    report: tuple[Measured, ...]
    chosen: Way
    costs: tuple[Cost, ...]
    sheet: tuple[Images, Images]
    seconds: float
    notes: tuple[str, ...]


@dataclass
class Course:
    """One trial.

    Attributes:
        source: what gives the pictures.
        prompts: how many there are.
        first_seed: the first seed of the choice.
        minutes: the budget.
        space: where images are compared.
        texts: given how many prompts were used and the width of the features, the texts in their space
            `(prompts, d)`, or a sentence on why there are none.
        tell: called with sentences about the plan.
        most_seeds: of a part, also where there is time for more.
        ladder: what is chosen among.
        rivals: what is reported beside it.
        left_out: a sentence on rivals that mean nothing here.
        costs: how many of the ways are timed that only cost: γ with β, γ = 1 with the probe.
    """

    source: Source
    prompts: int
    first_seed: int
    minutes: float
    space: FeatureSpace
    texts: Callable[[int, int], Tensor | str] = lambda prompts, width: ""
    tell: Callable[[str], None] = lambda sentence: None
    most_seeds: int = MOST_SEEDS
    ladder: Sequence[Way] = LADDER
    rivals: Sequence[Way] = RIVALS
    left_out: str = ""
    costs: int = COSTS
    _no_agreement: str = field(default="", init=False)

    def run(self) -> Found:
        """Have all pictures sampled, and measure them.

        Raises:
            ValueError: the budget is too small.
        """
        ways = (PLAIN, *self.ladder)
        self.source.prepare(1)
        self.source.expect(len(ways) * SEEDS_A_PROMPT)
        pictures: dict[Way, list[Picture]] = {way: [] for way in ways}
        for way in ways[:2]:
            self._draw(pictures, way, self.first_seed, 1)
        seconds = _mean(pictures)
        self._plan(seconds)  # raises if the budget is too small
        for way in ways[2:]:
            self._draw(pictures, way, self.first_seed, 1)
        plan = self._plan(_mean(pictures), has_begun=True)
        self.tell(plan.describe(_mean(pictures)))
        self.source.expect(plan.pictures)
        self.source.prepare(used_prompts(plan.choice_seeds, self.prompts))
        self._draw_part(pictures, self.first_seed, plan.choice_seeds)
        choice = self._measured(pictures)
        chosen = choose_way(choice)
        spent = _seconds(pictures)
        plan = plan.with_time_left(spent, _mean(pictures))
        self.tell(f"{chosen.name} was chosen. The report uses {plan.report_seeds} other seeds.")
        self.source.expect(plan.pictures)
        self.source.prepare(used_prompts(plan.report_seeds, self.prompts))
        first = self.first_seed + MOST_SEEDS
        pictures = {way: [] for way in (PLAIN, chosen, *plan.rivals)}
        for done in range(SEEDS_A_PROMPT, plan.report_seeds + 1, SEEDS_A_PROMPT):
            before = _seconds(pictures)
            self._draw_part(pictures, first, done)
            block, costs = _seconds(pictures) - before, plan.costs * SEEDS_A_PROMPT * _mean(pictures)
            if spent + _seconds(pictures) + block + costs > plan.seconds:
                break  # also where pictures got slower since the choice
        reported = len(pictures[PLAIN])
        if reported < plan.report_seeds:
            sentence = f"The report ended after {reported} of {plan.report_seeds} seeds{SLOWER}."
            plan = replace(plan, report_seeds=reported, left_out=f"{plan.left_out} {sentence}".strip())
        timed: dict[Way, list[Picture]] = {way: [] for way in (with_beta(chosen), PROBED)[: plan.costs]}
        self._draw_part(timed, first, SEEDS_A_PROMPT)
        return Found(
            plan,
            choice,
            self._measured(pictures),
            chosen,
            tuple(Cost(way.name, _median(found)) for way, found in timed.items()),
            (Images(pictures[PLAIN]), Images(pictures[chosen])),
            spent + _seconds(pictures) + _seconds(timed),
            tuple(filter(None, (plan.left_out, self._no_agreement))),
        )

    def _plan(self, seconds: float, has_begun: bool = False) -> Plan:
        return plan_trial(
            self.minutes,
            seconds,
            self.ladder,
            self.rivals,
            self.costs,
            self.left_out,
            self.most_seeds,
            has_begun,
        )

    def _draw_part(self, pictures: dict[Way, list[Picture]], first: int, seeds: int) -> None:
        """Draw what is missing of the first `seeds` of a part, all ways of a block before the next block."""
        for done in range(SEEDS_A_PROMPT, seeds + 1, SEEDS_A_PROMPT):
            for way in pictures:
                self._draw(pictures, way, first, done)

    def _draw(self, pictures: dict[Way, list[Picture]], way: Way, first: int, seeds: int) -> None:
        """Draw blocks of a way until it has `seeds` of them."""
        while len(pictures[way]) < seeds:
            begun = len(pictures[way])
            prompt = prompts_of(begun + 1, self.prompts)[-1]
            pictures[way] += self.source.draw(way, prompt, range(first + begun, first + begun + SEEDS_A_PROMPT))

    def _measured(self, pictures: dict[Way, list[Picture]]) -> tuple[Measured, ...]:
        seeds = len(pictures[PLAIN])
        labels = prompts_of(seeds, self.prompts)
        sets = {way: LookedAt.of(Images(found), labels, self.space) for way, found in pictures.items()}
        texts = self.texts(used_prompts(seeds, self.prompts), sets[PLAIN].features.shape[1])
        self._no_agreement = texts if isinstance(texts, str) else ""
        in_space = texts if isinstance(texts, Tensor) else None
        return tuple(
            Measured(way, measure_set(way.gamma, found, sets[PLAIN], self.space, in_space), _median(pictures[way]))
            for way, found in sets.items()
        )


def _seconds(pictures: dict[Way, list[Picture]]) -> float:
    return sum(each.seconds for found in pictures.values() for each in found)


def _mean(pictures: dict[Way, list[Picture]]) -> float:
    return _seconds(pictures) / sum(map(len, pictures.values()))


def _median(pictures: Sequence[Picture]) -> float:
    return median(each.seconds for each in pictures)
