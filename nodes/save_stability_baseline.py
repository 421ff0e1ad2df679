"""The node that writes a baseline to a file: Save Stability Baseline (SAD)."""

from __future__ import annotations

from comfy_api.latest import io

from ..sad_core import StabilityBaseline
from ..sad_core.stability.baseline_file import save_baseline
from .host.browser import show_on_node
from .host.output_folder import new_file
from .host.skipped import skip_readers
from .shared import CATEGORY, SEARCH_ALIASES, Baseline

NOTHING_NORMAL = 'No Stability Baseline (SAD) is wired to "baseline", or it is bypassed or muted. Nothing was saved.'


class SaveStabilityBaselineNode(io.ComfyNode):
    """A baseline in, a file in ComfyUI's output folder out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Widgets, sockets and what they mean."""
        return io.Schema(
            node_id="SADSaveStabilityBaseline",
            display_name="Save Stability Baseline (SAD)",
            category=CATEGORY,
            description="Saves a baseline as a file in ComfyUI's output folder.",
            search_aliases=[*SEARCH_ALIASES, "export", "normal"],
            is_output_node=True,
            not_idempotent=True,  # it says on the node that ran what it saved
            inputs=[
                Baseline.Input("baseline", optional=True, tooltip="The baseline output of Stability Baseline (SAD)."),
                io.String.Input(
                    "filename_prefix",
                    optional=True,
                    default="stability/baseline",
                    tooltip="Folder and file-name prefix, inside ComfyUI's output folder. A number is added.",
                ),
            ],
            outputs=[io.String.Output("file", display_name="file", tooltip="The file name inside the output folder.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls, baseline: StabilityBaseline | None = None, filename_prefix: str = "stability/baseline"
    ) -> io.NodeOutput:
        """Write the baseline and return the name of its file; without one, say so and leave out who would read it.

        Raises:
            ValueError: the name leads out of the output folder.
        """
        if baseline is None:
            show_on_node(NOTHING_NORMAL, cls.hidden.unique_id)
            return io.NodeOutput(skip_readers())
        path, name = new_file(filename_prefix, ".safetensors")
        save_baseline(baseline, path)
        show_on_node(f"Saved as {name}.", cls.hidden.unique_id)
        return io.NodeOutput(name)
