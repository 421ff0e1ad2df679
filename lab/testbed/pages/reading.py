"""The numbers of a network as they are read for the pages: changes with a verdict, rows, and the spelling of both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from lab.testbed.comparisons import ON_TOP, is_ours, is_rival
from lab.testbed.cost import Cost
from lab.testbed.scores import DIVERSITY, FIDELITY, LOWER_IS_BETTER


@dataclass(frozen=True)
class Change:
    """A change of a measure, the 95 % interval, and that after Bonferroni's correction for all arms of the table."""

    measure: str
    value: float
    low: float
    high: float
    wide_low: float
    wide_high: float

    @property
    def is_significant(self) -> bool:
        """Return whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0

    @property
    def is_significant_of_many(self) -> bool:
        """Return whether both intervals leave out 0."""
        return self.is_significant and (self.wide_low > 0 or self.wide_high < 0)

    @property
    def gain(self) -> float:
        """The change with the sign that makes more of it better."""
        return -self.value if self.measure in LOWER_IS_BETTER else self.value

    @property
    def is_better(self) -> bool:
        """Return whether it is a significant gain."""
        return self.is_significant and self.gain > 0

    @property
    def is_worse(self) -> bool:
        """Return whether it is a significant loss."""
        return self.is_significant and self.gain < 0

    def __str__(self) -> str:
        """`+0.123 [+0.101, +0.145] †`: the dagger marks what is significant after the correction."""
        return spell((self.value, self.low, self.high), sign="+") + " †" * self.is_significant_of_many


@dataclass(frozen=True)
class Numbers:
    """The numbers that `lab.testbed.results` wrote of a network, and the cost of each arm."""

    network: str
    content: Mapping[str, Any]
    costs: Mapping[str, Cost]

    @property
    def arms(self) -> Mapping[str, Any]:
        """The rows by the name of the arm."""
        rows: Mapping[str, Any] = self.content["arms"]
        return rows

    def time(self, name: str) -> float:
        """The time of an arm over that of the unpatched model: the median of its knob's arms with as many calls.

        It depends on the method, hardly on the strength, and a single timing is a tenth or two off.
        """
        calls, knob = self.costs[name].calls, self.arms[name]["knob"]
        alike = (each for each, row in self.arms.items() if row["knob"] == knob and each in self.costs)
        return median(self.costs[each].time for each in alike if self.costs[each].calls == calls)

    def change(self, name: str, measure: str) -> Change:
        """The change of an arm from its unpatched model."""
        return Change(measure, *self.arms[name]["changes"][measure])

    def both(self, name: str) -> tuple[Change, Change]:
        """The changes of the leading measures of fidelity and diversity."""
        return self.change(name, FIDELITY), self.change(name, DIVERSITY)

    def of_knob(self, knob: str) -> list[str]:
        """The arms of a knob by rising strength."""
        names = [name for name, row in self.arms.items() if row["knob"] == knob and "changes" in row]
        return sorted(names, key=lambda name: self.arms[name]["strength"])

    def pairs(self, question: int) -> Iterator[tuple[str, str, Change, Change]]:
        """The arms that a question compares: the one, the other, and both changes from the other to the one."""
        for pair in self.content["pairs"]:
            if pair["question"] == question:
                found = [Change(each, *pair["changes"][each]) for each in (FIDELITY, DIVERSITY)]
                yield pair["arm"], pair["against"], found[0], found[1]

    def chosen(self, knob: str) -> str | None:
        """The arm that the rule took on the choice seeds; None where every strength loses."""
        found = self.content["chosen"].get(knob)
        return found["arm"] if found else None

    @property
    def ours(self) -> list[str]:
        """Our knobs under the first sampler."""
        return [knob for knob in self.content["knobs"] if is_ours(knob)]

    @property
    def on_top(self) -> list[str]:
        """The knobs of γ on top of a rival."""
        return [knob for knob in self.content["knobs"] if knob.startswith(ON_TOP)]

    @property
    def rivals(self) -> list[str]:
        """The rivals' knobs under the first sampler."""
        return [knob for knob in self.content["knobs"] if is_rival(knob)]


def spell(numbers: tuple[float, float, float] | list[float], sign: str = "") -> str:
    """`0.912 [0.890, 0.930]`: the value and its interval, with fewer digits the larger they are."""
    size = max(abs(number) for number in numbers)
    digits = 1 if size >= 100 else 2 if size >= 10 else 3 if size >= 0.1 else 4
    value, low, high = (f"{round(number, digits) + 0.0:{sign}.{digits}f}".replace("-", "−") for number in numbers)
    return f"{value} [{low}, {high}]"


def in_words(name: str) -> str:
    """The name of an arm in the words of the other pages."""
    return name.replace("plain model", "unpatched model")


def bold(change: Change) -> str:
    """A change, bold where its interval leaves out 0."""
    return f"**{change}**" if change.is_significant else str(change)


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *rows))
