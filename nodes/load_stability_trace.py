"""The node that reads a stability trace from a file: Load Stability Trace (SAD)."""

from __future__ import annotations

from comfy_api.latest import io

from ..sad_core import StabilityTrace
from .host.output_folder import existing_file
from .saved_files import ReadsSavedFile, file_input
from .shared import CATEGORY, STABILITY_ALIASES, Trace

FIRST_SAVED = "stability/trace_00001_.safetensors"  # what Save Stability Trace calls its first file


class LoadStabilityTraceNode(ReadsSavedFile, io.ComfyNode):
    """A saved trace in, SAD_TRACE and its summary out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Widgets, sockets and what they mean; the list of files is that of the moment."""
        return io.Schema(
            node_id="SADLoadStabilityTrace",
            display_name="Load Stability Trace (SAD)",
            category=CATEGORY,
            description="Loads a trace that Save Stability Trace saved, to draw it or to compare another one with it.",
            search_aliases=[*STABILITY_ALIASES, "import"],
            inputs=[
                file_input(
                    FIRST_SAVED,
                    StabilityTrace.is_saved_in,
                    "A trace in ComfyUI's output folder, saved by Save Stability Trace. Refresh the node definitions "
                    "(R) to see new ones, or upload one.",
                )
            ],
            outputs=[
                Trace.Output("trace", display_name="trace", tooltip="Wire it to Stability Plot (SAD)."),
                io.String.Output("summary", display_name="summary", tooltip="A few lines about each run."),
            ],
        )

    @classmethod
    def execute(cls, file: str) -> io.NodeOutput:
        """Return the trace in `file` and its summary."""
        trace = StabilityTrace.load(existing_file(file))
        return io.NodeOutput(trace, trace.summary())
