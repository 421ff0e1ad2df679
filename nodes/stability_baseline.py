"""The node that learns what is normal for a model: Stability Baseline (SAD)."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..sad_core import StabilityBaseline, StabilityTrace
from ..sad_core.stability.run import StabilityRun
from .host.browser import show_on_node
from .host.run_origin import not_made_by, trace_of_maker, upstream_of_input
from .host.skipped import skip_readers
from .shared import CATEGORY, NOTHING_MEASURED, PROBE, SEARCH_ALIASES, Baseline, Trace, after_input

NOT_PLAIN = (
    "The trace has no finished run at γ 1, and a baseline describes the unpatched model. To make one, remove Skew "
    'Attention (SAD), sample again, and wire the LATENT of the sampler to "after".'
)


def is_plain(run: StabilityRun) -> bool:
    """Return True for a finished run at γ 1; also where γ is not known, as in a compiled model."""
    steered = any(gamma != 1.0 for step in run.steps for gamma in step.gammas)
    return bool(run.steps) and run.status == "finished" and run.gamma in ("", "γ 1") and not steered


class StabilityBaselineNode(io.ComfyNode):
    """SAD_TRACE in, and a baseline to add to; what is normal for the model out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Widgets, sockets and what they mean."""
        return io.Schema(
            node_id="SADStabilityBaseline",
            display_name="Stability Baseline (SAD)",
            category=CATEGORY,
            description=(
                "Learns the normal values of a model from runs without Skew Attention, with many seeds and prompts: "
                "mean, spread and quantiles of each measure, by site and part of the run. For Stability Plot, "
                "Stability Probe and Stability Feedback."
            ),
            search_aliases=[*SEARCH_ALIASES, "normal", "z-score", "statistics", "reference"],
            not_idempotent=True,  # it says on the node that ran what it knows
            inputs=[
                Trace.Input(
                    "trace",
                    optional=True,
                    tooltip=(
                        "The trace of Stability Probe (SAD) or Load Stability Trace (SAD). Every finished run in it at "
                        "gamma 1 counts, and every image of a batch."
                    ),
                ),
                Baseline.Input(
                    "baseline",
                    optional=True,
                    tooltip="A baseline to add the trace to. Without it, the node makes a new one.",
                ),
                after_input(
                    "The LATENT of the sampler, or an IMAGE made from it. The node waits for this input, then counts "
                    "the runs up to the one that made it. Not needed for a loaded trace."
                ),
            ],
            outputs=[
                Baseline.Output(
                    "baseline",
                    display_name="baseline",
                    tooltip=(
                        "Wire it to Stability Plot, Stability Probe, Stability Feedback or Save Stability Baseline."
                    ),
                ),
                io.String.Output("summary", display_name="summary", tooltip="A summary of the runs in the baseline."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls, trace: StabilityTrace | None = None, baseline: StabilityBaseline | None = None, after: Any = None
    ) -> io.NodeOutput:
        """Return the baseline of the finished runs at γ 1 and of those in `baseline`, and a summary of it.

        Without a trace, `baseline` is passed on; without both, the nodes that would read it are left out.

        Raises:
            ValueError: no finished run at γ 1, runs of several models, or a baseline of another.
        """
        found = trace if trace is None else trace_of_maker(trace, upstream_of_input("after"))
        if found is not None:
            if found.is_empty:
                raise ValueError(found.summary())
            runs = [run for run in found.runs if is_plain(run)]
            if not runs:
                raise ValueError(NOT_PLAIN)
            baseline = StabilityBaseline.from_runs(runs) if baseline is None else baseline.with_runs(runs)
        reason = "" if found is not None else NOTHING_MEASURED if trace is None else not_made_by(PROBE)
        if baseline is None:
            show_on_node(reason, cls.hidden.unique_id)
            return io.NodeOutput(skip_readers(), skip_readers())
        text = "\n".join(filter(None, [reason, baseline.summary()]))
        show_on_node(text, cls.hidden.unique_id)
        return io.NodeOutput(baseline, text)
