"""The rules of the family table: how a site is recognised, how it is addressed, and how a call of it is read.

A site is the innermost module whose `forward`, or another method that the rule names, makes the attention calls.
Whether it is self-attention is read from the module's class and place, never from shapes: cross-attention has square
logits too whenever the text is as long as the image (an SD1.5 middle block at 448×704 has 77 tokens).

Which tokens of a call are the image's is in the words of `token_orders`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from torch import Tensor, nn

from .site_call import Argument, SiteCall
from .token_orders import BlockInput, ImageTokens, LastQueries, all_tokens, no_input

SELF, JOINT, TEXT_REFINER = "self", "joint", "text refiner"
UNVERIFIED = "not verified"  # of a network that no rule knows
# γ acts among the image tokens. Refiners of the text see none of them, so they are skipped unless they are named.
OPT_IN_KINDS = (TEXT_REFINER,)
NOT_SAME_TOKENS = "queries and keys are not the same tokens"
OF_OTHERS = ""  # the reason for calls that are none of the image, such as cross-attention; they are not reported
# How an override gets from a site to its attention call: in the options that the block is given, in those that the
# whole forward of the network shares, or through the child of the module that names the attention of its layer.
OPTIONS, NETWORK, LAYER = "options", "network", "layer"
FOUND = "found"  # by options or by layer, whichever the code of the host's module shows; no site where it shows neither
FORWARD = "forward"
UNREADABLE = "this version of ComfyUI calls the block in a way that is not known"


@dataclass(frozen=True)
class LengthSensor:
    """A module that gets one part of a joined sequence, before the sites that get all of it.

    Attributes:
        name: of the length in `SiteCall.seen_lengths`.
        path: of the module below the diffusion model.
        argument: its `(B, L, C)` argument.
        is_first: whether it is called before all others in a forward, so that earlier lengths are forgotten.
    """

    name: str
    path: str
    argument: Argument
    is_first: bool = False

    def observe(self, call: SiteCall, seen_lengths: dict[str, int]) -> None:
        """Write the length of the argument into `seen_lengths`; nothing where it cannot be read."""
        if self.is_first:
            seen_lengths.clear()
        try:
            length = call.length(*self.argument)
        except Exception:  # a newer host calls the module in another way; the rule then finds no length and says so
            seen_lengths.pop(self.name, None)
            return
        if length is not None:
            seen_lengths[self.name] = length


@dataclass(frozen=True)
class Rule:
    """The recognition, the address and the token order of one kind of site.

    Attributes:
        module: the class, as `file.Class` below `comfy.ldm`.
        path: matched against the module's path in the diffusion model.
        address: what users call the site, a template filled from the groups of `path`.
        kind: "self", "joint" or "text refiner"; "not verified" in a network that no rule knows.
        image_tokens: which tokens γ acts among.
        block_input: the `(B, L, C)` input that the "input" and "projected" norms need.
        sensors: the modules whose lengths `image_tokens` needs.
        network: the class of the diffusion model, where blocks of one class are used in several ways.
        skip_reason: what the report says of calls for which `image_tokens` is None.
        flag: attribute of the module that must be true, where one class serves self- and cross-attention.
        stream: "video" or "audio" in models that have sites of both.
        takes_patches: whether the queries, keys and values of this attention go through the `attn1_patch` functions of
            other nodes, which may hand over those of other tokens. Wan calls such functions with only the result.
        keys: the keyword by which the block around may hand over other keys; None where there is none.
        last_queries: tells the calls whose queries are the last of the keys' tokens, and in which γ acts among the
            image tokens that have a query; None if γ acts only in calls with as many queries as keys.
        pads_samples: whether samples of different lengths are padded, and then have a mask of the keys.
        reach: how an override gets to the attention call: `OPTIONS`, `NETWORK`, `LAYER`, or `FOUND`.
        arguments: the names of the arguments of that method, where the code around may hand them over by
            place; none where it is known to name `transformer_options`.
        is_in_picture: whether the tokens are parts of one picture, so that a mask can be laid over them.
        method: the name of the module's method that makes the attention call.
    """

    module: str
    path: re.Pattern[str]
    address: str
    kind: str
    image_tokens: ImageTokens = all_tokens
    block_input: BlockInput = no_input
    sensors: tuple[LengthSensor, ...] = ()
    network: str | None = None
    skip_reason: str = "the image tokens could not be distinguished from the text tokens"
    flag: str | None = None
    stream: str | None = None
    takes_patches: bool = False
    keys: str | None = None
    last_queries: LastQueries | None = None
    pads_samples: bool = False
    reach: str = OPTIONS
    arguments: tuple[str, ...] = ()
    is_in_picture: bool = True
    method: str = FORWARD

    def find_tokens(self, call: SiteCall, tokens: int, queries: int | None = None) -> tuple[slice | None, str]:
        """Return the tokens of a call that γ acts among, or None and the reason to skip the call.

        A call that the rule cannot read, as that of a newer host, is skipped too. Nothing is raised.
        The reason of a call that is none of the image's is `OF_OTHERS`.

        Args:
            tokens: of the keys, among which the found ones are counted.
            queries: how many of them, the last ones, have a query; all where None.
        """
        if self.image_tokens is all_tokens and self.last_queries is None and queries is None:
            return slice(0, tokens), ""
        queries = tokens if queries is None else queries
        try:
            if self.last_queries is None:
                if queries != tokens:
                    return None, NOT_SAME_TOKENS
            elif not self.last_queries(call, queries, tokens):
                return None, OF_OTHERS
            found = self.image_tokens(call, tokens)
            if found is None:
                return None, self.skip_reason
            start, stop = int(found.start), int(found.stop)
        except Exception as error:
            return None, f"{UNREADABLE} ({type(error).__name__})"
        with_query = max(start, tokens - queries)
        if not 0 <= start <= with_query < stop <= tokens:
            return None, self.skip_reason
        return slice(with_query, stop), ""

    def find_input(self, call: SiteCall, rows: slice, v: Tensor) -> Tensor | None:
        """Return the `(B, L, C)` input of the attention, or None where the call does not show it.

        Args:
            rows: the samples that are wanted.
            v: `(B, H, L, d)`, their values.
        """
        try:
            x = self.block_input(call)
        except Exception:
            return None
        if not isinstance(x, Tensor) or x.dim() != 3:
            return None
        x = x[rows]
        return x if (x.shape[0], x.shape[1]) == (v.shape[0], v.shape[2]) else None


def class_name(module: nn.Module) -> str:
    """`file.Class` of a module, below `comfy.ldm` where it comes from there."""
    return f"{type(module).__module__.removeprefix('comfy.ldm.')}.{type(module).__name__}"


def numbered(pattern: str) -> re.Pattern[str]:
    """A path with `#` in the place of the block's number; the rest is taken literally."""
    return re.compile(re.escape(pattern).replace(r"\#", r"(?P<index>\d+)"))
