"""The limits of a part of the campaign, and its findings."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Budget:
    """The limits of a part.

    Attributes:
        runs: rounds at most.
        seconds: after which no further round begins.
        seed: of the first round; each round has the next one.
    """

    runs: int
    seconds: float = float("inf")
    seed: int = 0

    def seeds(self) -> Iterator[int]:
        """The seed of every round that begins in time."""
        end = time.monotonic() + self.seconds
        for seed in range(self.seed, self.seed + self.runs):
            if time.monotonic() > end:
                return
            yield seed


@dataclass
class Ledger:
    """The findings of a part.

    Attributes:
        counts: of rounds by what they were, or how they ended.
        faults: a text for each fault, with what repeats it.
        figures: further numbers, by name.
    """

    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    figures: dict[str, str] = field(default_factory=dict)

    def fault(self, text: str) -> None:
        """Keep a fault, and print it at once."""
        self.faults.append(text)
        print(f"FAULT {text}", flush=True)

    def describe(self) -> str:
        """Return all of it in lines."""
        lines = [f"{count:6d}  {what}" for what, count in sorted(self.counts.items())]
        lines += [f"{name}: {value}" for name, value in self.figures.items()]
        return "\n".join([*lines, f"{len(self.faults)} faults"])
