"""A calibration in sentences: what the ends of its slider are, and what a position means in measured units."""

from __future__ import annotations

from ..sad_core.evaluation.calibration import Calibration, Setting
from ..sad_core.evaluation.diversity import Estimate
from .host.calibrating import HIGHEST, LOWEST
from .host.settings import SkewSettings

SIDES = {1: "creative", -1: "precise"}


def describe_calibration(calibration: Calibration) -> str:
    """Return the text about the measurement and both ends of the slider."""
    gammas = ", ".join(f"{point.gamma:g}" for point in calibration.points)
    counts = sorted({point.n for point in calibration.points})
    images = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    sentences = [
        f"Calibrated on {calibration.model} with γ = {gammas} ({images} images of each), compared in "
        f"{calibration.space}."
    ]
    if calibration.left_out:
        beyond = ", ".join(f"{gamma:g}" for gamma in calibration.left_out)
        sentences.append(f"Left out, because they moved images by more than {calibration.largest_drift:g}: γ {beyond}.")
    sentences += [_end(calibration, side) for side in (1, -1)]
    return " ".join(sentences)


def _end(calibration: Calibration, side: int) -> str:
    if not calibration.is_open(side):
        return f"No γ moved the seeds towards the {SIDES[side]} end, so that half of the slider stays at γ 1."
    found = calibration.at(float(side))
    luck = "" if calibration.is_sure(side) else ", which may be chance"
    return f"The {SIDES[side]} end is γ {found.gamma:g}: two images lie {_change(found, calibration.unit)}{luck}."


def describe_position(position: float, settings: SkewSettings, found: Setting | None, own: Calibration | None) -> str:
    """Return the meaning of a slider position for the MODEL at hand."""
    gamma = settings.gamma_schedule.gamma_range[0]
    start, end = 100 * settings.start, 100 * settings.end
    window = "" if (start, end) == (0, 100) else f", from {start:.0f} % to {end:.0f} % of the run"
    means = f"Position {position:g} means γ {gamma:.4g} and β {settings.beta:g}{window}."
    if own is None or found is None:
        return (
            f"{means} The slider is not calibrated for this checkpoint. It uses the default range, γ {LOWEST:g} to "
            f"{HIGHEST:g}, and its effect here has not been measured. Calibrate (SAD) measures it."
        )
    side = 1 if position > 0 else -1
    if gamma == 1.0:
        if position and not own.is_open(side):
            return (
                f"{means} The calibration found no γ that moved the seeds towards the {SIDES[side]} end, so this is "
                "the unpatched model."
            )
        return f"{means} This is the unpatched model."
    luck = "" if own.is_sure(side) else " The interval at this end includes 0, so this may be chance."
    return (
        f"{means} In the sweep two images at this γ lay {_change(found, own.unit)}, and each differed from the image "
        f"of the same seed at γ 1 by {_amount(found.drift)} (root mean square difference of pixel values).{luck}"
    )


def _change(found: Setting, unit: str) -> str:
    direction = "further apart" if found.change.value >= 0 else "closer together"
    value, low, high = found.change.value, found.change.low, found.change.high
    if value < 0:
        value, low, high = -value, -high, -low
    return f"{_amount(Estimate(value, low, high))} {direction} than at γ 1 ({unit})"


def _amount(number: Estimate) -> str:
    return f"{number.value:.3g} (95 % interval {number.low:.3g} to {number.high:.3g})"
