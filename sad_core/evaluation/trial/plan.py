"""The number of seeds that fits a budget of time, and the prompt of each seed.

A trial has two parts. In the first all ways of the ladder are sampled with some seeds, and one is chosen. In the second
that one, γ = 1 and the rivals are sampled with other seeds, and these numbers are reported: the best of several noisy
numbers is too good on average (docs/evidence.md).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from .ways import LADDER, RIVALS, Way

FEWEST_SEEDS = 4  # of a part: for an interval over pairs
MOST_SEEDS = 192  # the seeds of the report begin so far from the first one, whatever the budget
SEEDS_A_PROMPT = 4  # at least, where there are so many
SHARE_OF_CHOICE = 0.4  # of the time
MOST_MINUTES = 24 * 60


@dataclass(frozen=True)
class Plan:
    """The plan of a trial.

    Attributes:
        choice_seeds: of γ = 1 and each way of the ladder.
        report_seeds: of γ = 1, the chosen way and each rival.
        ladder: what is chosen among.
        rivals: what is reported beside it.
        left_out: a sentence on rivals that there is no time for, or that mean nothing here; empty where there is none.
        most_seeds: of a part.
    """

    choice_seeds: int
    report_seeds: int
    ladder: tuple[Way, ...] = LADDER
    rivals: tuple[Way, ...] = RIVALS
    left_out: str = ""
    most_seeds: int = MOST_SEEDS

    @property
    def pictures(self) -> int:
        """All pictures of the trial."""
        return self.choice_seeds * (1 + len(self.ladder)) + self.report_seeds * (2 + len(self.rivals))

    def with_time_left(self, left: float, seconds: float) -> Plan:
        """The plan with as many seeds to report as there is time for, once the choice is made.

        Where the pictures took longer than the first ones, so that the fewest seeds do not fit, the rivals are dropped.

        Args:
            left: seconds of the budget.
            seconds: that one picture takes.
        """
        if self.rivals and left < FEWEST_SEEDS * (2 + len(self.rivals)) * seconds:
            names = " and ".join(way.name for way in self.rivals)
            sentence = f"There is no time left for {names}, because later images took longer than the first ones."
            without = replace(self, rivals=(), left_out=f"{self.left_out} {sentence}".strip())
            return without.with_time_left(left, seconds)
        seeds = math.floor(max(left, 0.0) / (seconds * (2 + len(self.rivals))))
        return replace(self, report_seeds=min(max(seeds, FEWEST_SEEDS), self.most_seeds))

    def describe(self, seconds: float) -> str:
        """The plan in a sentence, for pictures that take so many seconds."""
        last = f" {self.left_out}" if self.left_out else ""
        return (
            f"An image takes {seconds:.3g} s, so the plan is {self.choice_seeds} seeds of {1 + len(self.ladder)} "
            f"settings to choose from and {self.report_seeds} other seeds of {2 + len(self.rivals)} to report: "
            f"{self.pictures} pictures in {self.pictures * seconds / 60:.3g} minutes.{last}"
        )


def plan_trial(
    minutes: float,
    seconds: float,
    ladder: Sequence[Way] = LADDER,
    rivals: Sequence[Way] = RIVALS,
    left_out: str = "",
    most_seeds: int = MOST_SEEDS,
) -> Plan:
    """Return as many seeds as a budget is enough for; where it is tight, the rivals are left out.

    Args:
        minutes: the budget of the whole trial, pictures that are there already included.
        seconds: that one picture takes.
        ladder, rivals: what is sampled beside γ = 1.
        left_out: a sentence on rivals that mean nothing here.
        most_seeds: of a part, also where there is time for more.

    Raises:
        ValueError: a number that is no budget, or too little time for the fewest seeds.
    """
    if not 0 < minutes <= MOST_MINUTES:  # also NaN
        raise ValueError(f"minutes is {minutes:g}, but it must be above 0 and at most {MOST_MINUTES}. Try 15.")
    if not FEWEST_SEEDS <= most_seeds <= MOST_SEEDS:
        raise ValueError(f"most_seeds is {most_seeds}, but it must be from {FEWEST_SEEDS} to {MOST_SEEDS}.")
    if not 0 < seconds < math.inf:
        raise ValueError(f"An image took {seconds:g} seconds, so no plan can be made.")
    pictures = math.floor(60 * minutes / seconds)
    fewest = Plan(FEWEST_SEEDS, FEWEST_SEEDS, tuple(ladder), tuple(rivals), left_out)
    if fewest.pictures > pictures and rivals:
        names = " and ".join(way.name for way in rivals)
        sentence = f"There is no time for {names} within {60 * minutes / seconds:.0f} images."
        return plan_trial(minutes, seconds, ladder, (), f"{left_out} {sentence}".strip(), most_seeds)
    if fewest.pictures > pictures:
        raise ValueError(
            f"minutes is {minutes:g}, which is enough for {pictures} images of {seconds:.3g} s, but a trial needs "
            f"{fewest.pictures}. Set minutes to {math.ceil(fewest.pictures * seconds / 60)}, or make the images "
            "smaller."
        )
    chosen_from, reported = 1 + len(ladder), 2 + len(rivals)
    most_of_choice = (pictures - FEWEST_SEEDS * reported) // chosen_from
    choice = min(max(math.floor(SHARE_OF_CHOICE * pictures / chosen_from), FEWEST_SEEDS), most_of_choice, most_seeds)
    report = min((pictures - choice * chosen_from) // reported, most_seeds)
    return Plan(choice, report, tuple(ladder), tuple(rivals), left_out, most_seeds)


def prompts_of(seeds: int, prompts: int) -> list[int]:
    """Return the number of the prompt of each seed: as many prompts as get four seeds each, in turn.

    Args:
        seeds: of one part of a trial.
        prompts: how many there are.
    """
    used = max(1, min(prompts, seeds // SEEDS_A_PROMPT))
    return [seed % used for seed in range(seeds)]
