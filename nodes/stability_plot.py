"""The node that draws a stability trace: Stability Plot (SAD)."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..sad_core import StabilityTrace, difference
from ..sad_core.stability.run import StabilityRun
from ..sad_core.stability.tables import to_csv
from .plots.stability import draw_curves, draw_heads, draw_heat_maps, draw_maps, draw_message
from .shared import CATEGORY, SEARCH_ALIASES, Trace

LAYOUTS = ("heat map", "curves", "heads", "difference", "map")
PASSES = ("both", "cond", "uncond")
WIRE_AFTER = (
    "Wire the LATENT of the sampler, or a picture made from it, to after, so that the trace is drawn when it is there."
)
AT_CFG_1 = "At CFG 1 ComfyUI leaves the unconditional pass out."


class StabilityPlotNode(io.ComfyNode):
    """SAD_TRACE in, its picture, its summary and its table out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Widgets, sockets and what they mean."""
        return io.Schema(
            node_id="SADStabilityPlot",
            display_name="Stability Plot (SAD)",
            category=CATEGORY,
            description=(
                "Draws what a Stability Probe measured: where (site) and when (step) attention retrieval was stable. "
                "Also gives a summary in words and the numbers as CSV."
            ),
            search_aliases=[*SEARCH_ALIASES, "energy", "instability", "chart", "heat map"],
            inputs=[
                Trace.Input(
                    "trace", tooltip="The trace output of Stability Probe (SAD) or Load Stability Trace (SAD)."
                ),
                io.MultiType.Input(
                    "after",
                    types=[io.Latent, io.Image],
                    optional=True,
                    tooltip=(
                        "The LATENT of the sampler, or an IMAGE made from it: the trace is drawn once it is there. "
                        "Not needed for a loaded trace."
                    ),
                ),
                io.Combo.Input(
                    "layout",
                    options=list(LAYOUTS),
                    default="heat map",
                    tooltip=(
                        "heat map: every site at every step. curves: the mean over the sites with their spread. heads: "
                        "the heads of one site. difference: this trace less compare_with, or less the run before it. "
                        "map: alignment by place over the picture, of a site that the probe's map_site names."
                    ),
                ),
                io.Combo.Input(
                    "passes",
                    options=list(PASSES),
                    default="both",
                    tooltip="The conditional pass, the unconditional pass, or the mean of both.",
                ),
                io.String.Input(
                    "site",
                    default="",
                    advanced=True,
                    tooltip=(
                        'For the layouts "heads" and "map": the address of a site, such as middle.0.0. Empty: the '
                        "least aligned one; for maps the first that was mapped."
                    ),
                ),
                Trace.Input(
                    "compare_with",
                    optional=True,
                    tooltip='A second trace, for the layouts "difference" and "curves"; its newest run counts.',
                ),
            ],
            outputs=[
                io.Image.Output("picture", display_name="picture", tooltip="The chart, 1024 pixels wide."),
                io.String.Output("summary", display_name="summary", tooltip="Every run in a few lines."),
                io.String.Output("table", display_name="table", tooltip="All numbers as CSV, heads averaged."),
            ],
        )

    @classmethod
    def execute(
        cls,
        trace: StabilityTrace,
        layout: str = "heat map",
        passes: str = "both",
        site: str = "",
        after: Any = None,
        compare_with: StabilityTrace | None = None,
    ) -> io.NodeOutput:
        """The picture of the newest run, the summary and the table of all runs."""
        return io.NodeOutput(draw(trace, layout, passes, site, compare_with, after), trace.summary(), to_csv(trace))


def draw(
    trace: StabilityTrace, layout: str, passes: str, site: str, other: StabilityTrace | None, after: Any = None
) -> Tensor:
    """The chosen picture of the newest run of `trace`, `(1, height, width, 3)`.

    Raises:
        ValueError: a difference without two runs to compare, a site the run does not have, a map that was not kept.
    """
    if trace.is_empty:
        return draw_message(f"{trace.summary()}\n{WIRE_AFTER}")
    chunk = None if passes == "both" else passes
    run = measured(trace)[-1]
    if chunk is not None and chunk not in run.chunks and layout != "map":  # a map shows whatever pass there is
        return draw_message(f"This run had no {chunk} pass, only {' and '.join(run.chunks)}. {AT_CFG_1}")
    if layout == "heads":
        return draw_heads(run, site.strip() or least_aligned(run), chunk)
    if layout == "map":
        picture = after[0].cpu() if isinstance(after, Tensor) else None
        return draw_maps(run, mapped(run, site.strip()), chunk or "cond", picture)
    if layout == "curves":
        return draw_curves(lines(run, chunk, other))
    if layout == "difference":
        earlier = measured(other)[-1:] if other is not None else measured(trace)[-2:-1]
        if not earlier:
            raise ValueError(
                "There is nothing to compare with: wire a second trace to compare_with, or sample twice with this one."
            )
        return draw_heat_maps(difference(run, earlier[0]), chunk)
    return draw_heat_maps(run, chunk)


def lines(
    run: StabilityRun, chunk: str | None, other: StabilityTrace | None
) -> list[tuple[str, StabilityRun, str | None]]:
    """What the curves show: two traces, or cond and uncond of one."""
    if other is not None and measured(other):
        return [("trace", run, chunk), ("compare_with", measured(other)[-1], chunk)]
    if chunk is None and {"cond", "uncond"} <= set(run.chunks):
        return [("cond", run, "cond"), ("uncond", run, "uncond")]
    return [(chunk or ", ".join(run.chunks), run, chunk)]


def measured(trace: StabilityTrace) -> list[StabilityRun]:
    """The runs that have something to draw."""
    return [run for run in trace.runs if run.steps]


def mapped(run: StabilityRun, site: str) -> str:
    """The site whose map is to be drawn.

    Raises:
        ValueError: the run has no map, or not of this site.
    """
    available = list(dict.fromkeys(address for step in run.steps for address in step.maps))
    if not available or (site and site not in available):
        found = f"maps of {', '.join(available)} alone" if available else "no map"
        raise ValueError(f"The trace has {found}; name the site in map_site of Stability Probe (SAD) and sample again.")
    return site or available[0]


def least_aligned(run: StabilityRun) -> str:
    """The site whose mean alignment (or first measure, where that is missing) is lowest."""
    measure = "alignment" if "alignment" in run.measures else run.measures[0]
    return run.addresses[int(run.matrix(measure).nanmean(dim=1).nan_to_num(nan=float("inf")).argmin())]
