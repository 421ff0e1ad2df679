"""The attention sites of a network that no rule knows, found by reading its code.

A site is a module whose `forward` takes `transformer_options` and hands them to the host's attention, by itself or
through functions and methods that it calls. What its tokens are cannot be known, so γ acts there only where a user asks
for it, and then among all tokens of a call, or among those that the model itself says are the image.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping

from torch import nn

from .families import RULES
from .reach import hands_options_on
from .site_call import Argument, SiteCall
from .site_rules import UNVERIFIED, Rule, class_name
from .sites import Site, own_modules
from .token_orders import ImageTokens, image_slice

OF_OTHERS = ("context", "encoder_hidden_states", "kv", "key", "key_value", "memory", "cond")
CROSS = re.compile(r"cross|attn2|encoder_attn")
NOT_OF_OWN_TOKENS = "the block gets other tokens as well, and it is not known which tokens the keys come from"


def find_unverified_sites(network: nn.Module, originals: Mapping[str, nn.Module] | None = None) -> list[Site]:
    """Return the sites of a network that no rule knows, in the order of the model; cross-attention is left out.

    Args:
        network: the diffusion model, as it is in memory.
        originals: as in `sites.find_sites`.
    """
    modules = dict(own_modules(network, originals or {}))
    attends: dict[type, bool] = {}
    found = []
    for path, module in modules.items():
        kind = type(module)
        if kind not in attends:
            attends[kind] = hands_options_on(module)
        if path and attends[kind] and not CROSS.search(_in_block(path)) and not _has_a_rule(path, module):
            found.append(path)
    innermost = [path for path in found if not any(other.startswith(f"{path}.") for other in found)]
    addresses = _addresses(innermost)
    return [Site(addresses[path], path, _rule(path, modules[path])) for path in innermost]


def _in_block(path: str) -> str:
    """Return the path of a module in its block, as the attention may be called by a child of `cross_attn`."""
    return re.split(r"\.\d+\.", path)[-1]


def _has_a_rule(path: str, module: nn.Module) -> bool:
    """Return whether a rule knows the module. A known module that is not a site is cross-attention."""
    name = class_name(module)
    return any(rule.module == name and rule.path.fullmatch(path) for rule in RULES)


def _rule(path: str, module: nn.Module) -> Rule:
    return Rule(
        class_name(module),
        re.compile(re.escape(path)),
        path,
        UNVERIFIED,
        _own_tokens(module),
        skip_reason=NOT_OF_OWN_TOKENS,
        arguments=_argument_names(module),
    )


def _argument_names(module: nn.Module) -> tuple[str, ...]:
    """Return the names of the arguments that a module's `forward` may get by place, but the module itself."""
    parameters = inspect.signature(type(module).forward).parameters.values()
    return tuple([each.name for each in parameters if each.kind is each.POSITIONAL_OR_KEYWORD][1:])


def _own_tokens(module: nn.Module) -> ImageTokens:
    """Return the tokens of a call: the image where the model says where it is, else all of them.

    Where the block gets other tokens too, the call has both or is skipped, as it may be cross-attention.
    """
    names = list(inspect.signature(type(module).forward).parameters)[1:]
    first: Argument = (names[0], 0)
    others: list[Argument] = [(name, position) for position, name in enumerate(names) if name in OF_OTHERS]

    def token_range(call: SiteCall, tokens: int) -> slice | None:
        own = call.argument(*first)
        given = [each for each in (call.argument(*other) for other in others) if each is not None and each is not own]
        if given and tokens != own.shape[1] + sum(each.shape[1] for each in given):
            return None
        return image_slice(call, tokens) or slice(0, tokens)

    return token_range


def _addresses(paths: list[str]) -> dict[str, str]:
    """Return the address of every path: the part up to its last number where that is enough to tell it from others."""
    short = {path: re.sub(r"(?<=\d)\.\D+$", "", path) for path in paths}
    counts = list(short.values())
    return {path: name if counts.count(name) == 1 else path for path, name in short.items()}
