"""The node that measures a model while it samples: Stability Probe (SAD)."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..sad_core import StabilityBaseline
from ..sad_core.stability.measures import DEFAULT_MEASURES, TRACE_MEASURES
from .host.apply import install_stability_probe
from .host.settings import PATTERNS, ProbeSettings
from .shared import CATEGORY, STABILITY_ALIASES, Baseline, Trace, unverified_widget


class StabilityProbeNode(io.ComfyNode):
    """MODEL in, the same MODEL with its attention measured and SAD_TRACE out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Widgets, sockets and what they mean."""
        return io.Schema(
            node_id="SADStabilityProbe",
            display_name="Stability Probe (SAD)",
            category=CATEGORY,
            description=(
                "Seen as a Hopfield network, attention retrieves a stored pattern for each token. This node measures "
                "the stability of this retrieval at every attention site and every step: Hopfield energy, "
                "instability, alignment and symmetricity. The image stays the same, bit for bit. Works with and "
                "without Skew Attention, before or after it. Wire the trace to Stability Plot."
            ),
            search_aliases=[*STABILITY_ALIASES, "energy", "instability", "attention map", "diagnostics"],
            not_idempotent=True,  # the patch knows the id of its node, so no other node may get it from the cache
            inputs=[
                io.Model.Input("model", tooltip="The model to measure, with or without Skew Attention."),
                io.String.Input(
                    "blocks",
                    default="",
                    optional=True,
                    tooltip=(
                        "The attention sites to measure. Empty means all except text refiners. Write addresses "
                        "(input.4.1, joint.3, double.7), prefixes (input, output.5), ranges (double.0-9) or groups "
                        "(self, joint, text refiner), separated by commas. After a wrong entry the node lists the "
                        "valid ones. Fewer sites cost less."
                    ),
                ),
                io.Int.Input(
                    "every_nth_step",
                    default=1,
                    min=1,
                    max=100,
                    optional=True,
                    tooltip=(
                        "Measure every n-th step, from the first one. 1 measures all steps, and a higher number "
                        "costs less."
                    ),
                ),
                io.Boolean.Input(
                    "depth_and_curvature",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "Also measure depth (0 is the deepest minimum, -1 the top of the landscape) and relative "
                        "curvature (above 0 the retrieval lies in a bowl, below 0 there is still a way down). You can "
                        "compare them across layers and resolutions, but measuring them can take longer than the "
                        "attention itself. Choose few blocks or few steps."
                    ),
                ),
                io.Combo.Input(
                    "patterns",
                    options=list(PATTERNS),
                    default="value",
                    optional=True,
                    advanced=True,
                    tooltip=(
                        'The patterns that are retrieved. "value": the values of each head (cheap, on every model). '
                        '"input": the normalised input of the block, as in the paper (many times slower, and only on '
                        'UNet models; other models use "value"). Do not compare results of "value" with results of '
                        '"input".'
                    ),
                ),
                io.String.Input(
                    "map_site",
                    default="",
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "Up to 4 sites, such as output.5.0, whose alignment is also kept for each place in the image. "
                        'Layout "map" of Stability Plot then shows where retrieval is unstable. Empty means none.'
                    ),
                ),
                unverified_widget(
                    tooltip=(
                        "Also measure where this pack cannot verify that queries and keys are the same tokens. That is "
                        "so in a model it does not know, and where another node changes queries and keys in an unknown "
                        "way (attn1_patch), for example to attend to another frame. When off, those calls are not "
                        "measured, and the trace says so."
                    )
                ),
                Baseline.Input(
                    "baseline",
                    optional=True,
                    tooltip=(
                        "The normal values of this model, from Stability Baseline (SAD). The live chart shows them "
                        "as a band."
                    ),
                ),
            ],
            outputs=[
                io.Model.Output(tooltip="The model for the sampler. It gives the same image."),
                Trace.Output(
                    "trace",
                    display_name="trace",
                    tooltip="Wire it to Stability Plot (SAD) or Save Stability Trace (SAD).",
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        blocks: str = "",
        every_nth_step: int = 1,
        depth_and_curvature: bool = False,
        patterns: str = "value",
        map_site: str = "",
        act_where_unverified: bool = False,
        baseline: StabilityBaseline | None = None,
    ) -> io.NodeOutput:
        """Return a clone of `model` with a probe, and the trace that its runs will fill."""
        settings = ProbeSettings(
            TRACE_MEASURES if depth_and_curvature else DEFAULT_MEASURES,
            every_nth_step,
            patterns,
            act_where_unverified=act_where_unverified,
            baseline=baseline,
        )
        return io.NodeOutput(*install_stability_probe(model, settings, blocks, map_site, cls.hidden.unique_id))
