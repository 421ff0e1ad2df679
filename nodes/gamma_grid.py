"""The node that lays the images of a sweep out side by side: Gamma Grid (SAD)."""

from __future__ import annotations

from collections.abc import Sequence

from comfy_api.latest import io
from torch import Tensor

from ..sad_core.evaluation.sweep import compare_gammas
from .plots.grid import draw_grid
from .shared import CATEGORY, SWEEP_ALIASES, sweep_inputs


class GammaGridNode(io.ComfyNode):
    """The images of a sweep in, one labelled image with the distance each moved and a table of the numbers out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Sockets and what they mean."""
        return io.Schema(
            node_id="SADGammaGrid",
            display_name="Gamma Grid (SAD)",
            category=CATEGORY,
            description=(
                "Arranges the images of a sweep in a grid, with a row for each gamma, a column for each seed, and "
                "the distance from gamma 1 under each image. Every gamma must have the same seeds."
            ),
            search_aliases=SWEEP_ALIASES,
            is_input_list=True,
            inputs=sweep_inputs("The images of the sweep. Each run may be a batch."),
            outputs=[
                io.Image.Output("grid", tooltip="The grid. The row of gamma 1 is framed."),
                io.String.Output(
                    "table",
                    tooltip=(
                        "CSV. moved is the mean distance from the images of gamma 1, and apart is the mean distance "
                        "between the images of one row. Both are root mean square differences of pixel values from 0 "
                        "to 1."
                    ),
                ),
            ],
        )

    @classmethod
    def execute(cls, images: Sequence[Tensor], gamma: Sequence[float]) -> io.NodeOutput:
        """Return the grid `(1, height, width, 3)` and the table, from one batch `(B, h, w, 3)` for each run."""
        comparison = compare_gammas(images, gamma)
        return io.NodeOutput(draw_grid(comparison), comparison.to_csv())
