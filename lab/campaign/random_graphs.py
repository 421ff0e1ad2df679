"""Random piles of the nodes that come with ComfyUI, with ours at any place among them, held to the definition.

A graph is drawn by its seed. It is sampled four times: without our nodes, with them, with the host's attention replaced
by the definition in float64 instead of them, and with ours at γ = 1. The second must be the third up to rounding, and
the fourth the first, bit by bit.
"""

from __future__ import annotations

import random
import traceback
from dataclasses import dataclass
from typing import Any

import comfy.samplers
import torch
from comfy.model_patcher import ModelPatcher
from symmetric_attention.sad_core import GammaSchedule
from torch import Tensor

from lab.campaign.graph_neighbours import Neighbour, neighbours
from lab.campaign.ledger import Budget, Ledger
from lab.campaign.reference_attention import Skew, reference
from lab.testing.families.family import Family
from lab.testing.families.family import draw as numbers
from lab.testing.families.rows import FAMILIES, HOSTED
from lab.testing.prompted import TEXTS, cfg_guider, dual_cfg
from lab.testing.run_nodes import forget_dead_models, probe, skew

STEPS = (0.02, 0.35, 0.7)  # in progress: what γ does at the end of a run hardly shows in the picture
MOST_NEIGHBOURS = 10
CLOSE = 2e-3  # as a share of what γ changes
ROUNDING = 2e-5  # as a share of the picture
# The families, how often each is drawn, and the kind of their neighbours.
DRAWN = {"SD15": (6, "unet"), "SDXL": (2, "unet"), "Flux": (2, "dit"), "SD3": (1, "dit"), "WAN21_T2V": (1, "video")}


@dataclass(frozen=True)
class Graph:
    """A drawn graph.

    Attributes:
        family: name of the family.
        pile: names of the neighbours, "skew" and "probe", in the order of the graph.
        theirs: of every neighbour, by its place.
        ours: of every Skew Attention, by its place.
        is_dual: whether DualCFGGuider samples it.
        batch: pictures.
    """

    family: str
    pile: tuple[str, ...]
    theirs: dict[int, Neighbour]
    ours: dict[int, Skew]
    is_dual: bool
    batch: int

    def describe(self) -> str:
        """Return the graph in one line."""
        pile = " > ".join(self.pile)
        guider = "DualCFG" if self.is_dual else "CFG"
        return f"{self.family}, {guider}, batch {self.batch}: {pile}; {list(self.ours.values())}"


def run(budget: Budget) -> Ledger:
    """Try a graph for every seed of the budget."""
    torch.set_num_threads(1)
    ledger = Ledger()
    for seed in budget.seeds():
        graph = drawn(seed)
        try:
            ledger.counts[try_graph(seed, graph, ledger)] += 1
        except Exception as error:
            ledger.fault(
                f"seed {seed}: {graph.describe()}\n{error!r}\n{''.join(traceback.format_tb(error.__traceback__)[-4:])}"
            )
        ledger.counts[f"graphs of {graph.family}"] += 1
    return ledger


def family_of(name: str) -> Family:
    """The family of a name."""
    return FAMILIES[name] if name in FAMILIES else HOSTED[name]


def drawn(seed: int) -> Graph:
    """The graph of a seed."""
    draw = random.Random(seed)
    (name,) = draw.choices(list(DRAWN), [weight for weight, _ in DRAWN.values()])
    table = neighbours(DRAWN[name][1], draw)
    pile = draw.sample(list(table), draw.randint(1, min(MOST_NEIGHBOURS, len(table))))
    for what in ["skew"] * draw.choice([1, 1, 2]) + ["probe"] * (draw.random() < 0.3):
        pile.insert(draw.randint(0, len(pile)), what)
    theirs = {place: table[what]() for place, what in enumerate(pile) if what in table}
    ours = {place: drawn_skew(family_of(name), draw) for place, what in enumerate(pile) if what == "skew"}
    return Graph(name, tuple(pile), theirs, ours, draw.random() < 0.15, draw.choice([1, 1, 2]))


