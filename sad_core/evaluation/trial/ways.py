"""The ways that a trial compares: γ = 1, a ladder of γ, and its rivals."""

from __future__ import annotations

from dataclasses import dataclass, replace

NO_RIVAL, GUIDANCE_OFF, RESCALED_SCORE = RIVAL_KINDS = ("", "guidance off at first", "temporal score rescaling")
STABILITY_PROBE = "stability probe"
BETA = 0.5  # of the way whose time says what β costs, which no value of it but 1 changes


@dataclass(frozen=True)
class Way:
    """One way to sample.

    Attributes:
        name: for tables and sentences; short, and no other way has it.
        gamma, beta: of Skew Attention.
        start, end: the part of the run in which γ acts, in progress.
        rival: one of `RIVAL_KINDS`: what is turned in place of γ; or `STABILITY_PROBE`, which turns nothing.
        strength: of the rival: the share of the run without guidance, or k of the rescaled score.
    """

    name: str
    gamma: float = 1.0
    beta: float = 1.0
    start: float = 0.0
    end: float = 1.0
    rival: str = NO_RIVAL
    strength: float = 0.0

    @property
    def turns_gamma_alone(self) -> bool:
        """True if the way is γ over the whole run, as a slider turns it, or γ = 1."""
        return self.rival == NO_RIVAL and (self.beta, self.start, self.end) == (1.0, 0.0, 1.0)


PLAIN = Way("γ 1")
# What is chosen among, in the order of sampling. The one place to change when the test bed names better ones.
LADDER = (
    Way("γ 0.8", 0.8),
    Way("γ 1.2", 1.2),
    Way("γ 1.5", 1.5),
    Way("γ 2", 2.0),
    Way("γ 2 in the first third", 2.0, end=0.333),
)
RIVALS = (
    Way("no guidance in the first fifth", rival=GUIDANCE_OFF, strength=0.2),
    Way("temporal score rescaling 0.95", rival=RESCALED_SCORE, strength=0.95),
)
PROBED = Way("γ 1 with the probe", rival=STABILITY_PROBE)  # only timed


def with_beta(way: Way) -> Way:
    """Return a way with β beside its γ, of which only the time is told."""
    return replace(way, name=f"{way.name} with β {BETA:g}", beta=BETA)
