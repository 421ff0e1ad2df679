"""ComfyUI's CLIP vision models: pictures as the numbers they give, and the text they can be compared with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import comfy.model_management
import comfy.utils
import torch
from torch import Tensor

from .memory import is_out_of_memory

AT_ONCE = 8  # pictures; halved as long as they do not fit
# Hidden width of a vision tower and width of its embedding, and how wide the tokens of the text encoder trained with it
# are in a CONDITIONING whose pooled text is projected into the shared space. That of CLIP-L is not, so it is left out.
TRAINED_TOGETHER = {
    (1664, 1280): (2048, 1280),  # OpenCLIP ViT-bigG/14: SDXL and its refiner
    (1280, 1024): (1024,),  # OpenCLIP ViT-H/14: SD2
}


def describe(clip_vision: Any) -> str:
    """The feature space of a CLIP vision model in a few words without a comma."""
    config = getattr(clip_vision, "config", {})
    side = getattr(clip_vision, "image_size", 0)
    width = config.get("hidden_size", "?")
    size = f"centre square at {side} px" if side > 0 else "whole image"
    return f"image embeddings of the CLIP vision model ({config.get('model_type', 'unknown')}; hidden {width}; {size})"


@torch.no_grad()
def embed(clip_vision: Any, pictures: Sequence[Tensor], *, shows_progress: bool = True) -> Tensor:
    """The image embeddings `(n, d)` of pictures `(h, w, 3)`, float32 on the CPU.

    Models that give one for every patch, as SigLIP's do, are averaged over the patches. Pictures are encoded a few at a
    time, fewer where memory runs out, and a user can stop it.
    """
    bar = comfy.utils.ProgressBar(len(pictures)) if shows_progress else None
    found: list[Tensor] = []
    at_once = AT_ONCE
    while len(found) < len(pictures):
        comfy.model_management.throw_exception_if_processing_interrupted()
        chunk = torch.stack(list(pictures[len(found) : len(found) + at_once]))
        try:
            embeddings = clip_vision.encode_image(chunk)["image_embeds"]
        except Exception as error:
            if at_once == 1 or not is_out_of_memory(error):
                raise
            at_once //= 2
            comfy.model_management.soft_empty_cache()
            continue
        if embeddings.dim() > 2:
            embeddings = embeddings.flatten(1, -2).mean(dim=1)
        found.extend(embeddings.float().cpu())
        if bar is not None:
            bar.update_absolute(len(found))
    return torch.stack(found)


def prompt_beside(conditionings: Sequence[Any], clip_vision: Any, width: int) -> Tensor | str:
    """The pooled text `(width,)` that lies in the space of the image embeddings, or a sentence on why there is none.

    Args:
        conditionings: every CONDITIONING that came in.
        clip_vision: the model of the embeddings, or None.
        width: of the embeddings.
    """
    if clip_vision is None:
        return "Agreement with the prompt needs a CLIP_VISION, and none is wired."
    entries = [entry for conditioning in conditionings for entry in conditioning]
    if len(entries) != 1:
        return "Agreement with the prompt was not measured, because conditioning holds more than one prompt, or none."
    tokens, extra = entries[0]
    pooled = extra.get("pooled_output")
    if pooled is None or len(pooled) != 1 or not pooled.any():
        return "Agreement with the prompt was not measured, because conditioning has no pooled text."
    config = getattr(clip_vision, "config", {})
    is_clip = config.get("model_type", "clip_vision_model") == "clip_vision_model"
    text_widths = TRAINED_TOGETHER.get((config.get("hidden_size", 0), width), ()) if is_clip else ()
    if pooled.shape[-1] != width or tokens.shape[-1] not in text_widths:
        return (
            "Agreement with the prompt was not measured, because this text encoder and this CLIP vision model are "
            f"not known to share an embedding space (pooled text {pooled.shape[-1]} wide, image embeddings {width}). "
            "Use CLIP vision bigG with SDXL and CLIP vision H with SD2."
        )
    text: Tensor = pooled[0]
    return text.float().cpu()
