"""The node that reads a stability trace from a file: Load Stability Trace (SAD)."""

from __future__ import annotations

from comfy_api.latest import io

from ..sad_core import StabilityTrace
from .host.output_folder import existing_file, fingerprint_of
from .shared import CATEGORY, SEARCH_ALIASES, Trace


class LoadStabilityTraceNode(io.ComfyNode):
    """The name of a file in, SAD_TRACE and its summary out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Widgets, sockets and what they mean."""
        return io.Schema(
            node_id="SADLoadStabilityTrace",
            display_name="Load Stability Trace (SAD)",
            category=CATEGORY,
            description="Brings back a trace that Save Stability Trace kept, to draw it or to compare another with it.",
            search_aliases=[*SEARCH_ALIASES, "import"],
            inputs=[
                io.String.Input(
                    "file",
                    default="stability/trace_00001_.safetensors",
                    tooltip="The name of the file below ComfyUI's output folder, as Save Stability Trace gives it.",
                )
            ],
            outputs=[
                Trace.Output("trace", display_name="trace", tooltip="For Stability Plot (SAD)."),
                io.String.Output("summary", display_name="summary", tooltip="Every run in a few lines."),
            ],
        )

    @classmethod
    def execute(cls, file: str) -> io.NodeOutput:
        """Return the trace in `file` and its summary."""
        trace = StabilityTrace.load(existing_file(file))
        return io.NodeOutput(trace, trace.summary())

    @classmethod
    def fingerprint_inputs(cls, file: str | None) -> str:
        """Return another value when the file changes, so that ComfyUI reads it again; a wired name is not known yet."""
        return fingerprint_of(file)
