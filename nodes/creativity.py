"""The slider between precise and creative: Creativity (SAD)."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..sad_core.evaluation.calibration_file import SUFFIX, load_calibration
from .calibration_texts import describe_position
from .host.apply import install_skew_attention
from .host.browser import show_on_node
from .host.calibrating import check_checkpoint, settings_at, shipped_calibration
from .host.output_folder import existing_file, files_below
from .host.run_report import CREATIVITY
from .saved_files import ReadsSavedFile
from .shared import CATEGORY, SEARCH_ALIASES, Report

NONE = "no calibration"


class CreativityNode(ReadsSavedFile, io.ComfyNode):
    """MODEL in, MODEL with the γ of a position of the slider out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Widgets, sockets and what they mean; the list of files is that of the moment."""
        return io.Schema(
            node_id="SADCreativity",
            display_name=CREATIVITY,
            category=CATEGORY,
            description=(
                "One slider from precise (seeds more alike) to creative (seeds more different). Calibrate (SAD) "
                "calibrates it on your own checkpoint, so that each position means a share of the diversity measured "
                "there. 0 is the unpatched model, bit for bit."
            ),
            search_aliases=[*SEARCH_ALIASES, "slider", "creative", "precise"],
            not_idempotent=True,  # the patch knows the id of its node
            inputs=[
                io.Model.Input("model"),
                io.Float.Input(
                    "position",
                    default=0.5,
                    min=-1.0,
                    max=1.0,
                    step=0.05,
                    round=0.001,
                    display_mode=io.NumberDisplay.slider,
                    optional=True,
                    tooltip=(
                        "-1 is the least diverse setting of the calibration, 1 the most diverse. 0 is the unpatched "
                        "model. Halfway means half of the measured difference in diversity."
                    ),
                ),
                io.Combo.Input(
                    "file",
                    options=[NONE, *(name for _, name in files_below(SUFFIX))],
                    default=NONE,
                    optional=True,
                    tooltip=(
                        "A calibration of this checkpoint, saved by Calibrate (SAD) or Measure Your Checkpoint (SAD) "
                        "in ComfyUI's output folder. Refresh the node definitions (R) to see new ones. Without one "
                        "the slider goes from gamma 0.9 to 1.5, and nobody has measured its effect on your "
                        "checkpoint. A calibration of the demo model comes with the pack and needs no file."
                    ),
                ),
            ],
            outputs=[
                io.Model.Output(tooltip="The patched model, for the sampler."),
                io.String.Output(
                    "text", display_name="text", tooltip="The meaning of the position on this checkpoint."
                ),
                Report.Output(
                    "report", display_name="report", tooltip="Wire it to Report (SAD) to read what really happened."
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, model: Any, position: float = 0.5, file: str = NONE) -> io.NodeOutput:
        """Return a patched clone of `model`, what the position means or why it means nothing, and the report handle.

        Raises:
            ValueError: a file that is no calibration, or one of another checkpoint.
        """
        if file == NONE:
            calibration = shipped_calibration(model)
        else:
            calibration = load_calibration(existing_file(file))
            check_checkpoint(calibration, model)
        settings, found = settings_at(position, calibration)
        patched, report = install_skew_attention(model, settings, node=CREATIVITY)
        text = describe_position(position, settings, found, calibration)
        if file == NONE and calibration is not None:
            text += " The calibration comes with the pack."
        if report.neutral and not settings.is_neutral:  # a model that no rule knows
            text = report.plan
        show_on_node(text, cls.hidden.unique_id)
        return io.NodeOutput(patched, text, report)
