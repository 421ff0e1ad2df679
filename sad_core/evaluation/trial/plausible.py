"""Check that the numbers of a trial are plausible: their bounds and the relations between them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ...shown_text import shown
from ..diversity import Estimate
from .plan import FEWEST_SEEDS, MOST_SEEDS
from .result import Measured, Trial, choose_way
from .ways import PLAIN

ROUNDING = 1e-4  # of numbers that follow from each other
TOO_SLOW, TOO_FAST = 2.0, 0.01  # what pictures took, of what the trial took
# The lowest and the highest that a measure can be; None for the number of images.
LIMITS: dict[str, tuple[float, float | None]] = {
    "vendi": (1.0, None),
    "distance": (0.0, 2.0),
    "distance_change": (-2.0, 2.0),
    "drift": (0.0, 2.0),
    "pixel_drift": (0.0, 1.0),
    "clipped": (0.0, 1.0),
    "saturation": (0.0, 1e6),
    "high_frequency": (0.0, 1e9),
    "agreement": (-1.0, 1.0),
}
UNMOVED = {"distance_change": 0.0, "drift": 0.0, "pixel_drift": 0.0, "saturation": 1.0, "high_frequency": 1.0}


class Implausible(ValueError):
    """A trial whose numbers cannot have been measured: the sentence says which."""


def check_plausible(trial: Trial) -> None:
    """Refuse a trial that cannot have been measured.

    Raises:
        Implausible: saying what is wrong.
    """
    for part, found in (("choice", trial.choice), ("report", trial.report)):
        _check_part(part, found)
    if choose_way(trial.choice).name != trial.chosen:
        raise Implausible(
            f"it names {shown(trial.chosen)} as the chosen setting, but its numbers choose "
            f"{choose_way(trial.choice).name}."
        )
    if trial.chosen not in [each.way.name for each in trial.report] or trial.best.way not in [
        each.way for each in trial.choice
    ]:
        raise Implausible("the report lacks the chosen setting.")
    if all(each.row["pixel_drift"].value == 0.0 for part in (trial.choice, trial.report) for each in part):
        raise Implausible("no γ changed an image, so γ acted nowhere.")
    pictures = sum((each.seeds) * each.seconds for each in (*trial.choice, *trial.report))
    if not TOO_FAST * trial.took <= pictures / 60 <= TOO_SLOW * trial.took:
        raise Implausible(
            f"the times of the images add up to {pictures / 60:.3g} minutes, but the trial took {trial.took:.3g} "
            "minutes."
        )


def _check_part(part: str, found: Sequence[Measured]) -> None:
    if found[0].way != PLAIN:
        raise Implausible(f"the {part} does not begin with {PLAIN.name}.")
    if len({each.way.name for each in found}) < len(found):
        raise Implausible(f"the {part} has a setting twice.")
    seeds = {each.seeds for each in found}
    if len(seeds) > 1 or not FEWEST_SEEDS <= min(seeds) <= MOST_SEEDS:
        raise Implausible(
            f"the settings of the {part} have {', '.join(map(str, sorted(seeds)))} seeds, but all must have the same "
            f"number, from {FEWEST_SEEDS} to {MOST_SEEDS}."
        )
    plain = found[0].row
    for each in found:
        for name, number in each.row.measures.items():
            _check_number(f"{name} of {each.way.name}", name, number, each.row.n)
        change, expected = each.row["distance_change"].value, each.row["distance"].value - plain["distance"].value
        if not each.row.broken and not plain.broken and not math.isclose(change, expected, abs_tol=ROUNDING):
            raise Implausible(
                f"distance_change of {each.way.name} in the {part} is {change:g}, but its distance minus that of "
                f"{PLAIN.name} is {expected:.6g}."
            )
    for name, neutral in UNMOVED.items():
        number = plain[name]
        if number.exists and not math.isclose(number.value, neutral, abs_tol=ROUNDING):
            raise Implausible(f"{name} of {PLAIN.name} in the {part} is {number.value:g}, but it must be {neutral:g}.")


def _check_number(title: str, name: str, number: Estimate, images: int) -> None:
    lowest, highest = LIMITS[name]
    highest = float(images) if highest is None else highest
    if number.exists and not lowest - ROUNDING <= number.value <= highest + ROUNDING:
        raise Implausible(f"{title} is {number.value:g}, but it can only be from {lowest:g} to {highest:g}.")
    if number.has_interval and not number.low - ROUNDING <= number.value <= number.high + ROUNDING:
        raise Implausible(f"{title} is {number.value:g}, outside of its interval {number.low:g} to {number.high:g}.")
