"""The arms of the second architecture, a DiT that learned a flow: does what holds for the UNet hold for it?

Each knob has fewer strengths than for the UNet. SAG and FreeU act only on UNets. σ falls in equal steps, so a part of
the run that is to end with a step ends half a step after it begins: no step lies on a border.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from lab.testbed.arms import PLAIN, STEPS, WINDOWS, Arm, curve, scheduled, skew, use, with_ancestral_noise

DIT_GUIDANCE = 2.0  # of 1, 1.5, 2, 3, 4 and 6 the nearest to the validation part (gates-dit.json)
GAMMAS = (-1.0, 0.0, 0.5, 0.8, 1.2, 1.5, 2.0, 3.0)
SCALES = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
PARTS = {"noise refiner": "image_refiner", "first half": "layers.0-1", "second half": "layers.2-3"}
MIDDLE = (1, 2)  # of the four layers
HALF_A_STEP = 0.5 / STEPS
UNDER_BOTH_SAMPLERS = {"γ": (0.0, 0.5, 1.5, 2.0), "CFG": (1.0, 2.0, 4.0)}


def dit_arms(guidance: float = DIT_GUIDANCE) -> tuple[Arm, ...]:
    """Every arm of both samplers, at the model's guidance unless the arm turns it, in the order of drawing."""
    plain = Arm(PLAIN.name, PLAIN.knob, PLAIN.strength, guidance=guidance)
    first = (plain, *our_arms(guidance), *rivals(guidance))
    again = [arm for arm in first if arm.strength in UNDER_BOTH_SAMPLERS.get(arm.knob, ())]
    return (*first, *map(with_ancestral_noise, (plain, *again)))


def our_arms(guidance: float) -> Iterator[Arm]:
    """γ, γ with β, adaptive, in windows of the run, as ramps, in parts of the network."""
    along = partial(curve, guidance=guidance)
    yield from along("γ", GAMMAS, lambda gamma: [skew(gamma=gamma)])
    yield from along("γ, β 3", (1.05, 1.2, 1.5), lambda gamma: [skew(gamma=gamma, beta=3.0)])
    for gamma, beta in ((1.5, 3.0), (2.0, 1.0)):
        adaptive = skew(gamma=gamma, beta=beta, adaptive="gamma and beta")
        yield Arm(f"γ {gamma:g}, β {beta:g}, adaptive", "γ, adaptive", gamma, (adaptive,), guidance)
    for window, (start, end) in WINDOWS.items():
        chosen = {"start_percent": start, "end_percent": end}
        yield from along(f"γ, {window}", (0.5, 2.0), lambda gamma, chosen=chosen: [skew(gamma=gamma, **chosen)])
    yield from along("γ falling to 1", (0.5, 2.0), lambda gamma: [scheduled("linear", gamma)])
    yield from along("γ rising from 1", (0.5, 2.0), lambda gamma: [scheduled("linear", 1.0, gamma)])
    for part, blocks in PARTS.items():
        yield from along(f"γ, {part}", (0.0, 2.0), lambda gamma, blocks=blocks: [skew(gamma=gamma, blocks=blocks)])


def rivals(guidance: float) -> Iterator[Arm]:
    """The alternatives of a ComfyUI user, as for the UNet where they are defined for a flow."""
    yield from rivals_in_guidance(guidance)
    along = partial(curve, guidance=guidance)
    rescaled = "Temporal Score Rescaling"
    yield from along(rescaled, (0.8, 0.9, 0.95, 1.1), lambda k: [use("temporal score rescaling", k=k)])
    for knob, among_pixels in (("temperature of attention", False), ("temperature among pixels", True)):
        node = partial(use, "temperature of a stream", among_pixels=among_pixels)
        yield from along(knob, (0.7, 0.85, 1.2, 1.5), lambda factor, node=node: [node(factor=factor)])
    for name, method in (("PAG", "perturbed attention guidance"), ("SEG", "smoothed energy guidance")):
        node = partial(use, f"{method} of a stream", layers=MIDDLE)
        yield from along(name, (0.25, 0.5, 1.0), lambda scale, node=node: [node(scale=scale)])
    # Of a flow ComfyUI's node scales the velocity, not the noise.
    yield from along("Epsilon Scaling", (0.99, 1.01), lambda s: [use("Epsilon Scaling", scaling_factor=s)])
    yield from along("CADS", (0.8, 0.7, 0.5), lambda start: [use("CADS", start=start)])
    disturbed = partial(use, "noise on the condition", until=0.2 - HALF_A_STEP)
    yield from along("noise on the class", (0.25, 0.5, 1.0), lambda strength: [disturbed(strength=strength)])
    for factor in (0.95, 1.05):
        yield Arm(f"first noise {factor:g}", "first noise", factor, (), guidance, noise=factor)


def rivals_in_guidance(guidance: float) -> Iterator[Arm]:
    """The arms that turn the guidance, its part of the run, or its direction."""
    for scale in SCALES:
        if scale != guidance:
            yield Arm(f"CFG {scale:g}", "CFG", scale, (), scale)
    off = partial(use, "CFGOverride", cfg=1.0)
    for scale in (guidance, 2 * guidance):
        # Kynkäänniemi et al. 2024, https://arxiv.org/abs/2404.07724: guidance only in the middle of the run.
        around = (off(end_percent=0.2 - HALF_A_STEP), off(start_percent=0.8 - HALF_A_STEP))
        yield Arm(f"CFG in an interval {scale:g}", "CFG in an interval", scale, around, scale)
    late = "CFG off at first"
    yield from curve(late, (0.1, 0.2, 0.3), lambda end: [off(end_percent=end - HALF_A_STEP)], guidance=guidance)
    for scale in (guidance, 1.5 * guidance, 2 * guidance):
        apg = use("APG", eta=0.0, norm_threshold=0.0, momentum=-0.5)
        yield Arm(f"APG {scale:g}", "APG", scale, (apg,), scale)
    rescaled = use("rescaled guidance of the velocity", multiplier=0.7)
    for scale in (guidance, 2 * guidance):
        yield Arm(f"RescaleCFG {scale:g}", "RescaleCFG", scale, (rescaled,), scale)
    for scale in (1.5, 2.0, 3.0):
        yield Arm(f"autoguidance {scale:g}", "autoguidance", scale, (), scale, away_from_early=True)