def drawn_skew(family: Family, draw: random.Random) -> Skew:
    """The widgets of a Skew Attention."""
    sites = list(family.sites)
    window = draw.choice([(0.0, 1.0)] * 3 + [(0.0, 0.437), (0.263, 1.0)])
    return Skew(
        gamma=draw.choice([-1.0, 0.0, 0.5, 1.2, 1.5, 2.0]),
        beta=draw.choice([1.0, 1.0, 3.0]),
        norm=draw.choice(["value", "value", "none", "input"]),
        adaptive=draw.choice(["off"] * 4 + ["gamma", "gamma and beta"]),
        apply_to=draw.choice(["both", "both", "cond", "uncond"]),
        sites=tuple(sites if draw.random() < 0.6 else draw.sample(sites, draw.randint(1, len(sites)))),
        start=window[0],
        end=window[1],
        last=draw.choice([None, None, None, 0.7]),
    )


def try_graph(seed: int, graph: Graph, ledger: Ledger) -> str:
    """Sample a graph in all four ways and compare; return how it went."""
    family = family_of(graph.family)
    try:
        plain = sample(family, graph, built(family, graph, with_ours=False))
    except Exception:
        return "graphs that ComfyUI cannot run without us"
    if not plain.isfinite().all():
        return "graphs that give no numbers without us"
    got = sample(family, graph, built(family, graph))
    bare = built(family, graph, with_ours=False)
    with reference(family, bare, [graph.ours[place] for place in sorted(graph.ours)], TEXTS):
        want = sample(family, graph, bare)
    neutral = sample(family, graph, built(family, graph, neutral=True))
    if not torch.equal(neutral, plain):
        ledger.fault(
            f"seed {seed}: γ = 1 moves the picture by {float((neutral - plain).abs().max()):.1e}: {graph.describe()}"
        )
        return "graphs with a fault"
    moved, off = float((want - plain).abs().max()), float((got - want).abs().max())
    if moved == 0:
        if not torch.equal(got, plain):
            ledger.fault(
                f"seed {seed}: nothing should act, but the picture moves by {float(off):.1e}: {graph.describe()}"
            )
            return "graphs with a fault"
        return "graphs in which γ reaches no call"
    if not off <= CLOSE * moved + ROUNDING * float(plain.abs().max()):
        ledger.fault(f"seed {seed}: off by {off:.1e} of {moved:.1e}: {graph.describe()}")
        return "graphs with a fault"
    return "graphs in which γ acts as defined"


def built(family: Family, graph: Graph, *, with_ours: bool = True, neutral: bool = False) -> ModelPatcher:
    """The model behind the graph."""
    model = family.model
    for place, what in enumerate(graph.pile):
        if place in graph.theirs:
            model = graph.theirs[place](model)
        elif with_ours and place in graph.ours:
            model = skewed(model, graph.ours[place], neutral)
        elif with_ours and what == "probe":
            model = probe(model)[0]
    return model


def skewed(model: ModelPatcher, node: Skew, neutral: bool) -> ModelPatcher:
    """The model through a Skew Attention with these widgets."""
    widgets: dict[str, Any] = {"norm": node.norm, "adaptive": node.adaptive, "apply_to": node.apply_to}
    widgets |= {"blocks": ", ".join(node.sites), "start_percent": node.start, "end_percent": node.end}
    if node.last is not None and not neutral:
        widgets["schedule"] = GammaSchedule.from_preset("linear", node.gamma, node.last)
    patched: ModelPatcher = skew(model, gamma=1.0 if neutral else node.gamma, beta=node.beta, **widgets)[0]
    return patched


def sample(family: Family, graph: Graph, model: ModelPatcher) -> Tensor:
    """The latent of a graph; what its nodes draw is drawn anew each time."""
    forget_dead_models()
    torch.manual_seed(0)
    noise = family.noise(graph.batch)
    if DRAWN[graph.family][1] == "video":
        noise = numbers("noise of six frames", (graph.batch, noise.shape[1], 6, *noise.shape[3:]))
    texts = family.conditioning(TEXTS[0]), family.conditioning(TEXTS[2])
    guider = dual_cfg(family, model) if graph.is_dual else cfg_guider(model, *texts)
    sampling = guider.model_patcher.get_model_object("model_sampling")
    sigmas = torch.tensor([*(float(sampling.percent_to_sigma(place)) for place in STEPS), 0.0])
    sampler = comfy.samplers.sampler_object("euler")
    result: Tensor = guider.sample(noise, torch.zeros_like(noise), sampler, sigmas, disable_pbar=True, seed=0)
    return result
