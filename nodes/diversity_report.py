"""The node that measures a sweep on the user's own checkpoint: Diversity and Fidelity Report (SAD)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..sad_core.evaluation.measures import PIXELS, DiversityReport, FeatureSpace, cosine_distances, measure_sweep
from .diversity_summary import summarise
from .host.clip_vision import describe, embed, prompt_beside
from .plots.diversity import draw_report
from .shared import CATEGORY, SWEEP_ALIASES, clip_vision_input, sweep_inputs


class DiversityReportNode(io.ComfyNode):
    """The images of a sweep in, their diversity and its cost out: as a plot, a table and sentences."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Sockets and what they mean."""
        return io.Schema(
            node_id="SADDiversityReport",
            display_name="Diversity and Fidelity Report (SAD)",
            category=CATEGORY,
            description=(
                "Measures a sweep on your own checkpoint: does diversity increase with gamma, and how far do the "
                "images move? Use several seeds of each gamma. Small differences need 8 or more."
            ),
            search_aliases=[*SWEEP_ALIASES, "vendi", "measure", "metrics", "statistics"],
            is_input_list=True,
            inputs=[
                *sweep_inputs(
                    "The images of the sweep. Every gamma needs the same seeds, in one batch or in several runs."
                ),
                clip_vision_input(),
                io.Conditioning.Input(
                    "conditioning",
                    optional=True,
                    tooltip=(
                        "The positive prompt. With it, the report also measures agreement with the prompt, if "
                        "clip_vision was trained together with this text encoder (CLIP vision bigG with SDXL, H "
                        "with SD2)."
                    ),
                ),
            ],
            outputs=[
                io.Image.Output(
                    "plot",
                    tooltip=(
                        "The plot: diversity against drift (the distance from the images of gamma 1), and each measure "
                        "over gamma, with 95 % intervals."
                    ),
                ),
                io.String.Output(
                    "table", tooltip="CSV: a line for each gamma, every measure with the ends of its 95 % interval."
                ),
                io.String.Output("summary", tooltip="The most diverse gamma and its cost, in sentences."),
            ],
        )

    @classmethod
    def execute(
        cls,
        images: Sequence[Tensor],
        gamma: Sequence[float],
        clip_vision: Sequence[Any] = (),
        conditioning: Sequence[Any] = (),
    ) -> io.NodeOutput:
        """Return the plot `(1, height, 1024, 3)`, the table and the summary, from one batch `(B, h, w, 3)` a run."""
        report = measure(images, gamma, clip_vision, conditioning)
        return io.NodeOutput(draw_report(report), report.to_csv(), summarise(report))


def measure(
    images: Sequence[Tensor], gamma: Sequence[float], clip_vision: Sequence[Any] = (), conditioning: Sequence[Any] = ()
) -> DiversityReport:
    """Return the report of what came in, each a list; optional inputs that are not wired are empty.

    Raises:
        ValueError: there is not one γ for each run, or the images have several sizes.
    """
    model = next(iter(clip_vision), None)
    prompt = partial(prompt_beside, conditioning, model) if len(conditioning) else None
    return measure_sweep(images, gamma, PIXELS if model is None else space_of(model), prompt)


def space_of(clip_vision: Any) -> FeatureSpace:
    """Return the feature space of a CLIP vision model."""
    return FeatureSpace(describe(clip_vision), "1 − cosine", partial(embed, clip_vision), cosine_distances)
