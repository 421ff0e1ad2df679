"""Numbers of a network that nobody measured, for the tests of the pages: every arm, each with changes by a formula."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lab.testbed.arms import PLAIN, Arm, all_arms
from lab.testbed.cost import Cost
from lab.testbed.frontier import neutral_of
from lab.testbed.pages.reading import Numbers

MEASURES = ("frechet", "kernel", "precision", "density", "judge", "coverage", "recall", "vendi", "apart")
GUARDS = ("saturation", "high frequency")
WIDTH = 0.02  # of an interval on each side


def five(value: float, width: float = WIDTH) -> list[float]:
    """A change with its interval and a wider one."""
    return [value, value - width, value + width, value - 2 * width, value + 2 * width]


def changes_of(arm: Arm) -> dict[str, list[float]]:
    """Further from the neutral strength is more diverse and less near, more so for some knobs."""
    neutral = neutral_of(arm.knob, arm.guidance)
    way = arm.strength - (neutral if neutral is not None else 1.0)
    lean = (sum(map(ord, arm.knob)) % 17 - 8) / 40
    coverage = round((0.04 + lean) * way / (1 + abs(way)), 4)
    frechet = round(0.5 * way * way / (1 + way * way) - 3 * lean * way / (1 + abs(way)), 4)
    rest = {name: five(0.01) for name in (*MEASURES, *GUARDS)}
    return rest | {"frechet": five(frechet), "coverage": five(coverage)}


def made_up(changed: Mapping[str, tuple[float, float]] | None = None, network: str = "unet") -> Numbers:
    """Numbers of all arms; `changed` gives (Fréchet, coverage) changes of some arms by name."""
    measures = {name: [0.5, 0.45, 0.55] for name in (*MEASURES, *GUARDS)} | {"frechet": [2.8, 2.7, 2.9]}
    rows: dict[str, Any] = {}
    for arm in all_arms():
        rows[arm.name] = {"knob": arm.knob, "strength": arm.strength, "measures": measures}
        if arm.knob.partition(",")[0] != PLAIN.knob:
            changes = changes_of(arm)
            for measure, value in zip(("frechet", "coverage"), (changed or {}).get(arm.name, ()), strict=False):
                changes[measure] = five(value)
            rows[arm.name] |= {"changes": changes, "measures": measures | {"drift": [0.1, 0.09, 0.11]}}
    knobs = dict.fromkeys(row["knob"] for row in rows.values() if "changes" in row)
    quantities = ("diversity at equal fidelity", "fidelity at equal diversity", "dominated area")
    of_knobs = {
        knob: {each: [len(knob) / 100, len(knob) / 120, len(knob) / 80] for each in quantities} for knob in knobs
    }
    chosen = {}
    for name, row in rows.items():
        if "changes" in row and row["changes"]["frechet"][0] <= 0 < row["changes"]["coverage"][0]:
            chosen[row["knob"]] = {"arm": name, "frechet": [0.1, 0.0, 0.2], "coverage": [0.1, 0.0, 0.2]}
    content = {
        "count": 2000,
        "choice count": 500,
        "guidance": 4.0,
        "floor": measures,
        "arms": rows,
        "knobs": of_knobs,
        "chosen": chosen,
        "pairs": [],
    }
    return Numbers(network, content, {name: Cost(20, 1.1) for name in rows})
