"""The node that reads a baseline from a file: Load Stability Baseline (SAD)."""

from __future__ import annotations

from comfy_api.latest import io

from ..sad_core.stability.baseline_file import load_baseline
from .host.output_folder import existing_file, fingerprint_of
from .shared import CATEGORY, SEARCH_ALIASES, Baseline


class LoadStabilityBaselineNode(io.ComfyNode):
    """The name of a file in, what is normal for a model and a sentence about it out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Widgets, sockets and what they mean."""
        return io.Schema(
            node_id="SADLoadStabilityBaseline",
            display_name="Load Stability Baseline (SAD)",
            category=CATEGORY,
            description="Brings back what is normal for a model, as Save Stability Baseline kept it.",
            search_aliases=[*SEARCH_ALIASES, "import", "normal"],
            inputs=[
                io.String.Input(
                    "file",
                    default="stability/baseline_00001_.safetensors",
                    tooltip="The name of the file below ComfyUI's output folder, as Save Stability Baseline gives it.",
                )
            ],
            outputs=[
                Baseline.Output("baseline", display_name="baseline", tooltip="For the inputs named baseline."),
                io.String.Output("summary", display_name="summary", tooltip="What it was made of, in a sentence."),
            ],
        )

    @classmethod
    def execute(cls, file: str) -> io.NodeOutput:
        """Return the baseline in `file` and a sentence about it."""
        baseline = load_baseline(existing_file(file))
        return io.NodeOutput(baseline, baseline.summary())

    @classmethod
    def fingerprint_inputs(cls, file: str | None) -> str:
        """Return another value when the file changes, so that ComfyUI reads it again; a wired name is not known yet."""
        return fingerprint_of(file)
