"""Find out whether a module passes on the options through which other nodes reach its attention.

It is read from the code itself, and so it holds for whatever version of ComfyUI runs.
"""

from __future__ import annotations

import dis
import inspect
import re
from collections.abc import Iterator
from types import CodeType, FunctionType, MethodType
from typing import Any

import comfy.ldm.modules.attention
from torch import nn

from .site_rules import LAYER, OPTIONS

GIVEN_AS = "transformer_options"
PREFERRED = "preferred_attention"  # the keyword that hands a child on, which names the attention of its layer
CHILD = "comfy_attention"
ATTENTION = re.compile(r"(optimized_)?attention(_|$)")  # names of the host's attention functions, in their own file
CHOSEN = {"optimized_attention", "optimized_attention_masked"}  # those that models call, also by the file's path
DEEPEST = 4  # how many calls may lie between a `forward` and the host's attention


def reach_of(module: nn.Module) -> str | None:
    """Return by what an override gets from a module to its attention call: `OPTIONS`, `LAYER`, or nothing."""
    if hands_options_on(module):
        return OPTIONS
    forward = getattr(type(module), "forward", None)
    if not isinstance(forward, FunctionType) or not hasattr(getattr(module, CHILD, None), "function"):
        return None
    return LAYER if PREFERRED in _keywords(inspect.unwrap(forward).__code__) else None


def hands_options_on(module: nn.Module) -> bool:
    """Return whether `forward` takes the host's options and passes them on to its attention."""
    forward = getattr(type(module), "forward", None)
    if not isinstance(forward, FunctionType) or GIVEN_AS not in inspect.signature(forward).parameters:
        return False
    return _reaches_attention(forward, module, DEEPEST, set())


def _reaches_attention(function: FunctionType, module: nn.Module, depth: int, seen: set[Any]) -> bool:
    function = inspect.unwrap(function)
    code = getattr(function, "__code__", None)
    if code is None or code in seen:
        return False
    seen.add(code)
    names, keywords = set(_names(code)), set(_keywords(code))
    hands_on = GIVEN_AS in keywords or _hands_all_keywords_on(code)
    if GIVEN_AS not in names and not hands_on:
        return False
    called = [each for each in (_resolved(name, function, module) for name in names) if each is not None]
    if hands_on and (not names.isdisjoint(CHOSEN) or any(map(_is_attention, called))):
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


def _hands_all_keywords_on(code: CodeType) -> bool:
    """Return whether a function takes `**kwargs` and passes all of them on to another function."""
    if not code.co_flags & inspect.CO_VARKEYWORDS:
        return False
    first = code.co_argcount + code.co_kwonlyargcount + bool(code.co_flags & inspect.CO_VARARGS)
    name = code.co_varnames[first]
    steps = list(dis.get_instructions(code))
    # Newer versions of Python may load two variables by one instruction.
    loaded = any(name in (step.argval if isinstance(step.argval, tuple) else (step.argval,)) for step in steps)
    return loaded and any(step.opname == "CALL_FUNCTION_EX" for step in steps)


def _resolved(name: str, function: FunctionType, module: nn.Module) -> Any:
    """Return the function that a name in `function`, a method of `module` or a function it calls, may mean."""
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
    """Return whether the host's attention file exports `function` under the name of an attention."""
    file = vars(comfy.ldm.modules.attention)
    return any(value is function for name, value in file.items() if ATTENTION.match(name))
