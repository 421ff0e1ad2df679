"""The node that draws a stability trace: Stability Plot (SAD)."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..sad_core import StabilityBaseline, StabilityTrace
from ..sad_core.stability.shift import describe_shift
from ..sad_core.stability.tables import to_csv
from .host.run_origin import not_made_by, trace_of_maker, upstream_of_input
from .plots.stability import draw_message
from .plots.stability_layouts import LAYOUTS, PASSES, draw_layout
from .shared import CATEGORY, NOTHING_MEASURED, PROBE, STABILITY_ALIASES, Baseline, Trace, after_input


class StabilityPlotNode(io.ComfyNode):
    """SAD_TRACE in, its plot, its summary and its table out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Widgets, sockets and what they mean."""
        return io.Schema(
            node_id="SADStabilityPlot",
            display_name="Stability Plot (SAD)",
            category=CATEGORY,
            description=(
                "Draws the measurements of a Stability Probe: where (site) and when (step) attention retrieval was "
                "stable. It also gives a summary in words and the numbers as CSV."
            ),
            search_aliases=[*STABILITY_ALIASES, "energy", "instability", "chart", "heat map"],
            inputs=[
                Trace.Input(
                    "trace",
                    optional=True,
                    tooltip="The trace output of Stability Probe (SAD) or Load Stability Trace (SAD).",
                ),
                io.Combo.Input(
                    "layout",
                    optional=True,
                    options=list(LAYOUTS),
                    default="heat map",
                    tooltip=(
                        "heat map: every site at every step. curves: the mean over the sites with their spread. "
                        "heads: the heads of one site. difference: this trace minus compare_with, or minus the run "
                        "before it. map: alignment over the image, for a site named in map_site of the probe. "
                        "z-scores: standard deviations from the normal values of the baseline."
                    ),
                ),
                io.Combo.Input(
                    "passes",
                    optional=True,
                    options=list(PASSES),
                    default="both",
                    tooltip="The conditional pass, the unconditional pass, or the mean of both.",
                ),
                io.String.Input(
                    "site",
                    optional=True,
                    default="",
                    advanced=True,
                    tooltip=(
                        'For the layouts "heads" and "map": the address of a site, such as middle.0.0. Empty means '
                        'the least aligned site or, for "map", the first mapped one.'
                    ),
                ),
                after_input(
                    "The LATENT of the sampler, or an IMAGE made from it. The node waits for this input, then draws "
                    "the trace. Not needed for a loaded trace.",
                ),
                Trace.Input(
                    "compare_with",
                    optional=True,
                    tooltip='A second trace, for the layouts "difference" and "curves". Its newest run is used.',
                ),
                Baseline.Input(
                    "baseline",
                    optional=True,
                    tooltip=(
                        'The normal values of this model, for the layouts "z-scores" and "curves". The summary then '
                        "names the measures that leave the normal band, the middle 90 % of the baseline's values."
                    ),
                ),
            ],
            outputs=[
                io.Image.Output("picture", display_name="picture", tooltip="The chart, 1024 pixels wide."),
                io.String.Output("summary", display_name="summary", tooltip="A few lines about each run."),
                io.String.Output("table", display_name="table", tooltip="All numbers as CSV, averaged over heads."),
            ],
        )

    @classmethod
    def execute(
        cls,
        trace: StabilityTrace | None = None,
        layout: str = "heat map",
        passes: str = "both",
        site: str = "",
        after: Any = None,
        compare_with: StabilityTrace | None = None,
        baseline: StabilityBaseline | None = None,
    ) -> io.NodeOutput:
        """Return the plot of the run that made `after`, and the summary and the table of all runs up to it."""
        if trace is None or trace.unmeasured:
            return cls._nothing_drawn(NOTHING_MEASURED if trace is None else trace.unmeasured)
        trace = trace_of_maker(trace, upstream_of_input("after"))
        if trace is None:
            return cls._nothing_drawn(not_made_by(PROBE))
        summary = trace.summary()
        if baseline is not None and not trace.is_empty:
            summary = f"{describe_shift(baseline, trace.runs[-1])}\n\n{summary}"
        plot = draw_layout(trace, layout, passes, site, compare_with, after, baseline)
        return io.NodeOutput(plot, summary, to_csv(trace))

    @classmethod
    def _nothing_drawn(cls, reason: str) -> io.NodeOutput:
        return io.NodeOutput(draw_message(reason), reason, "")
