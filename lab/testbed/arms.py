"""The arms that the test bed compares. All draw the same seeds of the same model, so that any two are paired.

An arm is a chain of nodes through which the MODEL goes before it is sampled, in ComfyUI's words, and the few numbers of
the sampler. Nodes of ComfyUI and of the pack have the ids they have there. Those of `lab.testbed.rivals` are
published methods that ComfyUI has no node for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

GUIDANCE = 4.0  # of 1, 1.5, 2, 3, 4 and 6 the nearest to the validation part (gates.json)
STEPS = 10
SAMPLERS = ("euler", "euler_ancestral")
GAMMAS = (-1.0, 0.0, 0.5, 0.8, 1.05, 1.2, 1.5, 2.0, 3.0)
SITES = {"down": "input", "middle": "middle", "up": "output"}  # parts of the network, as the node's `blocks` names them
GRIDS = {"8x8": "input.1,output.4,output.5", "4x4": "input.3,output.2,output.3", "2x2": "input.5,middle,output.0-1"}
BUSY = (("output", 4), ("output", 5))  # where the self-attention of 64 tokens is that pictures owe most to
STEPS_OF_THE_TWIN = 4
RIVALS_OF_THE_TWIN = (
    "Temporal Score Rescaling",
    "temperature of attention",
    "Epsilon Scaling",
    "CADS",
    "noise on the class",
    "first noise",
)
WINDOWS = {"first third": (0.0, 1 / 3), "middle third": (1 / 3, 2 / 3), "last third": (2 / 3, 1.0)}


@dataclass(frozen=True)
class Use:
    """A node by its id, and its inputs other than the MODEL. An input may be the output of another node."""

    node: str
    inputs: tuple[tuple[str, Any], ...]


def use(node: str, **inputs: Any) -> Use:
    """A node by its id with these inputs."""
    return Use(node, tuple(inputs.items()))


@dataclass(frozen=True)
class Arm:
    """One way to sample.

    Attributes:
        name: short and unique.
        knob: the method; the arms of a knob are one curve of the frontier.
        strength: where on the curve it lies, in the unit of the knob.
        uses: the nodes that the MODEL goes through, first to last.
        guidance: classifier-free guidance; 1 is none and costs half as much.
        noise: factor on the noise that the samples start from.
        away_from_early: guidance leads away from an early checkpoint of the same model instead of from "no class"
            (autoguidance, Karras et al. 2024, https://arxiv.org/abs/2406.02507).
        sampler: one of SAMPLERS.
        steps: how many.
    """

    name: str
    knob: str
    strength: float
    uses: tuple[Use, ...] = ()
    guidance: float = GUIDANCE
    noise: float = 1.0
    away_from_early: bool = False
    sampler: str = "euler"
    steps: int = STEPS

    @property
    def fingerprint(self) -> str:
        """A hash of all that its samples follow from, beside the model and the seeds."""
        numbers = {key: value for key, value in asdict(self).items() if key not in ("name", "knob", "strength")}
        return hashlib.sha256(json.dumps(numbers, sort_keys=True).encode()).hexdigest()[:16]


def skew(**widgets: Any) -> Use:
    """*Skew Attention (SAD)*, β 1 unless it is given."""
    return use("SADSkewAttention", **{"gamma": 1.0, "beta": 1.0, **widgets})


def scheduled(shape: str, start: float, end: float = 1.0) -> Use:
    """*Skew Attention (SAD)* with *Gamma Schedule (SAD)* of a shape from one γ to another over the whole run."""
    schedule = use("SADGammaSchedule", shape=shape, start_gamma=start, end_gamma=end, start=0.0, end=1.0)
    return skew(schedule=schedule)


def curve(knob: str, strengths: Iterable[float], chain: Any, **shared: Any) -> Iterator[Arm]:
    """An arm for each strength; `chain` gives its nodes."""
    for strength in strengths:
        yield Arm(f"{knob} {strength:g}", knob, strength, tuple(chain(strength)), **shared)


def our_arms() -> Iterator[Arm]:
    """γ, γ with β, adaptive, in windows of the run, as ramps, in parts and at resolutions of the network."""
    yield from curve("γ", GAMMAS, lambda gamma: [skew(gamma=gamma)])
    for beta, gammas in ((3.0, (0.8, 1.05, 1.2, 1.5)), (5.0, (1.05, 1.2))):
        yield from curve(f"γ, β {beta:g}", gammas, lambda gamma, beta=beta: [skew(gamma=gamma, beta=beta)])
    for gamma, beta in ((1.2, 5.0), (1.5, 3.0), (2.0, 1.0)):
        adaptive = skew(gamma=gamma, beta=beta, adaptive="gamma and beta")
        yield Arm(f"γ {gamma:g}, β {beta:g}, adaptive", "γ, adaptive", gamma, (adaptive,))
    for window, (start, end) in WINDOWS.items():
        chosen = {"start_percent": start, "end_percent": end}
        yield from curve(f"γ, {window}", (0.5, 1.5, 2.0), lambda gamma, chosen=chosen: [skew(gamma=gamma, **chosen)])
    yield from curve("γ falling to 1", (0.5, 1.5, 2.0), lambda gamma: [scheduled("linear", gamma)])
    yield from curve("γ rising from 1", (0.5, 1.5, 2.0), lambda gamma: [scheduled("linear", 1.0, gamma)])
    for part, blocks in (SITES | GRIDS).items():
        yield from curve(f"γ, {part}", (0.0, 2.0), lambda gamma, blocks=blocks: [skew(gamma=gamma, blocks=blocks)])


def rivals() -> Iterator[Arm]:
    """The alternatives of a ComfyUI user: core nodes if they exist, else methods of `lab.testbed.rivals`."""
    for scale in (1.0, 1.5, 2.0, 3.0, 6.0, 8.0):
        yield Arm(f"CFG {scale:g}", "CFG", scale, guidance=scale)
    for scale in (4.0, 6.0, 8.0):
        # Kynkäänniemi et al. 2024, https://arxiv.org/abs/2404.07724: guidance only in the middle of the run.
        off = (use("CFGOverride", cfg=1.0, end_percent=0.2), use("CFGOverride", cfg=1.0, start_percent=0.8))
        yield Arm(f"CFG in an interval {scale:g}", "CFG in an interval", scale, off, guidance=scale)
    late = "CFG off at first"
    yield from curve(late, (0.1, 0.2, 0.3, 0.5), lambda end: [use("CFGOverride", cfg=1.0, end_percent=end)])
    rescaled = "Temporal Score Rescaling"
    yield from curve(rescaled, (0.8, 0.9, 0.95, 1.05, 1.1), lambda k: [use("temporal score rescaling", k=k)])
    yield from curve(
        "temperature of attention",
        (0.7, 0.8, 0.9, 1.1, 1.2, 1.5),
        lambda q: [use("UNetSelfAttentionMultiply", q=q, k=1.0, v=1.0, out=1.0)],
    )
    for scale in (4.0, 6.0, 8.0, 12.0):
        apg = use("APG", eta=0.0, norm_threshold=0.0, momentum=-0.5)
        yield Arm(f"APG {scale:g}", "APG", scale, (apg,), guidance=scale)
    for scale in (4.0, 6.0, 8.0):
        yield Arm(f"RescaleCFG {scale:g}", "RescaleCFG", scale, (use("RescaleCFG", multiplier=0.7),), guidance=scale)
    for name, node in (("PAG", "perturbed attention guidance"), ("SEG", "smoothed energy guidance")):
        yield from curve(name, (0.25, 0.5, 1.0, 2.0), lambda scale, node=node: [use(node, scale=scale, blocks=BUSY)])
    yield from curve("PAG, middle", (1.0, 4.0), lambda scale: [use("PerturbedAttentionGuidance", scale=scale)])
    yield from curve("SAG", (0.25, 0.5, 1.0), lambda scale: [use("SelfAttentionGuidance", scale=scale, blur_sigma=2.0)])
    yield from curve("FreeU", (1.05, 1.1, 1.2), lambda b: [use("FreeU by resolution", b1=b, b2=b, s1=0.9, s2=0.9)])
    yield from curve("Epsilon Scaling", (0.99, 1.005, 1.01, 1.02), lambda s: [use("Epsilon Scaling", scaling_factor=s)])
    yield from curve("CADS", (0.85, 0.8, 0.7, 0.5), lambda start: [use("CADS", start=start)])
    yield from curve("noise on the class", (0.25, 0.5, 1.0, 2.0), lambda s: [use("noise on the condition", strength=s)])
    for scale in (1.5, 2.0, 3.0, 4.0):
        yield Arm(f"autoguidance {scale:g}", "autoguidance", scale, guidance=scale, away_from_early=True)
    for factor in (0.9, 0.95, 1.05, 1.1):
        yield Arm(f"first noise {factor:g}", "first noise", factor, noise=factor)


PLAIN = Arm("plain model", "plain", 1.0)


def with_ancestral_noise(arm: Arm) -> Arm:
    """The arm under the stochastic sampler."""
    return replace(arm, name=f"{arm.name}, ancestral", knob=f"{arm.knob}, ancestral", sampler="euler_ancestral")


def all_arms() -> tuple[Arm, ...]:
    """Every arm of both samplers, in the order of drawing: what answers most comes first.

    The second sampler is asked about CFG and γ only.
    """
    first = (PLAIN, *our_arms(), *rivals())
    stochastic = [PLAIN, *(arm for arm in first if arm.knob in ("γ", "CFG", "CFG off at first"))]
    return (*first, *map(with_ancestral_noise, stochastic))


def twin_arms() -> tuple[Arm, ...]:
    """The arms of the distilled twin: ours, and the rivals that need no guidance. Four steps, no guidance."""
    asked = [PLAIN, *our_arms(), *(arm for arm in rivals() if arm.knob in RIVALS_OF_THE_TWIN)]
    return tuple(replace(arm, guidance=1.0, steps=STEPS_OF_THE_TWIN) for arm in asked)


def plain_of(arm: Arm, arms: Iterable[Arm]) -> Arm:
    """The plain model among the arms that is sampled as the arm is."""
    return next(each for each in arms if each.knob.partition(",")[0] == PLAIN.knob and each.sampler == arm.sampler)
