"""The orders in which models join their tokens: which tokens of a call are the image's, and where its input is.

Where text and image share one sequence, the split comes from what the model itself passes on: the two arguments of a
block, ComfyUI's `img_slice`, or, where a block gets one joined sequence, a length that a `LengthSensor` saw earlier in
the same forward.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from .site_call import Argument, SiteCall

# From a call and its number of tokens to those γ acts among, or None where the two do not fit together.
ImageTokens = Callable[[SiteCall, int], "slice | None"]
# From a call and its numbers of queries and of keys to whether the queries are the last of the keys' tokens, the image
# among them; an error where the call cannot be read.
LastQueries = Callable[[SiteCall, int, int], bool]
BlockInput = Callable[[SiteCall], "Tensor | None"]


def all_tokens(call: SiteCall, tokens: int) -> slice | None:
    """One modality: every token."""
    return slice(0, tokens)


def after_text(text: Argument, image: Argument) -> ImageTokens:
    """[text, image], with the two lengths read from arguments of the block; a call without text is all image."""

    def token_range(call: SiteCall, tokens: int) -> slice | None:
        text_tokens, image_tokens = call.length(*text), call.length(*image)
        if text_tokens is None or image_tokens is None:
            return None
        if tokens == text_tokens + image_tokens:
            return slice(text_tokens, tokens)
        return slice(0, tokens) if tokens == image_tokens else None

    return token_range


def before_text(image: Argument, text: Argument) -> ImageTokens:
    """[image, text], with the two lengths read from arguments of the block; of the text a part may be cut off."""

    def token_range(call: SiteCall, tokens: int) -> slice | None:
        text_tokens, image_tokens = call.length(*text), call.length(*image)
        if text_tokens is None or image_tokens is None:
            return None
        return slice(0, image_tokens) if image_tokens <= tokens <= image_tokens + text_tokens else None

    return token_range


def image_slice(call: SiteCall, tokens: int) -> slice | None:
    """[text, image] in one stream; the model itself says where the image is (`img_slice`)."""
    start, stop = call.options.get("img_slice") or (None, None)
    return slice(start, stop) if stop is not None and start < stop <= tokens else None


def first_tokens(sensor: str) -> ImageTokens:
    """[image, rest] in one stream; the image is as long as the sensor saw it."""

    def token_range(call: SiteCall, tokens: int) -> slice | None:
        image = call.seen_lengths.get(sensor)
        return slice(0, image) if image is not None and image <= tokens else None

    return token_range


def last_tokens(sensor: str) -> ImageTokens:
    """[rest, image] in one stream; the image is as long as the sensor saw it."""

    def token_range(call: SiteCall, tokens: int) -> slice | None:
        image = call.seen_lengths.get(sensor)
        return slice(tokens - image, tokens) if image is not None and image <= tokens else None

    return token_range


def after_seen(sensor: str, whole: str | None = None) -> ImageTokens:
    """[text, image] in one stream; the text is as long as the sensor saw it.

    Args:
        whole: the sensor of the joined sequence in models that also run without text. Where it saw this length and
            no text was seen, there is no text.
    """

    def token_range(call: SiteCall, tokens: int) -> slice | None:
        text = call.seen_lengths.get(sensor)
        if text is None and whole is not None and call.seen_lengths.get(whole) == tokens:
            text = 0
        return slice(text, tokens) if text is not None and text < tokens else None

    return token_range


def before_seen(sensor: str) -> ImageTokens:
    """[image, text] in one stream; the text is as long as the sensor saw it."""

    def token_range(call: SiteCall, tokens: int) -> slice | None:
        text = call.seen_lengths.get(sensor)
        return slice(0, tokens - text) if text is not None and text < tokens else None

    return token_range


def after_what_is_kept(sensor: str) -> LastQueries:
    """[text, image] in one stream, of which the text's keys may be kept: every call has all of the image's queries."""

    def has_last_queries(call: SiteCall, queries: int, keys: int) -> bool:
        if not call.seen_lengths[sensor] <= queries <= keys:
            raise ValueError("the queries were only a part of the image's tokens")
        return True

    return has_last_queries


def all_of_the_block(tokens: Argument) -> LastQueries:
    """[text and reference images, image], of which the block gets the image, and the keys of all before it."""

    def has_last_queries(call: SiteCall, queries: int, keys: int) -> bool:
        length = call.length(*tokens)
        if length is None or not 0 < length == queries <= keys:
            raise ValueError("the queries were not those of the tokens that the block got")
        return True

    return has_last_queries


def queries_of_the_image(call: SiteCall, queries: int, keys: int) -> bool:
    """[text and reference images, image] in pieces, each of which looks at itself and at what comes before it.

    The image is the last piece. The block gets the number of tokens before the image, which is 0 where their keys come
    from a cache (Qwen-Image 2.1). γ acts in no earlier piece, as its keys are kept from one step to the next.
    """
    tokens: Any = call.length("x", 0)
    return bool(0 < queries == tokens - call.argument("prefix_len", 3) and keys >= tokens)


def without_cache(call: SiteCall, tokens: int) -> slice | None:
    """Every token, unless the keys are those of earlier chunks too: then only the first chunk would be square."""
    return slice(0, tokens) if call.argument("kv_cache", 2) is None else None


def last_video_segment(call: SiteCall, tokens: int) -> slice | None:
    """[text, conditions, audio, video] in one stream: the model's segments are `(start, stop, row)` in that order.

    The row is three times the row of the timestep plus the modality, of which video is 0 (comfy/ldm/minimax/model.py).
    """
    start, stop, row = (call.argument("mod_segments", 2) or ((0, 0, 1),))[-1]
    # With a noise mask the row is a tensor, one number a token, which only video and audio have, and video comes last.
    is_video = isinstance(row, Tensor) or row % 3 == 0
    return slice(start, stop) if is_video and start < stop == tokens else None


def no_input(call: SiteCall) -> Tensor | None:
    """Whole blocks normalise inside, so their attention input cannot be seen from the call."""
    return None


def first_argument(call: SiteCall) -> Tensor | None:
    """Attention modules get the normalised block input as their first argument, `(B, L, C)`."""
    first: Tensor | None = call.argument("x", 0)
    return first
