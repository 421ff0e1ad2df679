"""The number of seeds that fits a budget of time, and the prompt of each seed.

A trial has two parts. In the first all ways of the ladder are sampled with some seeds, and one is chosen. In the second
that one, γ = 1 and the rivals are sampled with other seeds, and these numbers are reported: the best of several noisy
numbers is too good on average (docs/evidence_emoji.md).

Seeds come in blocks of `SEEDS_A_PROMPT`, which share a prompt and are sampled together. Neither the prompt of a seed
nor its neighbours depend on the budget, so with more minutes every picture that is there is used again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from .ways import LADDER, RIVALS, Way

SEEDS_A_PROMPT = 4  # of a block
FEWEST_SEEDS = SEEDS_A_PROMPT  # of a part: for an interval over pairs
MOST_SEEDS = 192  # the seeds of the report begin so far from the first one, whatever the budget
SHARE_OF_CHOICE = 0.4  # of the time
SHARE_AROUND = 0.05  # of the time: for what is loaded, encoded, warmed up and measured
COSTS = 2  # ways of which only the time is reported, a block of each
MOST_MINUTES = 24 * 60
SLOWER = ", because later images took longer than the first ones"


@dataclass(frozen=True)
class Plan:
    """The plan of a trial.

    Attributes:
        minutes: the budget.
        choice_seeds: of γ = 1 and each way of the ladder.
        report_seeds: of γ = 1, the chosen way and each rival.
        ladder: what is chosen among.
        rivals: what is reported beside it.
        costs: ways of which only the time is reported.
        left_out: a sentence on what there is no time for, or what means nothing here; empty where there is nothing.
        most_seeds: of a part.
    """

    minutes: float
    choice_seeds: int
    report_seeds: int
    ladder: tuple[Way, ...] = LADDER
    rivals: tuple[Way, ...] = RIVALS
    costs: int = COSTS
    left_out: str = ""
    most_seeds: int = MOST_SEEDS

    @property
    def pictures(self) -> int:
        """All pictures of the trial."""
        choice = self.choice_seeds * (1 + len(self.ladder))
        return choice + self.report_seeds * (2 + len(self.rivals)) + SEEDS_A_PROMPT * self.costs

    @property
    def seconds(self) -> float:
        """The part of the budget that pictures may take."""
        return 60 * self.minutes * (1 - SHARE_AROUND)

    def with_time_left(self, spent: float, seconds: float, drawn: int = 0) -> Plan:
        """The plan with as many seeds to report as there is time for, once the choice is made.

        Where the images took longer than the first ones, so that the fewest seeds do not fit, the costs and then the
        rivals are dropped.

        Args:
            spent: seconds that all pictures took so far.
            seconds: that one picture takes now.
            drawn: pictures of the report that are among them. Once there are some, the plan gets no larger.
        """
        pictures = math.floor(max(self.seconds - spent, 0.0) / seconds) + drawn
        most = self.report_seeds if drawn else self.most
        plans = self.ever_smaller(SLOWER)
        for plan in plans:
            found = (pictures // SEEDS_A_PROMPT - plan.costs) // (2 + len(plan.rivals)) * SEEDS_A_PROMPT
            if found >= FEWEST_SEEDS:
                return replace(plan, report_seeds=min(found, most))
        return replace(plans[-1], report_seeds=FEWEST_SEEDS)

    def with_choice_of(self, seeds: int) -> Plan:
        """The plan with the seeds that the choice had in the end."""
        return replace(self._ended("choice", seeds, self.choice_seeds), choice_seeds=seeds)

    def with_report_of(self, seeds: int, planned: int) -> Plan:
        """The plan with the seeds that the report had in the end, of those that were planned."""
        return replace(self._ended("report", seeds, planned), report_seeds=seeds)

    def with_costs_of(self, ways: Sequence[Way], timed: int) -> Plan:
        """The plan with the first so many of the ways that were to be timed."""
        if timed == len(ways):
            return self
        names = " and ".join(way.name for way in ways[timed:])
        return replace(self, costs=timed, left_out=self._less(SLOWER, f"The cost of {names}"))

    def describe(self, seconds: float) -> str:
        """The plan in a few sentences, for pictures that take so many seconds."""
        last = f" {self.left_out}" if self.left_out else ""
        timed = SEEDS_A_PROMPT * self.costs
        costs = f" Last, {timed} images are sampled only to time other settings." if timed else ""
        return (
            f"An image takes {seconds:.3g} s. First, {self.choice_seeds} seeds of each of {1 + len(self.ladder)} "
            f"settings are sampled, to choose a γ. Then {self.report_seeds} other seeds of each of "
            f"{2 + len(self.rivals)} settings are sampled, for the report.{costs} That makes {self.pictures} images in "
            f"{self.pictures * seconds / 60:.3g} minutes.{last}"
        )

    @property
    def most(self) -> int:
        """The most seeds of a part, in whole blocks."""
        return self.most_seeds // SEEDS_A_PROMPT * SEEDS_A_PROMPT

    def ever_smaller(self, why: str) -> list[Plan]:
        """Return this plan, the same without costs, and without rivals too, each with a sentence on what it lacks."""
        plans = [self]
        if self.costs:
            plans.append(replace(plans[-1], costs=0, left_out=plans[-1]._less(why, "The cost of other settings")))
        if self.rivals:
            names = (f'"{way.name}"' for way in self.rivals)
            plans.append(replace(plans[-1], rivals=(), left_out=plans[-1]._less(why, *names)))
        return plans

    def _less(self, why: str, *names: str) -> str:
        verb = "is" if len(names) == 1 else "are"
        return f"{self.left_out} {' and '.join(names)} {verb} left out{why}.".strip()

    def _ended(self, part: str, seeds: int, planned: int) -> Plan:
        if seeds == planned:
            return self
        sentence = f"The {part} ended after {seeds} of {planned} seeds{SLOWER}."
        return replace(self, left_out=f"{self.left_out} {sentence}".strip())


def plan_trial(
    minutes: float,
    seconds: float,
    ladder: Sequence[Way] = LADDER,
    rivals: Sequence[Way] = RIVALS,
    costs: int = COSTS,
    left_out: str = "",
    most_seeds: int = MOST_SEEDS,
    has_begun: bool = False,
) -> Plan:
    """Return as many seeds as a budget is enough for; where it is tight, costs and then rivals are left out.

    Args:
        minutes: the budget of the whole trial, pictures that are there already included.
        seconds: that one picture takes.
        ladder, rivals: what is sampled beside γ = 1.
        costs: how many ways are only timed.
        left_out: a sentence on rivals that mean nothing here.
        most_seeds: of a part, also where there is time for more; it is rounded down to whole blocks.
        has_begun: whether the fewest seeds are sampled even if there is too little time for them.

    Raises:
        ValueError: a number that is no budget, or too little time for the fewest seeds.
    """
    if not 0 < minutes <= MOST_MINUTES:  # also NaN
        raise ValueError(f"minutes is {minutes:g}, but it must be above 0 and at most {MOST_MINUTES}. Try 15.")
    if not FEWEST_SEEDS <= most_seeds <= MOST_SEEDS:
        raise ValueError(f"most_seeds is {most_seeds}, but it must be from {FEWEST_SEEDS} to {MOST_SEEDS}.")
    if not 0 < seconds < math.inf:
        raise ValueError(
            f"The time for an image was measured as {seconds:g} seconds, but it must be above 0 and finite. Run the "
            "node again."
        )
    fewest = Plan(minutes, FEWEST_SEEDS, FEWEST_SEEDS, tuple(ladder), tuple(rivals), costs, left_out, most_seeds)
    pictures = math.floor(fewest.seconds / seconds)
    plans = fewest.ever_smaller(f", because {minutes:g} minutes are only enough for {pictures} images")
    for plan in plans:
        blocks, most = pictures // SEEDS_A_PROMPT - plan.costs, plan.most // SEEDS_A_PROMPT
        chosen_from, reported = 1 + len(plan.ladder), 2 + len(plan.rivals)
        if blocks >= chosen_from + reported:
            share = math.floor(SHARE_OF_CHOICE * blocks / chosen_from)
            choice = min(max(share, 1), (blocks - reported) // chosen_from, most)
            report = min((blocks - choice * chosen_from) // reported, most)
            return replace(plan, choice_seeds=choice * SEEDS_A_PROMPT, report_seeds=report * SEEDS_A_PROMPT)
    if has_begun:
        return plans[-1]
    needed = plans[-1].pictures
    raise ValueError(
        f"minutes is {minutes:g}, which is only enough for {pictures} images of {seconds:.3g} s, but a trial needs "
        f"{needed}. Set minutes to {math.ceil(needed * seconds / 60 / (1 - SHARE_AROUND))}, or make the images smaller."
    )


def prompts_of(seeds: int, prompts: int) -> list[int]:
    """Return the number of the prompt of each seed: four seeds of the first one, four of the next, and around again.

    Args:
        seeds: of one part of a trial.
        prompts: how many there are.
    """
    return [seed // SEEDS_A_PROMPT % prompts for seed in range(seeds)]


def used_prompts(seeds: int, prompts: int) -> int:
    """Return how many prompts so many seeds use."""
    return min(prompts, math.ceil(seeds / SEEDS_A_PROMPT))
