"""The node that lets γ follow the stability of a run: Stability Feedback (SAD)."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..sad_core import StabilityBaseline
from ..sad_core.stability.feedback import DIRECTIONS, FeedbackSettings
from ..sad_core.stability.measures import TRACE_MEASURES
from ..sad_core.stability.score import StabilityScore
from .host.apply import install_stability_feedback
from .shared import CATEGORY, SEARCH_ALIASES, Baseline, Trace, gamma_widget, progress_widget, unverified_widget


class StabilityFeedbackNode(io.ComfyNode):
    """MODEL in, MODEL on which the gamma of Skew Attention follows a measure of stability out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Widgets, sockets and what they mean."""
        return io.Schema(
            node_id="SADStabilityFeedback",
            display_name="Stability Feedback (SAD)",
            category=CATEGORY,
            description=(
                "Lets the gamma of Skew Attention follow the stability of the current run, separately for each "
                "image. The gamma of a step depends on the measurement at the step before. It works before or after "
                "Skew Attention on the same model, and changes nothing without that node. On our small test model a "
                "gamma that follows stability gave no better images than a fixed one, but setting gamma back "
                "to 1 (fall_back) improved the images for which it happened."
            ),
            search_aliases=[*SEARCH_ALIASES, "controller", "closed loop", "adaptive gamma", "stability"],
            not_idempotent=True,  # the patch knows the id of its node, so no other node may get it from the cache
            inputs=[
                io.Model.Input("model", tooltip="The model, with Skew Attention before or after this node."),
                io.Float.Input(
                    "gain",
                    default=0.05,
                    optional=True,
                    min=0.0,
                    max=2.0,
                    step=0.01,
                    round=0.001,
                    tooltip=(
                        "How far gamma moves for each unit between the measure and its normal value. A unit is a "
                        "standard deviation of the baseline or, without a baseline, the size of the measure in the "
                        "first steps. 0 leaves gamma as Skew Attention sets it."
                    ),
                ),
                io.Combo.Input(
                    "direction",
                    options=list(DIRECTIONS),
                    default=DIRECTIONS[0],
                    optional=True,
                    tooltip=(
                        "The direction in which gamma moves when an image is less stable than normal. toward 1 "
                        "weakens the effect, away from 1 strengthens it. When an image is more stable, gamma moves "
                        "the other way."
                    ),
                ),
                io.Combo.Input(
                    "measure",
                    options=list(TRACE_MEASURES),
                    default="alignment",
                    optional=True,
                    tooltip=(
                        "The measure that gamma follows. Energy and instability count as stable when low, the others "
                        "when high. Depth and relative curvature take longer."
                    ),
                ),
                io.Float.Input(
                    "fall_back",
                    default=0.0,
                    optional=True,
                    min=0.0,
                    max=20.0,
                    step=0.1,
                    round=0.01,
                    tooltip=(
                        "If an image becomes this many units less stable than normal, its gamma is 1 for the rest of "
                        "the run. 0 switches this off."
                    ),
                ),
                progress_widget(
                    "start_percent",
                    default=0.0,
                    optional=True,
                    tooltip="Where in the run the feedback starts, from 0 (pure noise) to 1 (finished image).",
                ),
                progress_widget(
                    "end_percent",
                    default=1.0,
                    optional=True,
                    tooltip=(
                        "Where in the run the feedback ends, from 0 (pure noise) to 1 (finished image). After it, Skew "
                        "Attention sets gamma."
                    ),
                ),
                io.Float.Input(
                    "dead_band",
                    default=0.0,
                    optional=True,
                    min=0.0,
                    max=10.0,
                    step=0.1,
                    round=0.01,
                    advanced=True,
                    tooltip="Within this many units of normal, gamma does not move.",
                ),
                io.Float.Input(
                    "most_change",
                    default=0.02,
                    optional=True,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    round=0.001,
                    advanced=True,
                    tooltip="The largest change of gamma from one step to the next. It does not limit falling back.",
                ),
                gamma_widget(
                    "lowest_gamma",
                    default=0.8,
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "The lowest gamma that feedback sets. If Skew Attention itself asks for a lower one, that "
                        "one is the limit."
                    ),
                ),
                gamma_widget(
                    "highest_gamma",
                    default=1.3,
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "The highest gamma that feedback sets. If Skew Attention itself asks for a higher one, that "
                        "one is the limit."
                    ),
                ),
                io.Int.Input(
                    "first_steps",
                    default=3,
                    optional=True,
                    min=1,
                    max=100,
                    advanced=True,
                    tooltip=(
                        "The number of steps at the start of the run whose mean counts as normal. Used only without a "
                        "baseline."
                    ),
                ),
                io.String.Input(
                    "blocks",
                    default="",
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "The attention sites to measure. Empty means all except text refiners. Write them as in "
                        "Stability Probe. Fewer sites cost less."
                    ),
                ),
                Baseline.Input(
                    "baseline",
                    optional=True,
                    tooltip=(
                        "The normal values of this model, from Stability Baseline (SAD). Without it, the first steps "
                        "count as normal."
                    ),
                ),
                unverified_widget(
                    tooltip=(
                        "Also measure where this pack cannot verify that queries and keys are the same tokens. That is "
                        "so in a model it does not know, and where another node changes queries and keys in an unknown "
                        "way (attn1_patch), for example to attend to another frame."
                    )
                ),
            ],
            outputs=[
                io.Model.Output(tooltip="The model for the sampler."),
                Trace.Output(
                    "trace",
                    display_name="trace",
                    tooltip="The measurements, with gamma by step and image. Wire it to Stability Plot (SAD).",
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        gain: float = 0.05,
        direction: str = DIRECTIONS[0],
        measure: str = "alignment",
        fall_back: float = 0.0,
        start_percent: float = 0.0,
        end_percent: float = 1.0,
        dead_band: float = 0.0,
        most_change: float = 0.02,
        lowest_gamma: float = 0.8,
        highest_gamma: float = 1.3,
        first_steps: int = 3,
        blocks: str = "",
        baseline: StabilityBaseline | None = None,
        act_where_unverified: bool = False,
    ) -> io.NodeOutput:
        """Return a clone of `model` with feedback, and the trace that its runs will fill."""
        feedback = FeedbackSettings(
            StabilityScore(measure, start=start_percent, end=end_percent),
            gain=gain,
            direction=direction,
            dead_band=dead_band,
            most_change=most_change,
            lowest=lowest_gamma,
            highest=highest_gamma,
            first_steps=first_steps,
            fall_back=fall_back,
            baseline=baseline,
        )
        installed = install_stability_feedback(model, feedback, blocks, cls.hidden.unique_id, act_where_unverified)
        return io.NodeOutput(*installed)
