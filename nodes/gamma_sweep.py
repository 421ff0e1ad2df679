"""The node that tries several γ one after the other: Gamma Sweep (SAD)."""

from __future__ import annotations

import math

from comfy_api.latest import io

from ..sad_core.schedule import read_values
from .shared import CATEGORY, SWEEP_ALIASES

MOST_VALUES = 64
DEFAULT_VALUES = "0, 0.5, 1, 1.5, 2"


class GammaSweepNode(io.ComfyNode):
    """A list of γ in, each with every seed out, one after the other; the nodes behind it run once for each."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Widgets, sockets and what they mean."""
        return io.Schema(
            node_id="SADGammaSweep",
            display_name="Gamma Sweep (SAD)",
            category=CATEGORY,
            description=(
                "Runs everything connected after it once for each gamma and seed. Wire gamma into Skew Attention "
                "(SAD), and the images and gamma into Gamma Grid (SAD) or Diversity and Fidelity Report (SAD). Keep "
                "1 among the values. It is the unpatched model."
            ),
            search_aliases=SWEEP_ALIASES,
            inputs=[
                io.String.Input(
                    "values",
                    default=DEFAULT_VALUES,
                    optional=True,
                    tooltip=(
                        "Gammas, separated by commas. 1 is the unpatched model. The further from 1, the stronger the "
                        "effect."
                    ),
                ),
                io.Int.Input(
                    "seeds",
                    default=1,
                    min=1,
                    max=MOST_VALUES,
                    optional=True,
                    tooltip=(
                        "The number of runs for each gamma, each with its own seed. Use it when a batch of that many "
                        "images does not fit into memory. Above 1, wire seed into the sampler."
                    ),
                ),
                io.Int.Input(
                    "first_seed",
                    default=0,
                    min=0,
                    max=2**53 - 1,
                    optional=True,
                    tooltip="The seed of the first run of every gamma. The next ones count up from it.",
                ),
            ],
            outputs=[
                io.Float.Output("gamma", is_output_list=True, tooltip="One gamma after the other."),
                io.String.Output(
                    "label",
                    is_output_list=True,
                    tooltip="The gamma as text, for file names. With several seeds it names the seed too.",
                ),
                io.Int.Output("seed", is_output_list=True, tooltip="The seed of each run, for the sampler."),
            ],
        )

    @classmethod
    def execute(cls, values: str = DEFAULT_VALUES, seeds: int = 1, first_seed: int = 0) -> io.NodeOutput:
        """Return the γ in the order given, each as often as there are seeds, with labels and seeds."""
        runs = [(gamma, first_seed + offset) for gamma in read_gammas(values) for offset in range(seeds)]
        labels = [f"gamma {gamma:g}" + (f", seed {seed}" if seeds > 1 else "") for gamma, seed in runs]
        return io.NodeOutput([gamma for gamma, _ in runs], labels, [seed for _, seed in runs])


def read_gammas(values: str) -> list[float]:
    """Return the γ that a user typed.

    Raises:
        ValueError: an entry is not a finite number, or there are none or too many.
    """
    gammas = read_values(values)
    if not 1 <= len(gammas) <= MOST_VALUES:
        raise ValueError(
            f"values has {len(gammas)} gammas, but it must have 1 to {MOST_VALUES}. Write them as 0, 1, 2."
        )
    for gamma in gammas:
        if not math.isfinite(gamma):
            raise ValueError(f"values: γ is {gamma}, but it must be a finite number.")
    return gammas
