"""Reject inputs that cannot be sampled row by row, and prepare the LATENT that every candidate starts from."""

from __future__ import annotations

from typing import Any

import comfy.sample
import comfy.samplers

# Samplers whose rows are not independent of each other, and why, by the name of their function.
NOT_BY_ROW = {
    "dpm_adaptive_function": "dpm_adaptive chooses its steps for all images of a batch together",
    "sample_ar_video": "ar_video stores results of the whole batch",
}


def check_by_row(guider: Any, sampler: Any) -> None:
    """Refuse what cannot be sampled row by row.

    Raises:
        ValueError: such a guider or sampler, or a control image for each image of a batch.
    """
    if not isinstance(guider, comfy.samplers.CFGGuider):
        raise ValueError(
            f"A guider of the class {type(guider).__name__} is not built on ComfyUI's CFGGuider, so its model calls "
            "cannot be followed. Wire CFGGuider, BasicGuider or another guider that is built on CFGGuider."
        )
    function = getattr(getattr(sampler, "sampler_function", None), "__name__", "")
    if function in NOT_BY_ROW:
        raise ValueError(
            f"{NOT_BY_ROW[function]}, so an image would depend on the others in its batch. Choose another sampler."
        )
    for conditionings in guider.original_conds.values():
        for conditioning in conditionings:
            control = conditioning.get("control")
            while control is not None:
                hint = getattr(control, "cond_hint_original", None)
                if hint is not None and len(hint) > 1:
                    raise ValueError(
                        f"A ControlNet has {len(hint)} control images, but every candidate is a single image. Give it "
                        "one control image."
                    )
                control = getattr(control, "previous_controlnet", None)


def of_one_image(guider: Any, latent: dict[str, Any]) -> dict[str, Any]:
    """Return a LATENT of one image in the form that the model needs.

    Raises:
        ValueError: it holds several images.
    """
    samples = latent["samples"]
    count = len(samples.unbind()[0]) if samples.is_nested else len(samples)
    if count != 1:
        raise ValueError(
            f'"latent_image" holds {count} images, but every candidate starts from the same one. Give a latent of one '
            'image. "candidates" on this node sets the number of seeds.'
        )
    ratios = {name: each for name, each in latent.items() if name.startswith("downscale_ratio_")}
    return {**latent, "samples": comfy.sample.fix_empty_latent_channels(guider.model_patcher, samples, **ratios)}
