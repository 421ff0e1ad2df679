"""The node that tries one's own checkpoint: Measure Your Checkpoint (SAD)."""

from __future__ import annotations

from functools import partial
from typing import Any

from comfy_api.latest import io

from ..sad_core.evaluation.calibration_file import SUFFIX as CALIBRATION_SUFFIX
from ..sad_core.evaluation.calibration_file import save_calibration
from ..sad_core.evaluation.measures import PIXELS
from ..sad_core.evaluation.trial.course import Course
from ..sad_core.evaluation.trial.plan import FEWEST_SEEDS, MOST_MINUTES, MOST_SEEDS, SEEDS_A_PROMPT
from ..sad_core.evaluation.trial.prompts import PROMPTS, read_prompts
from ..sad_core.evaluation.trial.result import Sampling
from ..sad_core.evaluation.trial.result_file import LONGEST_TEXT, SUFFIX, save_trial, title_of
from ..sad_core.evaluation.trial.ways import LADDER
from ..sad_core.evaluation.trial.words import summary_of, table_of
from .diversity_report import space_of
from .host.browser import show_on_node
from .host.output_folder import new_file
from .host.trial.outcome import calibration_of, save_sheet, trial_of
from .host.trial.prompts import encoders_of, negative_of, texts_beside
from .host.trial.sampling import SAMPLERS, SCHEDULERS, Checkpoint, check_model, latent_of_one
from .host.trial.shelf import shelf_of
from .host.trial.source import PictureSource, rivals_of
from .plots.sheet import draw_sheet
from .shared import CATEGORY, SWEEP_ALIASES, clip_vision_input, unverified_widget

PREFIX = "trial/own"


