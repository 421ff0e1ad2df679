"""A sentence for the report where γ lies so far from 1 that it did harm when it was measured (docs/evidence.md)."""

from __future__ import annotations

from statistics import mean

from .settings import SkewSettings

FIRST_THIRD = [place / 99 for place in range(33)]  # progress; later in the run the same γ does little
HARMFUL_FROM, HARMFUL_TO = 1.5, 0.0


def measured_harm(settings: SkewSettings) -> str | None:
    """Return the sentence, or None where nothing of that kind was measured.

    Worse is a significantly larger Fréchet distance. The measurements are of a γ on all sites and both passes, with
    norm "value" and without a mask. Where adaptive control weakened γ, not every model lost.
    `tests/host/test_measured_harm.py` holds the limits against the numbers.
    """
    measured = ("value", "off", "both", None, False)
    if (settings.norm, settings.adaptive, settings.apply_to, settings.mask, settings.is_modal) != measured:
        return None
    gamma = mean(settings.gammas_at(progress).image for progress in FIRST_THIRD)
    if settings.beta < 1 or HARMFUL_TO < gamma < HARMFUL_FROM:
        return None
    return (
        f"γ is {gamma:.2g} on average in the first third of the run. With such a γ the sampler euler gave worse "
        "images on all three small models of docs/evidence.md. A γ nearer to 1 is safer."
    )
