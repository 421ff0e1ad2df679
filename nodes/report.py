"""The node that shows what a sampling run really did: Report (SAD)."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from .host.browser import show_on_node
from .host.run_origin import upstream_of_input
from .host.run_report import SkewReport
from .shared import CATEGORY, NOTHING_PATCHED, SEARCH_ALIASES, Report, after_input

NOT_WAITING = (
    'Nothing is wired to the input "after", so this node does not wait for the sampler. Wire the LATENT of the '
    'sampler, or an IMAGE made from it, to "after".'
)


class ReportNode(io.ComfyNode):
    """The handle of a Skew Attention node in, the run that made what is wired to `after` in words out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Widgets, sockets and what they mean."""
        return io.Schema(
            node_id="SADReport",
            display_name="Report (SAD)",
            category=CATEGORY,
            description=(
                "Shows what Skew Attention or Creativity did in a run: sites reached, gamma applied, backend, "
                "fallbacks."
            ),
            search_aliases=[*SEARCH_ALIASES, "log", "what happened"],
            is_output_node=True,
            not_idempotent=True,  # it shows its text on the node that ran
            inputs=[
                Report.Input(
                    "report",
                    optional=True,
                    tooltip="The report output of Skew Attention (SAD) or Creativity (SAD).",
                ),
                after_input(
                    "The LATENT of the sampler, or an IMAGE made from it. The node waits for this input, then reads "
                    "the report."
                ),
            ],
            outputs=[io.String.Output("text", display_name="text", tooltip="The report, to show or save.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, report: SkewReport | None = None, after: Any = None) -> io.NodeOutput:
        """Return the run behind `report` that made `after` in words, or why there is none."""
        if report is None:
            text = NOTHING_PATCHED
        else:
            text = f"{report.plan}\n\n{report.describe(upstream_of_input('after'))}"
            if after is None:
                text = f"{text}\n{NOT_WAITING}"
        show_on_node(text, cls.hidden.unique_id)
        return io.NodeOutput(text)
