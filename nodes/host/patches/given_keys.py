"""Decide whether the keys and the queries of a call belong to the same tokens if other nodes provide them.

In some families every call of self-attention goes through functions of other nodes first (`attn1_patch` in ComfyUI's
`transformer_options["patches"]`). Such a function may change each token by itself, or hand over the keys of another
frame or another sample instead. In the second case the logits have no symmetric and skew part, and yet the shapes are
those of the first. So γ acts where all functions are known, and the decision is made once for each model call.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from types import FunctionType, MethodType
from typing import Any

from ..models.site_rules import Rule

ATTN1_PATCH = "attn1_patch"
# By the file and the qualified name of the function or of the class of the object, why its work keeps the tokens.
KNOWN = {
    # What an MLP makes of a token is added to the same token, in keys and values.
    ("nodes_hypernetwork", "load_hypernetwork_patch.<locals>.hypernetwork_patch"),
    # What an MLP makes of a token and of the control image at its place is added to the same token (Anima).
    ("lllite", "AnimaLLLiteAttentionPatch"),
    # The same in kohya-ss/ControlNet-LLLite-ComfyUI, for SDXL.
    ("node_control_net_lllite", "load_control_net_lllite_patch.<locals>.control_net_lllite_patch"),
    # Merges queries and leaves the keys, so there are fewer of them, or it does nothing (ToMe).
    ("nodes_tomesd", "TomePatchModel.execute.<locals>.tomesd_m"),
    # Cuts the queries into tiles that count as samples, so there are more of them, or it does nothing.
    ("nodes_hypertile", "HyperTile.execute.<locals>.hypertile_in"),
    # Appends the keys of reference images, so there are more of them, or hands over what it was given (Flux).
    ("nodes_flux", "KV_Attn_Input"),
    # Only looks: it gets queries and keys of Wan and returns the result it was given (MultiTalk).
    ("model_multitalk", "MultiTalkGetAttnMapPatch"),
}


@dataclass(frozen=True)
class GivenKeys:
    """The effect of the `attn1_patch` functions of one model call on its keys.

    Attributes:
        stand: whether there are such functions, all of them known, so that keys given to a site are no surprise.
        reason: why the keys may be those of other tokens; empty where nothing says so.
    """

    stand: bool = False
    reason: str = ""

    @classmethod
    def read(cls, options: Mapping[str, Any], is_trusted: bool) -> GivenKeys:
        """Read the `transformer_options` of a model call; with `is_trusted` every function counts as known."""
        patches = options.get("patches")
        functions = patches.get(ATTN1_PATCH) if isinstance(patches, Mapping) else None
        unknown = [] if is_trusted else [each for each in functions or () if _names(each) not in KNOWN]
        if not unknown:
            return cls(stand=is_trusted or bool(functions))
        names = " and ".join(dict.fromkeys(map(_shown, unknown)))
        return cls(reason=f"the attn1_patch of {names} may have replaced the keys with those of other tokens")

    def reason_at(self, rule: Rule, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
        """Return why a call of a site may have the keys of other tokens; empty where nothing says so.

        Args:
            rule: of the site.
            args, kwargs: the arguments of the site's `forward`.
        """
        if rule.takes_patches and self.reason:
            return self.reason
        keys = kwargs.get(rule.keys) if rule.keys is not None and not self.stand else None
        return "" if keys is None or (args and keys is args[0]) else "the block supplies other keys"


def _names(function: Any) -> tuple[str, str]:
    """Return the file and the qualified name of a function, or of the class of any other object.

    ComfyUI loads files of nodes by their path, which is then in the name of the module.
    """
    while isinstance(function, partial):
        function = function.func
    named = function if isinstance(function, FunctionType | MethodType) else type(function)
    return re.split(r"[./\\]", str(named.__module__))[-1], named.__qualname__


def _shown(function: Any) -> str:
    """Return the name of a function for a report, with that of its file."""
    file, name = _names(function)
    return f"{name.rpartition('<locals>.')[2]} ({file})"
