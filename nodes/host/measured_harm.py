"""A sentence for the report where a setting lies among those that did harm when measured (docs/evidence.md)."""

from __future__ import annotations

from .settings import SkewSettings

FIRST_THIRD = [place / 100 for place in range(34)]  # progress; later in the run the same γ does little
HARMFUL_FROM = {1.0: 2.0, 3.0: 1.5}  # the lowest such γ, for a β from this one on
HARMFUL_TO = -1.0


def measured_harm(settings: SkewSettings) -> str | None:
    """Return the sentence, or None where nothing of that kind was measured.

    The measurements are of γ on all sites and on both passes, without a mask. Where adaptive control weakened it, not
    every model lost. `tests/host/test_measured_harm.py` holds the limits against the numbers.
    """
    if settings.beta < 1 or (settings.adaptive, settings.apply_to, settings.mask) != ("off", "both", None):
        return None
    highest_harmless = min(limit for beta, limit in HARMFUL_FROM.items() if settings.beta >= beta)
    gammas = [settings.gammas_at(progress).image for progress in FIRST_THIRD]
    gamma = max(gammas) if max(gammas) >= highest_harmless else min(gammas)
    if HARMFUL_TO < gamma < highest_harmless:
        return None
    return (
        f"γ {gamma:g} with β {settings.beta:g} in the first third of the run lies where images became worse on every "
        "model that was measured (docs/evidence.md). A γ nearer to 1 is safer."
    )
