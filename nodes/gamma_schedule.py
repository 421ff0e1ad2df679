"""The node that makes γ a function of the progress of the run: Gamma Schedule (SAD)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from comfy_api.latest import io

from .host.progress import steps_of_run
from .plots.schedule import draw_schedule
from .schedule_shapes import (
    DEFAULT_CURVE,
    DEFAULT_END,
    DEFAULT_KEYFRAMES,
    DEFAULT_SHAPE,
    DEFAULT_START,
    DEFAULT_VALUES,
    HIGHEST_OF_CURVE,
    LOWEST_OF_CURVE,
    SHAPES,
    make_schedule,
)
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
                "Changes gamma over the sampling run. The curve follows the noise level, so image to image, split "
                "samplers and multi-step samplers all see the same curve. Early steps usually decide the "
                "composition, late ones the detail."
            ),
            search_aliases=SEARCH_ALIASES,
            inputs=[
                io.Combo.Input(
                    "shape",
                    options=list(SHAPES),
                    default=DEFAULT_SHAPE,
                    optional=True,
                    tooltip=(
                        "constant: start_gamma throughout. linear, cosine, ease…: from start_gamma to end_gamma "
                        "between start and end. window: start_gamma between start and end, 1 outside. keyframes, "
                        "curve, values: from the field of that name."
                    ),
                ),
                gamma_widget(
                    "start_gamma",
                    default=DEFAULT_START,
                    optional=True,
                    tooltip="Gamma at the start. 1 changes nothing.",
                ),
                gamma_widget(
                    "end_gamma", default=DEFAULT_END, optional=True, tooltip="Gamma at the end. 1 changes nothing."
                ),
                progress_widget(
                    "start",
                    default=0.0,
                    optional=True,
                    tooltip="Where in the run the shape starts, from 0 (pure noise) to 1 (finished image).",
                ),
                progress_widget(
                    "end",
                    default=1.0,
                    optional=True,
                    tooltip="Where in the run the shape ends, from 0 (pure noise) to 1 (finished image).",
                ),
                io.String.Input(
                    "keyframes",
                    default=DEFAULT_KEYFRAMES,
                    optional=True,
                    advanced=True,
                    tooltip='For shape "keyframes": progress:gamma pairs in rising order, joined by straight lines.',
                ),
                gamma_widget(
                    "curve_min",
                    default=LOWEST_OF_CURVE,
                    optional=True,
                    tooltip="Gamma at the bottom of the drawn curve.",
                    advanced=True,
                ),
                gamma_widget(
                    "curve_max",
                    default=HIGHEST_OF_CURVE,
                    optional=True,
                    tooltip="Gamma at the top of the drawn curve.",
                    advanced=True,
                ),
                io.MultiType.Input(
                    io.String.Input("values", default=DEFAULT_VALUES),
                    types=[io.Float],
                    optional=True,
                    advanced=True,
                    tooltip='For shape "values": gammas spread evenly over the run, as text or a wired list of FLOAT.',
                ),
                # Behind values, although it belongs to curve_min: graphs that were saved while only the curve was
                # optional have its value here.
                io.Curve.Input(
                    "curve",
                    default=list(DEFAULT_CURVE),
                    optional=True,
                    socketless=False,
                    advanced=True,
                    tooltip='For shape "curve": drawn here or wired. The bottom is curve_min, the top is curve_max.',
                ),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="Wire it together with sigmas to mark the real steps in the picture.",
                ),
                io.Sigmas.Input(
                    "sigmas",
                    optional=True,
                    tooltip="Wire it together with a model to mark the real steps in the picture.",
                ),
            ],
            outputs=[
                Schedule.Output("schedule", display_name="schedule", tooltip="Wire it to Skew Attention (SAD)."),
                io.Image.Output("picture", display_name="picture", tooltip="The curve as it will be applied."),
            ],
        )

    @classmethod
    def execute(
        cls,
        shape: str = DEFAULT_SHAPE,
        start_gamma: float = DEFAULT_START,
        end_gamma: float = DEFAULT_END,
        start: float = 0.0,
        end: float = 1.0,
        keyframes: str = DEFAULT_KEYFRAMES,
        curve_min: float = LOWEST_OF_CURVE,
        curve_max: float = HIGHEST_OF_CURVE,
        values: str | Sequence[float] | float = DEFAULT_VALUES,
        curve: Any = DEFAULT_CURVE,
        model: Any = None,
        sigmas: Any = None,
    ) -> io.NodeOutput:
        """Return the schedule of the chosen shape and its plot `(1, height, width, 3)`."""
        schedule = make_schedule(
            shape, start_gamma, end_gamma, start, end, keyframes, curve, curve_min, curve_max, values
        )
        steps = None if model is None or sigmas is None else steps_of_run(model, sigmas)
        return io.NodeOutput(schedule, draw_schedule(schedule, steps))
