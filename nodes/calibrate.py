"""The node that calibrates the slider of a checkpoint by a sweep: Calibrate (SAD)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..sad_core.evaluation.calibration import Calibration
from ..sad_core.evaluation.calibration_file import SUFFIX, save_calibration
from .calibration_texts import describe_calibration
from .diversity_report import measure
from .host.browser import show_on_node
from .host.calibrating import swept
from .host.output_folder import new_file
from .shared import CATEGORY, SWEEP_ALIASES, clip_vision_input, sweep_inputs

PREFIX = "calibration/own"


class CalibrateNode(io.ComfyNode):
    """The images, the gammas and the MODELs of a sweep in, a file for Creativity (SAD) out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Widgets, sockets and what they mean."""
        return io.Schema(
            node_id="SADCalibrate",
            display_name="Calibrate (SAD)",
            category=CATEGORY,
            description=(
                "Makes the slider of Creativity (SAD) for your own checkpoint. A sweep over gamma shows how diverse "
                "images get and how far they move, and the slider divides the measured range evenly. Use 8 or more "
                "seeds of each gamma, and gammas on both sides of 1."
            ),
            search_aliases=[*SWEEP_ALIASES, "calibration", "slider", "creativity"],
            is_input_list=True,
            is_output_node=True,
            not_idempotent=True,  # it says on the node that ran what it saved
            inputs=[
                *sweep_inputs(
                    "The images of the sweep. Every gamma needs the same seeds, in one batch or in several runs."
                ),
                io.Model.Input(
                    "model", tooltip="The MODEL that Skew Attention (SAD) gives to the sampler of the sweep."
                ),
                clip_vision_input(),
                io.Float.Input(
                    "largest_drift",
                    default=0.2,
                    min=0.001,
                    max=1.0,
                    step=0.01,
                    round=0.001,
                    optional=True,
                    tooltip=(
                        "How far images may move from those of gamma 1 with the same seed (root mean square "
                        "difference of pixel values from 0 to 1). The slider leaves out gammas that move them further."
                    ),
                ),
                io.String.Input(
                    "filename_prefix",
                    default=PREFIX,
                    optional=True,
                    tooltip="Folder and file-name prefix, inside ComfyUI's output folder. A number is added.",
                ),
            ],
            outputs=[
                io.String.Output(
                    "file",
                    display_name="file",
                    tooltip="The name of the calibration file, for the slider of Creativity (SAD).",
                ),
                io.String.Output(
                    "summary", display_name="summary", tooltip="The measurements, and the two ends of the slider."
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        images: Sequence[Tensor],
        gamma: Sequence[float],
        model: Sequence[Any],
        clip_vision: Sequence[Any] = (),
        largest_drift: Sequence[float] = (0.2,),
        filename_prefix: Sequence[str] = (PREFIX,),
    ) -> io.NodeOutput:
        """Return the name of the file and the summary, from one batch `(B, h, w, 3)` a run.

        Raises:
            ValueError: a sweep that no slider can be made of, or a name that leads out of the output folder.
        """
        settings, name, weights = swept(model)
        report = measure(images, gamma, clip_vision)
        calibration = Calibration.of(
            report,
            largest_drift[0],
            beta=1.0 if settings is None else settings.beta,
            start=0.0 if settings is None else settings.start,
            end=1.0 if settings is None else settings.end,
            model=name,
            weights=weights,
        )
        path, file = new_file(filename_prefix[0], SUFFIX)
        save_calibration(calibration, path)
        summary = describe_calibration(calibration)
        show_on_node(f"{summary}\nSaved as {file}.", cls.hidden.unique_id)
        return io.NodeOutput(file, summary)
