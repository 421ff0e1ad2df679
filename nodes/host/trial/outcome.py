"""The results of an ended trial: its record, and the slider from its first part."""

from __future__ import annotations

import math
from pathlib import Path

from torch import Tensor

from ....sad_core.evaluation.calibration import FEWEST_IMAGES, Calibration, TooFarMoved, TooFewImages
from ....sad_core.evaluation.measures import DiversityReport, FeatureSpace
from ....sad_core.evaluation.trial.course import Found
from ....sad_core.evaluation.trial.result import Sampling, Trial
from ....sad_core.evaluation.trial.result_file import SUFFIX
from ....sad_core.whole_file import whole_file
from ..checkpoint import numbers_of
from ..patches.site_patch import model_name
from .sampling import Checkpoint, machine_of
from .source import notes_of

SHEET_SUFFIX, QUALITY = ".sheet.jpg", 92


def trial_of(found: Found, checkpoint: Checkpoint, sampling: Sampling, name: str) -> Trial:
    """Return the record of a trial.

    Args:
        found: what it gave.
        checkpoint: that was tried.
        sampling: how it was sampled.
        name: of the checkpoint, where the user gives it.
    """
    return found.as_trial(
        model_name(checkpoint.model.model),
        numbers_of(checkpoint.model),
        machine_of(checkpoint.model),
        sampling,
        name,
        notes_of(checkpoint),
    )


def calibration_of(trial: Trial, space: FeatureSpace, largest_drift: float) -> Calibration:
    """Return the slider that the first part of a trial gives, by the ways that turn only γ.

    Args:
        trial: that has ended.
        space: where its images were compared.
        largest_drift: how far the pictures of a γ of the slider may move, as root mean square difference of pixels.

    Raises:
        ValueError: it gives none; the sentence says why.
    """
    rows = sorted((each.row for each in trial.choice if each.way.turns_gamma_alone), key=lambda row: row.gamma)
    report = DiversityReport(tuple(rows), space)
    try:
        calibration = Calibration.of(report, largest_drift, model=trial.model, weights=trial.weights)
    except TooFewImages as few:  # a trial has no batch_size to raise
        listed = ", ".join(f"{gamma:g}" for gamma in few.gammas)
        raise ValueError(
            f"For every γ, a calibration needs {FEWEST_IMAGES} or more images that contain no NaN. There are fewer at "
            f"γ = {listed}."
        ) from few
    except TooFarMoved as far:  # its gammas are fixed
        raise ValueError(
            f"Every γ except 1 moved images further than largest_drift {far.largest_drift:g}. The smallest move was "
            f"{far.smallest:.3g}. Raise largest_drift."
        ) from far
    if any(math.isnan(point.diversity.value) for point in calibration.points):
        raise ValueError(
            "The slider cannot be made, because the diversity of some γ is not a number. Look at the images of every "
            "γ, and measure again with other settings or in float32."
        )
    return calibration


def save_sheet(sheet: Tensor, trial: Path) -> Path:
    """Write the sheet beside the file of its trial and return its path.

    The picture holds nothing else; the one that Save Image writes has the workflow in it, with prompts and file names.

    Args:
        sheet: a ComfyUI IMAGE, `(1, height, width, 3)` in [0, 1].
        trial: the path of the file of the trial.
    """
    from PIL import Image

    path = trial.with_name(trial.name.removesuffix(SUFFIX) + SHEET_SUFFIX)
    with whole_file(path) as unfinished:
        Image.fromarray((sheet[0] * 255).round().byte().cpu().numpy(), "RGB").save(unfinished, "JPEG", quality=QUALITY)
    return path
