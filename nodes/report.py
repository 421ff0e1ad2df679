"""The node that shows what a sampling run really did: Report (SAD)."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from .host.browser import show_on_node
from .host.run_report import SkewReport
from .shared import CATEGORY, SEARCH_ALIASES, Report, after_input


class ReportNode(io.ComfyNode):
    """The handle of a Skew Attention node in, its last run in words out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Widgets, sockets and what they mean."""
        return io.Schema(
            node_id="SADReport",
            display_name="Report (SAD)",
            category=CATEGORY,
            description="Tells what Skew Attention did in a run: sites reached, gamma applied, backend, fallbacks.",
            search_aliases=[*SEARCH_ALIASES, "log", "what happened"],
            is_output_node=True,
            not_idempotent=True,  # it shows its text on the node that ran
            inputs=[
                Report.Input("report", tooltip="The report output of Skew Attention (SAD)."),
                after_input(
                    "The LATENT of the sampler, or an IMAGE made from it: the report is read once it is there."
                ),
            ],
            outputs=[io.String.Output("text", display_name="text", tooltip="The report, to show or save.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, report: SkewReport, after: Any) -> io.NodeOutput:
        """Return the newest run behind `report` in words; `after` only delays the node until the sampler is done."""
        text = f"{report.plan}\n\n{report.describe()}"
        show_on_node(text, cls.hidden.unique_id)
        return io.NodeOutput(text)
