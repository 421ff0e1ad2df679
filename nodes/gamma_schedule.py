"""The node that makes γ a function of the progress of the run: Gamma Schedule (SAD)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from comfy_api.latest import io

from .host.progress import steps_of_run
from .plots.schedule import draw_schedule
from .schedule_shapes import SHAPES, make_schedule
from .shared import CATEGORY, SEARCH_ALIASES, Schedule, gamma_widget, progress_widget


class GammaScheduleNode(io.ComfyNode):
    """A named shape, keyframes, a drawn curve or a list of values in, SAD_SCHEDULE and its plot out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Widgets, sockets and what they mean."""
        return io.Schema(
            node_id="SADGammaSchedule",
            display_name="Gamma Schedule (SAD)",
            category=CATEGORY,
            description=(
                "Gamma over the sampling run, by the progress of the noise level: image to image, split samplers and "
                "multi-step samplers all see the same curve. Early steps decide composition, late ones detail."
            ),
            search_aliases=SEARCH_ALIASES,
            inputs=[
                io.Combo.Input(
                    "shape",
                    options=list(SHAPES),
                    default="linear",
                    tooltip=(
                        "constant: start_gamma all along. linear, cosine, ease…: from start_gamma to end_gamma between "
                        "start and end. window: start_gamma between start and end, 1 outside. keyframes, curve, "
                        "values: from the field of that name."
                    ),
                ),
                gamma_widget("start_gamma", default=1.2, tooltip="Gamma at the start; 1 changes nothing."),
                gamma_widget("end_gamma", default=1.0, tooltip="Gamma at the end; 1 changes nothing."),
                progress_widget("start", default=0.0, tooltip="Where the shape starts: 0 is pure noise."),
                progress_widget("end", default=1.0, tooltip="Where the shape ends: 1 is the finished image."),
                io.String.Input(
                    "keyframes",
                    default="0:1, 0.3:1.05, 1:1",
                    advanced=True,
                    tooltip='For shape "keyframes": progress:gamma pairs in rising order, joined by straight lines.',
                ),
                io.Curve.Input(
                    "curve",
                    optional=True,
                    socketless=False,
                    advanced=True,
                    tooltip='For shape "curve": drawn here or wired; bottom is curve_min, top is curve_max.',
                ),
                gamma_widget(
                    "curve_min", default=0.5, tooltip="Gamma at the bottom of the drawn curve.", advanced=True
                ),
                gamma_widget("curve_max", default=1.5, tooltip="Gamma at the top of the drawn curve.", advanced=True),
                io.MultiType.Input(
                    io.String.Input("values", default="1, 1.05, 1.2, 1.05, 1"),
                    types=[io.Float],
                    advanced=True,
                    tooltip='For shape "values": gammas spread evenly over the run, as text or a wired list of FLOAT.',
                ),
                io.Model.Input("model", optional=True, tooltip="With sigmas: marks the real steps in the picture."),
                io.Sigmas.Input("sigmas", optional=True, tooltip="With a model: marks the real steps in the picture."),
            ],
            outputs=[
                Schedule.Output("schedule", display_name="schedule", tooltip="For Skew Attention (SAD)."),
                io.Image.Output("picture", display_name="picture", tooltip="The curve as it will be applied."),
            ],
        )

    @classmethod
    def execute(
        cls,
        shape: str,
        start_gamma: float,
        end_gamma: float,
        start: float,
        end: float,
        keyframes: str = "",
        curve: Any = None,
        curve_min: float = 0.5,
        curve_max: float = 1.5,
        values: str | Sequence[float] | float = "",
        model: Any = None,
        sigmas: Any = None,
    ) -> io.NodeOutput:
        """Return the schedule of the chosen shape and its plot `(1, height, width, 3)`."""
        schedule = make_schedule(
            shape, start_gamma, end_gamma, start, end, keyframes, curve, curve_min, curve_max, values
        )
        steps = None if model is None or sigmas is None else steps_of_run(model, sigmas)
        return io.NodeOutput(schedule, draw_schedule(schedule, steps))
