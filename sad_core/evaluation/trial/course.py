"""The course of a trial: the first pictures are timed, the rest is planned, one way is chosen and then reported.

Nothing here samples. What does is a `Source`: ComfyUI (nodes/host/trial), or a pipeline of diffusers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import mean, median
from typing import Protocol

from torch import Tensor

from ..measures import FeatureSpace, LookedAt, measure_set
from .pictures import Images, Picture
from .plan import COSTS, MOST_SEEDS, SEEDS_A_PROMPT, SHARE_OF_CHOICE, Plan, plan_trial, prompts_of, used_prompts
from .result import Cost, Measured, Sampling, Trial, choose_way
from .result_file import title_of
from .ways import LADDER, PLAIN, PROBED, RIVALS, Way, with_beta

Pictures = dict[Way, list[Picture]]


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
        plan: with the seeds that were drawn in the end.
        prompts: how many were used, in the part with more seeds.
        space: where images were compared.
        choice, report: the ways of both parts.
        chosen: the way.
        costs: what other ways took.
        sheet: pictures of γ = 1 and of the chosen way with the same seeds of the report.
        seconds: of all pictures.
        notes: sentences on what is missing.
    """

    plan: Plan
    prompts: int
    space: FeatureSpace
    choice: tuple[Measured, ...]
    report: tuple[Measured, ...]
    chosen: Way
    costs: tuple[Cost, ...]
    sheet: tuple[Images, Images]
    seconds: float
    notes: tuple[str, ...]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the pictures."""
        height, width, _ = self.sheet[0][0].shape
        return width, height

    def as_trial(
        self, model: str, weights: Sequence[float], machine: str, sampling: Sampling, name: str, notes: Sequence[str]
    ) -> Trial:
        """Return the record of a trial.

        Args:
            model: the class of the model.
            weights: numbers out of its weights.
            machine: what sampled.
            sampling: how it was sampled.
            name: of the checkpoint, where the user gives it.
            notes: sentences of the source, beside those on what is missing.
        """
        return Trial(
            model=model,
            weights=tuple(weights),
            name=title_of(name),
            machine=title_of(machine),
            sampling=sampling,
            minutes=self.plan.minutes,
            took=self.seconds / 60,
            space=self.space.name,
            unit=self.space.unit,
            choice=self.choice,
            chosen=self.chosen.name,
            report=self.report,
            costs=self.costs,
            notes=(*self.notes, *notes),
        )


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
    _spent: float = field(default=0.0, init=False)  # seconds that all pictures took so far
    _no_agreement: str = field(default="", init=False)

    def run(self) -> Found:
        """Have all pictures sampled, and measure them.

        Raises:
            ValueError: the budget is too small.
        """
        ways = (PLAIN, *self.ladder)
        self.source.prepare(1)
        self.source.expect(len(ways) * SEEDS_A_PROMPT)
        pictures: Pictures = {way: [] for way in ways}
        self._plan(self._draw(pictures, self.first_seed, ways[:2]))  # raises if the budget is too small
        self._draw(pictures, self.first_seed, ways[2:])
        seconds = _mean(pictures)
        plan = self._plan(seconds, has_begun=True)
        self.tell(plan.describe(seconds))
        plan, seconds = self._draw_choice(plan, pictures, seconds)
        choice = self._measured(pictures)
        chosen = choose_way(choice)
        plan = plan.with_time_left(self._spent, seconds)
        self.tell(f"{chosen.name} was chosen. The report uses {plan.report_seeds} other seeds.")
        plan, pictures, seconds = self._draw_report(plan, chosen)
        plan, timed = self._draw_costs(plan, chosen, seconds)
        return Found(
            plan,
            used_prompts(max(plan.choice_seeds, plan.report_seeds), self.prompts),
            self.space,
            choice,
            self._measured(pictures),
            chosen,
            tuple(Cost(way.name, _median(found)) for way, found in timed.items()),
            (Images(pictures[PLAIN]), Images(pictures[chosen])),
            self._spent,
            tuple(filter(None, (plan.left_out, self._no_agreement))),
        )

    def _draw_choice(self, plan: Plan, pictures: Pictures, seconds: float) -> tuple[Plan, float]:
        """Draw the blocks of the choice after the first one, while they fit into its share of the time.

        Returns:
            The plan with the seeds that were drawn, and the seconds of an image of the last block.
        """
        self.source.expect(plan.pictures)
        self.source.prepare(used_prompts(plan.choice_seeds, self.prompts))
        block, seeds = len(pictures) * SEEDS_A_PROMPT, SEEDS_A_PROMPT
        while seeds < plan.choice_seeds and self._spent + block * seconds <= plan.seconds * SHARE_OF_CHOICE:
            seconds = self._draw(pictures, self.first_seed)
            seeds += SEEDS_A_PROMPT
        return plan.with_choice_of(seeds), seconds

    def _draw_report(self, plan: Plan, chosen: Way) -> tuple[Plan, Pictures, float]:
        """Draw the report, and plan what is left of it anew after each block, by the time that the block took.

        Rivals are planned anew once γ = 1 and the chosen way have their first block.

        Returns:
            The plan with what was drawn, its pictures, and the seconds of an image of the last block.
        """
        self.source.expect(plan.pictures)
        self.source.prepare(used_prompts(plan.report_seeds, self.prompts))
        planned, first = plan.report_seeds, self.first_seed + MOST_SEEDS
        pictures: Pictures = {PLAIN: [], chosen: []}
        seconds = self._draw(pictures, first)
        plan = plan.with_time_left(self._spent, seconds, len(pictures) * SEEDS_A_PROMPT)
        pictures |= {way: [] for way in plan.rivals}
        self._draw(pictures, first, plan.rivals)
        seconds, seeds = _mean(pictures), SEEDS_A_PROMPT
        while True:
            plan = plan.with_time_left(self._spent, seconds, len(pictures) * seeds)
            self.source.expect(plan.pictures)
            if plan.report_seeds <= seeds:
                return plan.with_report_of(seeds, planned), pictures, seconds
            seconds = self._draw(pictures, first)
            seeds += SEEDS_A_PROMPT

    def _draw_costs(self, plan: Plan, chosen: Way, seconds: float) -> tuple[Plan, Pictures]:
        """Draw a block of each way that is only timed, while there is time for one.

        Returns:
            The plan with what was drawn, and its pictures.
        """
        ways = (with_beta(chosen), PROBED)[: plan.costs]
        timed: Pictures = {}
        for way in ways:
            if self._spent + SEEDS_A_PROMPT * seconds > plan.seconds:
                break
            timed[way] = []
            seconds = self._draw(timed, self.first_seed + MOST_SEEDS, (way,))
        plan = plan.with_costs_of(ways, len(timed))
        self.source.expect(plan.pictures)
        return plan, timed

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

    def _draw(self, pictures: Pictures, first: int, ways: Sequence[Way] | None = None) -> float:
        """Draw the next block of some ways, or of all, and return the mean seconds of its pictures."""
        block: list[Picture] = []
        for way in pictures if ways is None else ways:
            begun = len(pictures[way])
            prompt = prompts_of(begun + 1, self.prompts)[-1]
            drawn = self.source.draw(way, prompt, range(first + begun, first + begun + SEEDS_A_PROMPT))
            pictures[way] += drawn
            block += drawn
        seconds = sum(each.seconds for each in block)
        self._spent += seconds
        return seconds / max(len(block), 1)

    def _measured(self, pictures: Pictures) -> tuple[Measured, ...]:
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


def _mean(pictures: Pictures) -> float:
    return mean(each.seconds for found in pictures.values() for each in found)


def _median(pictures: Sequence[Picture]) -> float:
    return median(each.seconds for each in pictures)
