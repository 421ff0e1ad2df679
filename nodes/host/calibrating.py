"""From the MODELs of a sweep to what they share, and from a calibration to the settings of a position."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP

from ...sad_core import GammaSchedule
from ...sad_core.evaluation.calibration import Calibration, Setting
from ...sad_core.evaluation.calibration_file import SUFFIX, load_calibration
from .apply import choose_sites
from .checkpoint import are_the_same, numbers_of
from .patches.side_runs import KEY
from .patches.site_patch import model_name
from .patches.skew_patch import SkewPatch
from .settings import SkewSettings

LOWEST, HIGHEST = 0.9, 1.5  # γ at both ends of a slider that nobody has calibrated
SHIPPED = Path(__file__).resolve().parents[2] / "calibrations"


def swept(models: Sequence[ModelPatcher]) -> tuple[SkewSettings | None, str, tuple[float, ...]]:
    """Return what the runs of a sweep had in common beside γ: the settings, the model's name, some of its weights.

    The settings are None where no run had a patch, as those of γ = 1.

    Raises:
        ValueError: two nodes on one MODEL, runs with different settings, or settings that a slider does not turn.
    """
    found: SkewSettings | None = None
    for model in models:
        patches = [wrapper.__self__ for wrapper in model.get_wrappers(WrappersMP.OUTER_SAMPLE, KEY)]
        skews = [patch for patch in patches if isinstance(patch, SkewPatch)]
        if not skews:
            continue
        if len(skews) > 1:
            raise ValueError(
                "The MODEL of the sweep went through several Skew Attention (SAD) nodes, but a slider sets only one. "
                "Calibrate with one."
            )
        (patch,) = skews
        own = patch.settings
        every, _, _ = choose_sites(model, "", "Calibrate (SAD)", own.act_where_unverified)
        is_whole = {site.address for site in patch.sites} == {site.address for site in every}
        low, high = own.gamma_schedule.gamma_range
        plain = (own.adaptive, own.apply_to, own.norm, own.is_modal, own.mask) == ("off", "both", "value", False, None)
        if low != high or not plain or not is_whole:
            raise ValueError(
                "A slider sets gamma and takes beta, start_percent and end_percent from the sweep, so the Skew "
                "Attention (SAD) of the sweep must have nothing else set: no schedule, no mask, adaptive off, norm "
                "value, blocks empty, apply_to both."
            )
        if found is not None and (found.beta, found.start, found.end) != (own.beta, own.start, own.end):
            raise ValueError(
                "The runs of the sweep differ in beta, start_percent or end_percent. A sweep must change only gamma."
            )
        found = own
    if not models:
        raise ValueError("No MODEL is wired. Wire the one that Skew Attention (SAD) gives to the sampler of the sweep.")
    return found, model_name(models[0].model), numbers_of(models[0])


def check_checkpoint(calibration: Calibration, model: ModelPatcher) -> None:
    """Refuse a calibration of another checkpoint.

    Raises:
        ValueError: naming both models.
    """
    name = model_name(model.model)
    if calibration.model != name:
        raise ValueError(
            f"The calibration was made with {calibration.model}, but the MODEL is {name}. Calibrate this checkpoint, "
            "or choose no calibration."
        )
    if not are_the_same(calibration.weights, numbers_of(model)):
        raise ValueError(
            f"The calibration was made with another checkpoint of the class {name}. Calibrate this one, or choose no "
            "calibration."
        )


def shipped_calibration(model: ModelPatcher) -> Calibration | None:
    """Return the calibration of this checkpoint that ships with the pack; None for all other checkpoints."""
    name, weights = model_name(model.model), numbers_of(model)
    for path in sorted(SHIPPED.glob(f"*{SUFFIX}")):
        calibration = load_calibration(path)
        if weights and calibration.model == name and are_the_same(calibration.weights, weights):
            return calibration
    return None


def settings_at(position: float, calibration: Calibration | None) -> tuple[SkewSettings, Setting | None]:
    """Return the settings of a position of the slider, and what was measured there; None without a calibration.

    Args:
        position: −1, most precise, to 1, most creative.
        calibration: of this checkpoint, or None for the default range.

    Raises:
        ValueError: a position outside.
    """
    if not -1 <= position <= 1:
        raise ValueError(f"position is {position}, but it must be a number from -1 to 1.")
    if calibration is None:
        gamma = 1 + position * (HIGHEST - 1 if position > 0 else 1 - LOWEST)
        return SkewSettings(GammaSchedule.from_preset("constant", round(gamma, 4))), None
    found = calibration.at(position)
    schedule = GammaSchedule.from_preset("constant", found.gamma)
    return SkewSettings(schedule, beta=calibration.beta, start=calibration.start, end=calibration.end), found
