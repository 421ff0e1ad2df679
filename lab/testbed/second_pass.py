"""The arms that depend on what the first ones gave: γ on top of the best rival."""

from __future__ import annotations

import json
from pathlib import Path

from lab.testbed.arms import Arm
from lab.testbed.comparisons import on_top_arms
from sad_core.whole_file import whole_file

BEST_RIVALS = Path(__file__).with_name("best_rivals.json")


def best_rivals(path: Path = BEST_RIVALS) -> dict[str, str]:
    """The name of the best rival's arm by network, as far as they were measured."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def write_best_rival(network: str, name: str | None, path: Path = BEST_RIVALS) -> None:
    """Write the name of a network's best rival; None where every rival loses fidelity or diversity."""
    known = {key: value for key, value in best_rivals(path).items() if key != network}
    found = known | ({network: name} if name else {})
    with whole_file(path) as unfinished:
        unfinished.write_text(json.dumps(found, indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")


def with_second_pass(network: str, arms: tuple[Arm, ...], path: Path = BEST_RIVALS) -> tuple[Arm, ...]:
    """The arms of a network, and γ on top of its best rival if that is known."""
    rival = next((arm for arm in arms if arm.name == best_rivals(path).get(network)), None)
    return arms if rival is None else (*arms, *on_top_arms(rival))
