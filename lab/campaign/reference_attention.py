"""Skew attention stated again from outside: the host's own attention is replaced, none of the pack's code runs.

What each call and each row of it should get is said here in few lines: the later node wins, γ acts on the rows of the
wanted prompts, at its sites, in its part of the run, and only where queries and keys are as many.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import comfy.ldm.modules.attention
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from lab.testing import definition
from lab.testing.families.family import Family, draw
from lab.testing.recorder import backend

WANTED = {"both": None, "cond": "cond", "uncond": "uncond"}  # the name of the text, None for every one


@dataclass(frozen=True)
class Skew:
    """The widgets of one Skew Attention node.

    Attributes:
        gamma, beta, norm, adaptive, apply_to: as there.
        sites: addresses.
        start, end: the part of the run.
        last: γ at the end of a straight line from `gamma`, where a schedule is wired.
    """

    gamma: float
    beta: float
    norm: str
    adaptive: str
    apply_to: str
    sites: tuple[str, ...]
    start: float = 0.0
    end: float = 1.0
    last: float | None = None

    def gamma_at(self, progress: float) -> float:
        """γ at a progress, 1 outside of the window."""
        if not (self.start <= progress and (progress < self.end or self.end == 1)):
            return 1.0
        return self.gamma if self.last is None else self.gamma + (self.last - self.gamma) * progress


@contextmanager
def reference(family: Family, model: ModelPatcher, nodes: list[Skew], texts: tuple[str, ...]) -> Iterator[None]:
    """Attend by the definition inside the block, in `model`, as it would be behind these nodes.

    Args:
        family: of the model.
        model: a model without our nodes.
        nodes: in the order of the graph.
        texts: names of the prompts, as `Family.conditioning` takes them.
    """
    known = {name: draw(name, (1, *family.text))[0] for name in texts}
    modules: list[tuple[str, Any]] = []
    rows: list[list[str]] = []
    progress = Progress(model)

    def attention(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None, **keyword: Any) -> Tensor:
        path, x = modules[-1]
        site = family.site_of(path)
        plain = inspect.unwrap(comfy.ldm.modules.attention.attention_pytorch)
        out: Tensor = plain(q, k, v, heads, mask=mask, **keyword)
        is_split = keyword.get("skip_reshape", False)
        by_heads = [each if is_split else _by_heads(each.flatten(2), heads) for each in (q, k, v)]
        if site is None or by_heads[0].shape != by_heads[1].shape:
            return out
        now = progress.at(float(keyword["transformer_options"]["sigmas"].max()))
        is_split_out = keyword.get("skip_output_reshape", False)
        result = out.clone() if is_split_out else _by_heads(out, heads).clone()
        names = rows[-1]
        size = len(result) // len(names)
        for row in range(len(result)):
            name = names[row // size]
            for node in reversed(nodes):
                gamma = node.gamma_at(now)
                if site in node.sites and WANTED[node.apply_to] in (None, name) and gamma != 1.0:
                    row_q, row_k, row_v = (each[row : row + 1] for each in by_heads)
                    masked = None if mask is None else _row(mask, row)
                    given = None if x is None else x[row : row + 1]
                    result[row] = skewed(family, node, gamma, row_q, row_k, row_v, masked, given)[0]
                    break
        return result if is_split_out else result.transpose(1, 2).flatten(2)

    with ExitStack() as stack:
        for path, module in model.model.diffusion_model.named_modules():
            enter = module.register_forward_pre_hook(lambda _, given, path=path: modules.append((path, _first(given))))
            leave = module.register_forward_hook(lambda *_: modules.pop() and None, always_call=True)
            stack.callback(enter.remove)
            stack.callback(leave.remove)

        def read_rows(_: Any, given: Any, keyword: Mapping[str, Any]) -> None:
            rows.append([_name_of(row, known) for row in keyword["context"]])

        handle = model.model.diffusion_model.register_forward_pre_hook(read_rows, with_kwargs=True)
        stack.callback(handle.remove)
        stack.enter_context(backend(attention))
        yield


def skewed(
    family: Family, node: Skew, gamma: float, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, x: Tensor | None
) -> Tensor:
    """The retrieval of one row, `(1, H, L, d)`, in float64."""
    tokens = q.shape[2]
    image = family.image(tokens)
    strength: float | Tensor = gamma
    beta: float | Tensor = node.beta
    if node.adaptive != "off":
        eta = definition.symmetricity(q[:, :, image], k[:, :, image]).mean()
        strength = 1 + (gamma - 1) * eta
        if node.adaptive == "gamma and beta":
            beta = node.beta * (1 - eta)
    matrix = definition.gamma_matrix(strength, image, tokens)
    norm = node.norm if x is not None and family.with_input else "value" if node.norm == "input" else node.norm
    return definition.skew_attention(q, k, v, matrix, beta, norm=norm, x=None if x is None else x.double(), mask=mask)


class Progress:
    """The p at which `percent_to_sigma(p)` gives a σ, found by halving."""

    def __init__(self, model: ModelPatcher):
        self.sampling: Any = model.get_model_object("model_sampling")
        self.known: dict[float, float] = {}

    def at(self, sigma: float) -> float:
        """The progress of a noise level."""
        if sigma not in self.known:
            low, high = 0.0, 1.0
            for _each in range(40):
                middle = (low + high) / 2
                low, high = (middle, high) if float(self.sampling.percent_to_sigma(middle)) > sigma else (low, middle)
            self.known[sigma] = (low + high) / 2
        return self.known[sigma]


def _by_heads(packed: Tensor, heads: int) -> Tensor:
    by_heads: Tensor = packed.unflatten(2, (heads, -1)).transpose(1, 2)
    return by_heads


def _first(given: tuple[Any, ...]) -> Tensor | None:
    return given[0] if given and isinstance(given[0], Tensor) and given[0].dim() == 3 else None


def _row(mask: Tensor, row: int) -> Tensor:
    """The mask of one row, broadcasting to `(1, H, L, L)`."""
    mask = mask[None, None] if mask.dim() == 2 else mask[:, None] if mask.dim() == 3 else mask
    return mask if len(mask) == 1 else mask[row : row + 1]


def _name_of(row: Tensor, known: Mapping[str, Tensor]) -> str:
    return next((name for name, text in known.items() if row.shape == text.shape and torch.equal(row, text)), "unknown")
