"""Measure the change of a picture of the demo model outside of the painted mask.

    python -m lab.demo.unpainted_areas     # the figures of docs/how_it_works.md, in some minutes

The mask of *Skew Attention* moves γ in the tokens that it covers, and later layers carry the change to the others. Half
of each picture is painted, the left one and the right one in turn: once with a hard edge, once with an edge that goes
evenly from 0 to 1 over half of the picture. Each picture is compared with that of the same seed from the plain model,
where the mask is 0 and where it is 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from demo_model.shape import CATEGORIES
from lab.demo.sampling import LATENT_SHAPE, seed_noise
from lab.evidence.bootstrap import Estimate, mean
from lab.testing.hosts import find_host
from lab.testing.in_process_host import pack_in_host

SEEDS, FIRST_SEED = 16, 20_000  # of each category
GAMMA, STEPS, GUIDANCE = 1.5, 20, 2.0
SIDE = 2 * LATENT_SHAPE[-1]  # of a picture, in pixels
EDGES = {"hard": 0, "soft": SIDE // 2}  # columns of the edge


def masks(count: int, edge: int) -> Tensor:
    """Masks (count, 32, 32) of one half of a picture, left and right in turn, with an edge of so many columns."""
    right_of_the_middle = torch.arange(SIDE) + 0.5 - SIDE / 2
    right = (0.5 + right_of_the_middle / max(edge, 1)).clamp(0, 1)  # no column's middle is nearer than half a column
    rows = torch.stack([1 - right, right])[torch.arange(count) % 2]
    return rows[:, None].expand(-1, SIDE, -1)


def changes(plain: Tensor, painted: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The mean absolute change of each picture where its mask is 0 and where it is 1, both (N,).

    Pictures (N, 3, h, w), masks (N, h, w). What lies between 0 and 1 counts for neither.
    """
    moved = (painted - plain).abs().mean(dim=1)
    parts = [(moved * here).sum(dim=(1, 2)) / here.sum(dim=(1, 2)) for here in (mask == 0, mask == 1)]
    return parts[0], parts[1]


class Drawer:
    """The demo model in a ComfyUI that has been loaded, sampled as a KSampler does."""

    def __init__(self, category: str, seeds: Sequence[int], steps: int) -> None:
        from symmetric_attention.nodes.demo_model import DemoModelNode

        from lab.testing.run_nodes import execute

        self.model, self.positive, self.negative, self.vae, _ = execute(DemoModelNode, picture=category)
        self.noise = torch.cat([seed_noise(seed) for seed in seeds])
        self.steps = steps

    def draw(self, **widgets: Any) -> Tensor:
        """Pictures (N, 3, 32, 32) in [0, 1], from the plain model or through Skew Attention."""
        import comfy.sample

        from lab.testing.run_nodes import skew

        model = skew(self.model, GAMMA, **widgets)[0] if widgets else self.model
        empty = torch.zeros_like(self.noise)
        latents = comfy.sample.sample(
            model, self.noise, self.steps, GUIDANCE, "euler", "simple", self.positive, self.negative, empty, seed=0
        )
        pictures: Tensor = self.vae.decode(latents)
        return pictures.movedim(-1, 1)


def measure(seeds: int = SEEDS, steps: int = STEPS) -> dict[str, tuple[Estimate, Estimate]]:
    """By the kind of edge, the change of what is not painted and of what is, over `seeds` of each category."""
    labels = torch.arange(len(CATEGORIES)).repeat_interleave(seeds)
    found: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in EDGES}
    for category in CATEGORIES:
        drawer = Drawer(category, range(FIRST_SEED, FIRST_SEED + seeds), steps)
        plain = drawer.draw()
        for name, edge in EDGES.items():
            mask = masks(seeds, edge)
            found[name].append(changes(plain, drawer.draw(mask=mask), mask))
    estimates = {}
    for name, parts in found.items():
        unpainted, painted = (torch.cat(each) for each in zip(*parts, strict=True))
        estimates[name] = mean(unpainted, labels), mean(painted, labels)
    return estimates


def main() -> None:
    host = find_host()
    if host is None:
        raise SystemExit("No ComfyUI on this machine; set COMFYUI_PATH.")
    pack_in_host(host)
    for edge, (unpainted, painted) in measure().items():
        print(f"{edge} edge: changes by {unpainted} where not painted, {painted} where painted; {unpainted / painted}")


if __name__ == "__main__":
    main()