class MeasureCheckpointNode(io.ComfyNode):
    """A checkpoint and a budget of minutes in, the γ that was best on it and what it cost out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Widgets, sockets and what they mean."""
        return io.Schema(
            node_id="SADMeasureCheckpoint",
            display_name="Measure Your Checkpoint (SAD)",
            category=CATEGORY,
            description=(
                "Tests gamma on your own checkpoint, within the minutes you allow. It samples gamma 1 and several "
                "other gammas with the same seeds. It chooses the one whose seeds differ most without signs of "
                "damage. Then it measures that gamma on other seeds, together with two other methods that vary images. "
                "You get a sheet of images, a table with intervals, a calibration for the slider of Creativity (SAD), "
                "and a file of numbers that you can send to this project."
            ),
            search_aliases=[*SWEEP_ALIASES, "benchmark", "checkpoint", "try", "calibrate"],
            is_output_node=True,
            not_idempotent=True,  # it says on the node that ran what it found
            inputs=[
                io.Model.Input(
                    "model", tooltip="The checkpoint, with or without LoRAs, but without Skew Attention (SAD)."
                ),
                io.Vae.Input("vae", tooltip="Decodes the images."),
                io.Latent.Input("latent_image", tooltip="An empty latent of one image, in the size you use."),
                io.Clip.Input(
                    "clip", optional=True, tooltip="Encodes the prompts. Not needed if positive and negative are wired."
                ),
                io.Conditioning.Input(
                    "positive", optional=True, tooltip="One prompt of your own, in place of the list in prompts."
                ),
                io.Conditioning.Input(
                    "negative", optional=True, tooltip="The negative prompt. Without it, clip encodes an empty one."
                ),
                clip_vision_input(),
                io.Float.Input(
                    "minutes",
                    default=15.0,
                    min=0.1,
                    max=MOST_MINUTES,
                    step=1.0,
                    round=0.1,
                    optional=True,
                    tooltip=(
                        "The time that the trial may take. The node times the first images, then says how many seeds "
                        "it plans. If you allow more minutes later, it reuses the images it already has."
                    ),
                ),
                io.Int.Input("steps", default=20, min=1, max=10000, optional=True, tooltip="As in your KSampler."),
                io.Float.Input(
                    "cfg",
                    default=7.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    round=0.01,
                    optional=True,
                    tooltip="As in your KSampler. 1 for turbo and guidance-distilled models.",
                ),
                io.Combo.Input(
                    "sampler_name",
                    options=list(SAMPLERS),
                    default="euler",
                    optional=True,
                    tooltip="As in your KSampler, except dpm_adaptive.",
                ),
                io.Combo.Input(
                    "scheduler",
                    options=list(SCHEDULERS),
                    default="normal",
                    optional=True,
                    tooltip="As in your KSampler.",
                ),
                io.String.Input(
                    "prompts",
                    default="",
                    multiline=True,
                    optional=True,
                    tooltip=(
                        f"One prompt per line. Empty means {len(PROMPTS)} short prompts that come with this pack, "
                        "about people, places, things and styles. Each gets four or more seeds, so a short trial uses "
                        "only the first prompts."
                    ),
                ),
                io.Int.Input(
                    "first_seed",
                    default=0,
                    min=0,
                    max=2**53 - 1,
                    optional=True,
                    tooltip="The seed of the first image. The next ones count up from it.",
                ),
                io.Int.Input(
                    "most_seeds",
                    default=MOST_SEEDS,
                    min=FEWEST_SEEDS,
                    max=MOST_SEEDS,
                    step=SEEDS_A_PROMPT,
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "The trial ends early when every setting has this many seeds. 4 gives a quick look, but is "
                        "too few to show small changes."
                    ),
                ),
                io.Int.Input(
                    "images_at_once",
                    default=4,
                    min=1,
                    max=64,
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "The largest number of images in one model call. Above 4 nothing changes, because the node "
                        "samples four seeds of a prompt together. If memory runs out, it samples fewer at once."
                    ),
                ),
                io.Float.Input(
                    "largest_drift",
                    default=0.3,
                    min=0.001,
                    max=1.0,
                    step=0.01,
                    round=0.001,
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "For the slider: how far images may move from those of gamma 1 with the same seed (root mean "
                        "square difference of pixel values from 0 to 1). The slider leaves out gammas that move them "
                        "further. The rest of the measurement does not use this limit."
                    ),
                ),
                io.String.Input(
                    "name",
                    default="",
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "The name of your checkpoint in the file. If it is empty, the file names only the class of "
                        "the model."
                    ),
                ),
                io.Boolean.Input(
                    "tell_prompts",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip="Put your prompts into the file of numbers. That file never holds a path or an image.",
                ),
                io.String.Input(
                    "filename_prefix",
                    default=PREFIX,
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "Folder and file-name prefix, inside ComfyUI's output folder. The images are kept there "
                        "too, so that a cancelled trial can go on. Delete them when you are done."
                    ),
                ),
                unverified_widget(
                    "Also try gamma on a model that this pack does not know, if its code reaches ComfyUI's attention."
                ),
            ],
            outputs=[
                io.Image.Output(
                    "sheet",
                    display_name="sheet",
                    tooltip="Gamma 1 above and the chosen gamma below, with the same seeds.",
                ),
                io.String.Output(
                    "table",
                    display_name="table",
                    tooltip="CSV: a line for each setting, every measure with the ends of its 95 % interval.",
                ),
                io.String.Output(
                    "summary",
                    display_name="summary",
                    tooltip="The differences from gamma 1, which of them are significant, and the cost.",
                ),
                io.String.Output("file", display_name="file", tooltip="The name of the file of numbers."),
                io.String.Output(
                    "calibration",
                    display_name="calibration",
                    tooltip=(
                        "The name of the calibration file, for the slider of Creativity (SAD). Empty if no calibration "
                        "was made."
                    ),
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        vae: Any,
        latent_image: dict[str, Any],
        clip: Any = None,
        positive: Any = None,
        negative: Any = None,
        clip_vision: Any = None,
        minutes: float = 15.0,
        steps: int = 20,
        cfg: float = 7.0,
        sampler_name: str = "euler",
        scheduler: str = "normal",
        prompts: str = "",
        first_seed: int = 0,
        most_seeds: int = MOST_SEEDS,
        images_at_once: int = 4,
        largest_drift: float = 0.3,
        name: str = "",
        tell_prompts: bool = False,
        filename_prefix: str = PREFIX,
        act_where_unverified: bool = False,
    ) -> io.NodeOutput:
        """Return the sheet, the table, the summary and the names of both files.

        Raises:
            ValueError: γ cannot act on the model, something does not fit, or the minutes are too few.
        """
        check_model(model, act_where_unverified)
        folder = new_file(filename_prefix, SUFFIX)[0].parent
        latent = latent_of_one(model, latent_image, sampler_name)
        texts = () if positive is not None else read_prompts(prompts)
        encoders = encoders_of(clip, positive, texts)
        checkpoint = Checkpoint(
            model,
            vae,
            latent,
            negative_of(clip, negative),
            steps,
            cfg,
            sampler_name,
            scheduler,
            min(images_at_once, SEEDS_A_PROMPT),
            act_where_unverified,
        )
        tell = partial(show_on_node, node_id=cls.hidden.unique_id)
        space = PIXELS if clip_vision is None else space_of(clip_vision)
        source = PictureSource(checkpoint, encoders, shelf_of(checkpoint, folder))
        rivals, left_out = rivals_of(checkpoint)
        course = Course(
            source,
            len(encoders),
            first_seed,
            minutes,
            space,
            lambda prompts, width: texts_beside(clip_vision, source.conditionings[:prompts], width),
            tell,
            most_seeds,
            LADDER,
            rivals,
            left_out,
        )
        tell(
            f"The first {SEEDS_A_PROMPT} seeds are sampled at γ 1 and {len(LADDER)} other settings of γ. The node "
            f"times these images, then plans how to use the {minutes:g} minutes."
        )
        try:
            found = course.run()
        except ValueError as reason:
            tell(str(reason))
            raise
        sampling = Sampling(
            *found.size,
            steps,
            cfg,
            title_of(sampler_name),
            title_of(scheduler),
            found.prompts,
            texts == PROMPTS,
            tuple(text[:LONGEST_TEXT] for text in texts[: found.prompts]) if tell_prompts else (),
        )
        trial = trial_of(found, checkpoint, sampling, name)
        path, file = new_file(filename_prefix, SUFFIX)
        save_trial(trial, path)
        summary = summary_of(trial)
        calibration = ""
        try:
            slider = calibration_of(trial, space, largest_drift)
        except ValueError as reason:
            summary += f"\nNo calibration was made. {reason}"
        else:
            calibration = file.removesuffix(SUFFIX) + CALIBRATION_SUFFIX
            save_calibration(slider, path.with_name(path.name.removesuffix(SUFFIX) + CALIBRATION_SUFFIX))
        rows = {"γ 1": found.sheet[0], found.chosen.name: found.sheet[1]}
        sheet = draw_sheet(rows, f"{trial.name or trial.model}, the same seeds in both rows")
        picture = save_sheet(sheet, path)
        show_on_node(f"{summary}\nSaved as {file}, with the sheet {picture.name} beside it.", cls.hidden.unique_id)
        return io.NodeOutput(sheet, table_of(trial), summary, file, calibration)
