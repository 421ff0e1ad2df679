"""The node that reads a baseline from a file: Load Stability Baseline (SAD)."""

from __future__ import annotations

from comfy_api.latest import io

from ..sad_core.stability.baseline_file import has_baseline, load_baseline
from .host.output_folder import existing_file
from .saved_files import ReadsSavedFile, file_input
from .shared import CATEGORY, SEARCH_ALIASES, Baseline

FIRST_SAVED = "stability/baseline_00001_.safetensors"  # what Save Stability Baseline calls its first file


class LoadStabilityBaselineNode(ReadsSavedFile, io.ComfyNode):
    """The name of a file in, what is normal for a model and a summary of it out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Widgets, sockets and what they mean; the list of files is that of the moment."""
        return io.Schema(
            node_id="SADLoadStabilityBaseline",
            display_name="Load Stability Baseline (SAD)",
            category=CATEGORY,
            description="Loads a baseline that Save Stability Baseline saved.",
            search_aliases=[*SEARCH_ALIASES, "import", "normal"],
            inputs=[
                file_input(
                    FIRST_SAVED,
                    has_baseline,
                    "A baseline in ComfyUI's output folder, saved by Save Stability Baseline. Refresh the node "
                    "definitions (R) to see new ones, or upload one.",
                )
            ],
            outputs=[
                Baseline.Output("baseline", display_name="baseline", tooltip="Wire it to the inputs named baseline."),
                io.String.Output("summary", display_name="summary", tooltip="A summary of the runs in the baseline."),
            ],
        )

    @classmethod
    def execute(cls, file: str) -> io.NodeOutput:
        """Return the baseline in `file` and a summary of it."""
        baseline = load_baseline(existing_file(file))
        return io.NodeOutput(baseline, baseline.summary())
