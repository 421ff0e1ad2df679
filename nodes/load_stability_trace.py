"""The node that reads a stability trace from a file: Load Stability Trace (SAD)."""

from __future__ import annotations

from comfy_api.latest import io

from ..sad_core import StabilityTrace
from .host.output_folder import existing_file, files_below, fingerprint_of
from .shared import CATEGORY, STABILITY_ALIASES, Trace

FIRST_SAVED = "stability/trace_00001_.safetensors"  # what Save Stability Trace calls its first file


class LoadStabilityTraceNode(io.ComfyNode):
    """A saved trace in, SAD_TRACE and its summary out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Widgets, sockets and what they mean; the list of files is that of the moment."""
        return io.Schema(
            node_id="SADLoadStabilityTrace",
            display_name="Load Stability Trace (SAD)",
            category=CATEGORY,
            description="Brings back a trace that Save Stability Trace kept, to draw it or to compare another with it.",
            search_aliases=[*STABILITY_ALIASES, "import"],
            inputs=[
                io.Combo.Input(
                    "file",
                    options=saved_traces() or [FIRST_SAVED],
                    tooltip=(
                        "A trace in ComfyUI's output folder, as Save Stability Trace keeps it. Refresh the node "
                        "definitions (R) to see new ones, or upload one."
                    ),
                )
            ],
            outputs=[
                Trace.Output("trace", display_name="trace", tooltip="For Stability Plot (SAD)."),
                io.String.Output("summary", display_name="summary", tooltip="Every run in a few lines."),
            ],
        )

    @classmethod
    def validate_inputs(cls, file: str | None, input_types: dict[str, str]) -> bool | str:
        """Accept any name inside the output folder, in the list or not, and a STRING by wire.

        ComfyUI then leaves both checks to this function: of the list, and of the type of the wire.
        """
        wired = input_types.get("file")
        if wired not in (None, "STRING", "COMBO", "*"):
            return f"file comes from an output of type {wired}, but must be a STRING, as of Save Stability Trace (SAD)."
        if file is None:  # known when the node before has run
            return True
        try:
            existing_file(file)
        except ValueError as problem:
            return str(problem)
        return True

    @classmethod
    def execute(cls, file: str) -> io.NodeOutput:
        """Return the trace in `file` and its summary."""
        trace = StabilityTrace.load(existing_file(file))
        return io.NodeOutput(trace, trace.summary())

    @classmethod
    def fingerprint_inputs(cls, file: str | None) -> str:
        """Return another value when the file changes, so that ComfyUI reads it again; a wired name is not known yet."""
        return fingerprint_of(file)


def saved_traces() -> list[str]:
    """Return the names of all traces in the output folder."""
    return [name for path, name in files_below(".safetensors") if StabilityTrace.is_saved_in(path)]
