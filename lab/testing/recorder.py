"""Seeing what the model asks of its attention and what it gets back, from outside of the pack.

The name `optimized_attention` is replaced in the model's own files: what is recorded is the host's call and the result
that really reached the site, however many overrides, patches and backends had a hand in it.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import Any
from unittest.mock import patch

import comfy.ldm.modules.attention
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from lab.testing import definition
from lab.testing.families.family import Family

FUNCTIONS = ("optimized_attention", "optimized_attention_masked")
STAND_INS = tuple(f"lab.testing.families.{name}" for name in ("stand_ins", "prism", "sensenova"))


def attention_names() -> list[tuple[ModuleType, str]]:
    """Every name in the host's model files under which the attention it has chosen is called."""
    chosen = [getattr(comfy.ldm.modules.attention, name) for name in FUNCTIONS]
    files = [module for name, module in sorted(sys.modules.items()) if name.startswith("comfy.ldm.")]
    named = [(file, name) for file in files for name in FUNCTIONS if getattr(file, name, None) in chosen]
    # Stand-ins may call the host's attention by a contract of their own.
    return [*named, *((sys.modules[name], FUNCTIONS[0]) for name in STAND_INS if name in sys.modules)]


@dataclass(frozen=True)
class Seen:
    """One attention call of the host.

    Attributes:
        path: of the innermost module that made it, below `diffusion_model`.
        q, k, v: `(B, H, L, d)` as the host gave them, before anybody changed anything.
        out: `(B, H, L, d)`, what came back.
        mask: broadcasts to `(B, H, L, L)`, added to the logits, or None.
        x: the module's first argument, `(B, L, C)` for the attention modules of a UNet.
        sigma, marks: ComfyUI's noise level and cond (0) or uncond (1) marks of the model call.
    """

    path: str
    q: Tensor
    k: Tensor
    v: Tensor
    out: Tensor
    mask: Tensor | None
    x: Tensor | None
    sigma: float
    marks: tuple[int, ...]

    @property
    def is_cross(self) -> bool:
        return self.path.endswith("attn2")

    @cached_property
    def plain(self) -> Tensor:
        """Plain attention for this call, in float64; square or not."""
        q, k, v = (x.double() for x in (self.q, self.k, self.v))
        mask = 0 if self.mask is None else self.mask.double()
        return torch.softmax(q @ k.mT * q.shape[-1] ** -0.5 + mask, dim=-1) @ v

    @cached_property
    def effects(self) -> dict[tuple[str, float], float]:
        """The result of `effect` for this call."""
        return {}


@contextmanager
def watch_attention(model: ModelPatcher, second: ModelPatcher | None = None) -> Iterator[list[Seen]]:
    """Every attention call of `model` that is made inside the block, in order.

    Those of a `second` model of another module are among them, with "second." before the path.
    """
    calls: list[Seen] = []
    modules: list[tuple[str, tuple[Any, ...]]] = []

    def watched(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def optimized_attention(
            q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None, **keyword: Any
        ) -> Tensor:
            is_split = keyword.get("skip_reshape", False)
            plain_q, *rest = (x.peek() if hasattr(x, "peek") else x for x in (q, k, v))  # newer hosts wrap tensors
            head_dim = plain_q.shape[-1] // (1 if is_split else heads)

            def by_heads(x: Tensor, is_split: bool) -> Tensor:
                x = x if is_split else x.flatten(2).unflatten(2, (-1, head_dim)).transpose(1, 2)
                return x.repeat_interleave(heads // x.shape[1], dim=1).clone()

            given_q, given_k, given_v = (by_heads(x, is_split) for x in (plain_q, *rest))
            result = original(q, k, v, heads, mask=mask, **keyword)
            options = keyword.get("transformer_options") or {}
            path, arguments = modules[-1]
            calls.append(
                Seen(
                    path,
                    given_q,
                    given_k,
                    given_v,
                    by_heads(result, keyword.get("skip_output_reshape", False)),
                    None if mask is None else mask.clone()[:, None] if mask.dim() == 3 else mask.clone(),
                    arguments[0].clone() if arguments and isinstance(arguments[0], Tensor) else None,
                    float(options["sigmas"].max()) if "sigmas" in options else math.nan,
                    tuple(options.get("cond_or_uncond", ())),
                )
            )
            return result

        return optimized_attention

    with ExitStack() as stack:
        named = list(model.model.diffusion_model.named_modules())
        if second is not None:
            named += second.model.diffusion_model.named_modules(prefix="second")
        for path, module in named:
            enter = module.register_forward_pre_hook(lambda _, given, path=path: modules.append((path, given)))
            leave = module.register_forward_hook(lambda *_: modules.pop() and None, always_call=True)
            stack.callback(enter.remove)
            stack.callback(leave.remove)
        for module, name in attention_names():
            stack.enter_context(patch.object(module, name, watched(getattr(module, name))))
        yield calls


@contextmanager
def backend(function: Callable[..., Tensor]) -> Iterator[None]:
    """`function(q, k, v, heads, mask=None, **keyword)` as the attention the host has chosen."""
    with ExitStack() as stack:
        for module, name in attention_names():
            stack.enter_context(patch.object(module, name, comfy.ldm.modules.attention.wrap_attn(function)))
        yield


def stated(
    family: Family,
    seen: Seen,
    gamma: float | Tensor,
    beta: float | Tensor = 1.0,
    norm: str = "value",
    *,
    text: float = 1.0,
    cross: float = 1.0,
) -> Tensor:
    """State skew attention for this call plainly in float64, with γ only in the image block.

    Args:
        text, cross: what Γ is in the block of all other tokens and in the two blocks between.
    """
    tokens = seen.q.shape[2]
    gammas = definition.gamma_matrix(gamma, family.image(tokens), tokens, text, cross)
    x = None if seen.x is None else seen.x.double()
    return definition.skew_attention(seen.q, seen.k, seen.v, gammas, beta, norm=norm, x=x, mask=seen.mask)


def plainly(seen: Seen) -> Tensor:
    """Plain attention for this call, in float64; not to be written to."""
    return seen.plain


def distance(one: Tensor, other: Tensor) -> float:
    return float(torch.linalg.vector_norm(one.double() - other.double()))


def effect(family: Family, seen: Seen, gamma: float) -> float:
    """‖R_γ − R₁‖ of this call, computed once."""
    if (family.name, gamma) not in seen.effects:
        seen.effects[family.name, gamma] = distance(stated(family, seen, gamma), plainly(seen))
    return seen.effects[family.name, gamma]


class FussyAttention:
    """The host's PyTorch attention, but it refuses head dims above `largest`."""

    def __init__(self, largest: int, error: Exception):
        self.largest = largest
        self.error = error
        self.refusals = 0

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None, **keyword: Any
    ) -> Tensor:
        if (q.shape[-1] if keyword.get("skip_reshape") else q.shape[-1] // heads) > self.largest:
            self.refusals += 1
            raise self.error
        out: Tensor = comfy.ldm.modules.attention.attention_pytorch(q, k, v, heads, mask=mask, **keyword)
        return out

    __name__ = __qualname__ = "attention_fussy"
