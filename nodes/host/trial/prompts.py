"""The prompts of a trial as CONDITIONINGs, and as texts in the space of a CLIP vision model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..clip_vision import prompt_beside


def encoders_of(clip: Any, positive: Any, texts: Sequence[str]) -> list[Callable[[], Any]]:
    """Return what gives the CONDITIONING of each prompt: of the wired one, or of the texts.

    Raises:
        ValueError: neither is wired.
    """
    if positive is not None:
        return [lambda: positive]
    if clip is None:
        raise ValueError("Nothing says what to draw: wire clip for the prompts, or positive for one prompt.")
    return [partial(_encoded, clip, text) for text in texts]


def negative_of(clip: Any, negative: Any) -> Any:
    """Return the negative CONDITIONING: the wired one, or that of an empty text.

    Raises:
        ValueError: neither is wired.
    """
    if negative is not None:
        return negative
    if clip is None:
        raise ValueError("The negative prompt is missing: wire negative, or clip for an empty one.")
    return _encoded(clip, "")


def texts_beside(clip_vision: Any, conditionings: Sequence[Any], width: int) -> Tensor | str:
    """Return the texts of prompts in the space of a vision model `(prompts, width)`, or a sentence on why not.

    The sentence is empty where there is no vision model, which the name of the space says.
    """
    if clip_vision is None:
        return ""
    found = [prompt_beside([each], clip_vision, width) for each in conditionings]
    missing = [each for each in found if isinstance(each, str)]
    return missing[0] if missing else torch.stack([each for each in found if isinstance(each, Tensor)])


def _encoded(clip: Any, text: str) -> Any:
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))
