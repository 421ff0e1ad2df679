"""Two nodes for trying several γ at once: Gamma Sweep (SAD) fans out, Gamma Grid (SAD) gathers and compares."""

from __future__ import annotations

from collections.abc import Sequence

from comfy_api.latest import io
from torch import Tensor

from ..sad_core.evaluation.sweep import compare_gammas
from .gamma_schedule import read_values
from .plots.style import draw_grid
from .shared import CATEGORY, GAMMA, SEARCH_ALIASES

SWEEP_ALIASES = [*SEARCH_ALIASES, "sweep", "xy plot", "grid", "compare"]
MOST_VALUES = 64


class GammaSweepNode(io.ComfyNode):
    """A list of γ in, each with every seed out, one after the other: everything behind it runs once for each."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Widgets, sockets and what they mean."""
        return io.Schema(
            node_id="SADGammaSweep",
            display_name="Gamma Sweep (SAD)",
            category=CATEGORY,
            description=(
                "Runs everything behind it once for each gamma. Wire gamma into Skew Attention (SAD), and the images "
                "and gamma into Gamma Grid (SAD) or Diversity and Fidelity Report (SAD). Keep 1 among the values: it "
                "is the untouched model."
            ),
            search_aliases=SWEEP_ALIASES,
            inputs=[
                io.String.Input(
                    "values",
                    default="0, 0.5, 1, 1.5, 2",
                    tooltip="Gammas, separated by commas. 1 is the untouched model; the further from it, the stronger.",
                ),
                io.Int.Input(
                    "seeds",
                    default=1,
                    min=1,
                    max=MOST_VALUES,
                    optional=True,
                    tooltip=(
                        "Runs for each gamma, each with a seed of its own, for when a batch of that many images does "
                        "not fit into memory. Above 1, wire seed into the sampler."
                    ),
                ),
                io.Int.Input(
                    "first_seed",
                    default=0,
                    min=0,
                    max=2**53 - 1,
                    optional=True,
                    tooltip="The seed of the first run of every gamma; the next ones count up from it.",
                ),
            ],
            outputs=[
                io.Float.Output("gamma", is_output_list=True, tooltip="One gamma after the other."),
                io.String.Output("label", is_output_list=True, tooltip="The same as text, for names of files."),
                io.Int.Output("seed", is_output_list=True, tooltip="The seed of each run, for the sampler."),
            ],
        )

    @classmethod
    def execute(cls, values: str, seeds: int = 1, first_seed: int = 0) -> io.NodeOutput:
        """The gammas in the order given, each as often as there are seeds, with labels and seeds."""
        gammas = read_values(values)
        if not 1 <= len(gammas) <= MOST_VALUES:
            raise ValueError(f"values: {len(gammas)} gammas given; write 1 to {MOST_VALUES} of them, such as 0, 1, 2.")
        for gamma in gammas:
            if not GAMMA["min"] <= gamma <= GAMMA["max"]:
                raise ValueError(
                    f"values: gamma {gamma:g} is outside of what Skew Attention (SAD) takes, "
                    f"{GAMMA['min']:g} to {GAMMA['max']:g}."
                )
        runs = [(gamma, first_seed + offset) for gamma in gammas for offset in range(seeds)]
        labels = [f"gamma {gamma:g}" + (f", seed {seed}" if seeds > 1 else "") for gamma, seed in runs]
        return io.NodeOutput([gamma for gamma, _ in runs], labels, [seed for _, seed in runs])


class GammaGridNode(io.ComfyNode):
    """The pictures of a sweep in one labelled picture, with how far each moved, and the numbers as a table."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Sockets and what they mean."""
        return io.Schema(
            node_id="SADGammaGrid",
            display_name="Gamma Grid (SAD)",
            category=CATEGORY,
            description=(
                "Lays the images of a sweep out, a row for each gamma and a column for each of its images, with "
                "the distance from gamma 1 under each. Every gamma must have the same seeds."
            ),
            search_aliases=SWEEP_ALIASES,
            is_input_list=True,
            inputs=[
                io.Image.Input("images", tooltip="The images of the sweep; each run may be a batch."),
                io.Float.Input("gamma", force_input=True, tooltip="The gamma output of Gamma Sweep (SAD)."),
            ],
            outputs=[
                io.Image.Output("grid", tooltip="Rows gamma, columns its images; the row of gamma 1 framed."),
                io.String.Output(
                    "table",
                    tooltip=(
                        "CSV: moved is the mean distance from the images of gamma 1, apart the mean distance between "
                        "the images of one row; both root mean square of pixels from 0 to 1."
                    ),
                ),
            ],
        )

    @classmethod
    def execute(cls, images: Sequence[Tensor], gamma: Sequence[float]) -> io.NodeOutput:
        """The grid `(1, height, width, 3)` and the table, from one batch `(B, h, w, 3)` for each γ."""
        comparison = compare_gammas(images, gamma)
        return io.NodeOutput(draw_grid(comparison), comparison.to_csv())
