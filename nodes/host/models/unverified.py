"""The attention sites of a network that no rule knows, found by reading its code.

A site is a module whose `forward` takes `transformer_options` and hands them to the host's attention, by itself or
through functions and methods that it calls. What its tokens are cannot be known, so γ acts there only where a user asks
for it, and then among all tokens of a call, or among those that the model itself says are the image.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from types import CodeType, FunctionType, MethodType
from typing import Any

import comfy.ldm.modules.attention
from torch import nn

from .families import RULES
from .site_rules import UNVERIFIED, Argument, ImageTokens, Rule, SiteCall, class_name, image_slice
from .sites import Site, own_modules

OPTIONS = "transformer_options"
ATTENTION = re.compile(r"(optimized_)?attention(_|$)")  # names of the host's attention functions, in their own file
CHOSEN = {"optimized_attention", "optimized_attention_masked"}  # those that models call, also by the file's path
OF_OTHERS = ("context", "encoder_hidden_states", "kv", "key", "key_value", "memory", "cond")
CROSS = re.compile(r"cross|attn2|encoder_attn")
DEEPEST = 4  # how many calls may lie between a `forward` and the host's attention
NOT_OF_OWN_TOKENS = "the block is called with other tokens, and which of them are the keys is not known"


def find_unverified_sites(network: nn.Module, originals: Mapping[str, nn.Module] | None = None) -> list[Site]:
    """Return the sites of a network that no rule knows, in the order of the model; cross-attention is left out.

    Args:
        network: the diffusion model, as it stands in memory.
        originals: as in `sites.find_sites`.
    """
    modules = dict(own_modules(network, originals or {}))
    attends: dict[type, bool] = {}
    found = []
    for path, module in modules.items():
        kind = type(module)
        if kind not in attends:
            attends[kind] = _hands_options_to_attention(module)
        if path and attends[kind] and not CROSS.search(path.rpartition(".")[2]) and not _has_a_rule(path, module):
            found.append(path)
    innermost = [path for path in found if not any(other.startswith(f"{path}.") for other in found)]
    addresses = _addresses(innermost)
    return [Site(addresses[path], path, _rule(path, modules[path])) for path in innermost]


def _has_a_rule(path: str, module: nn.Module) -> bool:
    """Whether a module is one that a rule knows; where it is no site all the same, it is cross-attention."""
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
    )


def _own_tokens(module: nn.Module) -> ImageTokens:
    """Return the tokens of a call: the image where the model says where it is, else all of them.

    Where the block gets other tokens too, the call has both or is left alone, as it may be cross-attention.
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


def _hands_options_to_attention(module: nn.Module) -> bool:
    """Whether `forward` takes the options of the host, and a function that hands them on reaches its attention."""
    forward = getattr(type(module), "forward", None)
    if not isinstance(forward, FunctionType) or OPTIONS not in inspect.signature(forward).parameters:
        return False
    return _reaches_attention(forward, module, DEEPEST, set())


def _reaches_attention(function: FunctionType, module: nn.Module, depth: int, seen: set[Any]) -> bool:
    function = inspect.unwrap(function)
    code = getattr(function, "__code__", None)
    if code is None or code in seen:
        return False
    seen.add(code)
    names, keywords = set(_names(code)), set(_keywords(code))
    if OPTIONS not in names | keywords:
        return False
    called = [each for each in (_resolved(name, function, module) for name in names) if each is not None]
    if OPTIONS in keywords and (not names.isdisjoint(CHOSEN) or any(map(_is_attention, called))):
        return True
    return depth > 0 and any(
        _reaches_attention(each, module, depth - 1, seen) for each in called if isinstance(each, FunctionType)
    )


def _names(code: CodeType) -> Iterator[str]:
    """Yield every name that a function uses, with those of the functions defined inside of it."""
    yield from (*code.co_names, *code.co_varnames, *code.co_freevars)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _keywords(code: CodeType) -> Iterator[str]:
    """Yield the keywords that a function calls others with, which are tuples among its constants."""
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _keywords(constant)
        elif isinstance(constant, tuple):
            yield from (each for each in constant if isinstance(each, str))


def _resolved(name: str, function: FunctionType, module: nn.Module) -> Any:
    """Return the function that a name in `function`, a method of `module` or a function it calls, may stand for."""
    for found in (
        function.__globals__.get(name),
        inspect.getattr_static(type(module), name, None),
        vars(module).get(name),
    ):
        found = found.__func__ if isinstance(found, MethodType | staticmethod | classmethod) else found
        if isinstance(found, FunctionType) and name != "forward":
            return found
    return None


def _is_attention(function: Any) -> bool:
    """Whether `function` is one that the host's attention file has under the name of an attention."""
    file = vars(comfy.ldm.modules.attention)
    return any(value is function for name, value in file.items() if ATTENTION.match(name))
