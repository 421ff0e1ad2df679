"""The node that writes a stability trace to a file: Save Stability Trace (SAD)."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..sad_core import StabilityTrace
from ..sad_core.stability.tables import to_csv, to_json
from .host.output_folder import new_file
from .shared import CATEGORY, SEARCH_ALIASES, Trace, after_input

TEXT_FORMATS = {"CSV": to_csv, "JSON": to_json}
FORMATS = ("trace", *TEXT_FORMATS)


class SaveStabilityTraceNode(io.ComfyNode):
    """SAD_TRACE in, a file in ComfyUI's output folder out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Widgets, sockets and what they mean."""
        return io.Schema(
            node_id="SADSaveStabilityTrace",
            display_name="Save Stability Trace (SAD)",
            category=CATEGORY,
            description="Keeps what a Stability Probe measured as a file in ComfyUI's output folder.",
            search_aliases=[*SEARCH_ALIASES, "export", "csv", "json", "spreadsheet"],
            is_output_node=True,
            inputs=[
                Trace.Input("trace", tooltip="The trace output of Stability Probe (SAD)."),
                after_input(
                    "The LATENT of the sampler, or an IMAGE made from it: the trace is saved once it is there."
                ),
                io.String.Input(
                    "filename_prefix",
                    default="stability/trace",
                    tooltip="Folder and beginning of the name below ComfyUI's output folder; a number is added.",
                ),
                io.Combo.Input(
                    "format",
                    options=list(FORMATS),
                    default="trace",
                    tooltip=(
                        "trace: everything, heads included, for Load Stability Trace (a safetensors file). CSV: for "
                        "spreadsheets, heads averaged. JSON: the same numbers and the summary."
                    ),
                ),
            ],
            outputs=[
                io.String.Output("file", display_name="file", tooltip="The name of the file below the output folder.")
            ],
        )

    @classmethod
    def execute(
        cls, trace: StabilityTrace, after: Any, filename_prefix: str = "stability/trace", format: str = "trace"
    ) -> io.NodeOutput:
        """Write the trace and return the name of its file."""
        if trace.is_empty:
            raise ValueError(trace.summary())
        if format == "trace":
            path, name = new_file(filename_prefix, ".safetensors")
            trace.save(path)
        else:
            path, name = new_file(filename_prefix, f".{format.lower()}")
            path.write_text(TEXT_FORMATS[format](trace), encoding="utf-8")
        return io.NodeOutput(name)
