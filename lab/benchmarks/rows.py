"""One measured line of the table, beside what it was meant to be."""

from __future__ import annotations

from dataclasses import dataclass

from lab.benchmarks.timing import Timing


@dataclass(frozen=True)
class Row:
    """Attributes:
    work: what was done.
    case: the shape or the model it was done on.
    value, low, high: the ratio and its quartiles.
    against: what it is the ratio to.
    goal: the ratio aimed at, or None where the row is there for comparison.
    note: what else to know, such as the error of an approximation.
    """

    work: str
    case: str
    value: float
    low: float
    high: float
    against: str
    goal: float | None = None
    note: str = ""

    @classmethod
    def of(cls, work: str, case: str, timing: Timing, against: str, goal: float | None = None, note: str = "") -> Row:
        """A row of one `Timing`."""
        return cls(work, case, timing.ratio, timing.low, timing.high, against, goal, note)

    @property
    def verdict(self) -> str:
        """True if the goal was met or lies within the spread of the measurements."""
        if self.goal is None:
            return ""
        return "met" if self.value <= self.goal else "within the spread" if self.low <= self.goal else "missed"


def table(rows: list[Row]) -> str:
    """The rows as a Markdown table."""
    lines = ["| work | case | ratio (quartiles) | to | goal | | |", "| --- | --- | --- | --- | --- | --- | --- |"]
    for row in rows:
        goal = "" if row.goal is None else f"{row.goal:g}"
        ratio = f"{row.value:.2f} ({row.low:.2f} … {row.high:.2f})"
        cells = (row.work, row.case, ratio, row.against, goal, row.verdict, row.note)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
