"""The node that writes a stability trace to a file: Save Stability Trace (SAD)."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..sad_core import StabilityTrace
from ..sad_core.stability.tables import to_csv, to_json
from ..sad_core.whole_file import whole_file
from .host.browser import log, show_on_node
from .host.output_folder import new_file
from .host.run_origin import not_made_by, trace_of_maker, upstream_of_input
from .host.skipped import skip_readers
from .shared import CATEGORY, NOTHING_MEASURED, PROBE, STABILITY_ALIASES, Trace, after_input

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
            description="Saves the trace of a Stability Probe as a file in ComfyUI's output folder.",
            search_aliases=[*STABILITY_ALIASES, "export", "csv", "json", "spreadsheet"],
            is_output_node=True,
            not_idempotent=True,  # it says on the node that ran what it saved
            inputs=[
                Trace.Input("trace", optional=True, tooltip="The trace output of Stability Probe (SAD)."),
                after_input(
                    "The LATENT of the sampler, or an IMAGE made from it. The node waits for this input, then saves "
                    "the trace."
                ),
                io.String.Input(
                    "filename_prefix",
                    optional=True,
                    default="stability/trace",
                    tooltip="Folder and file-name prefix, inside ComfyUI's output folder. A number is added.",
                ),
                io.Combo.Input(
                    "format",
                    optional=True,
                    options=list(FORMATS),
                    default="trace",
                    tooltip=(
                        "trace: all numbers, with every head, for Load Stability Trace (a safetensors file). CSV: "
                        "for spreadsheets, averaged over heads. JSON: the numbers of the CSV and the summary."
                    ),
                ),
            ],
            outputs=[io.String.Output("file", display_name="file", tooltip="The file name inside the output folder.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        trace: StabilityTrace | None = None,
        after: Any = None,
        filename_prefix: str = "stability/trace",
        format: str = "trace",
    ) -> io.NodeOutput:
        """Write the trace and return the name of its file; where no run is to be saved, say so on the node.

        Then the nodes that would read the file are left out of this prompt, and all others run.

        Raises:
            ValueError: nothing was measured, or the name leads out of the output folder.
        """
        if trace is None or trace.unmeasured:
            return cls._nothing_saved(NOTHING_MEASURED if trace is None else trace.unmeasured)
        trace = trace_of_maker(trace, upstream_of_input("after"))
        if trace is None:
            return cls._nothing_saved(not_made_by(PROBE))
        if trace.is_empty:
            raise ValueError(trace.summary())
        if format == "trace":
            path, name = new_file(filename_prefix, ".safetensors")
            trace.save(path)
        else:
            path, name = new_file(filename_prefix, f".{format.lower()}")
            with whole_file(path) as unfinished:
                unfinished.write_text(TEXT_FORMATS[format](trace), encoding="utf-8")
        show_on_node(f"Saved as {name}.", cls.hidden.unique_id)
        return io.NodeOutput(name)

    @classmethod
    def _nothing_saved(cls, reason: str) -> io.NodeOutput:
        text = f"{reason} Nothing was saved."
        log.warning("Save Stability Trace (SAD): %s", text)
        show_on_node(text, cls.hidden.unique_id)
        return io.NodeOutput(skip_readers())
