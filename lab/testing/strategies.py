"""Draws of the property tests: one self-attention call, with logits spread widely enough for γ to matter."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor

FORMS = ("float", "0-d", "(B,)", "(B, H)", "(B, H, 1, 1)")
MASKS = ("(L, L)", "(1, 1, 1, L)", "(B, 1, L, L)", "(B, H, L, L)")
SPREAD = 1.5  # of the entries of q and k, so that the logits have a standard deviation of 2.25


@dataclass(frozen=True)
class Call:
    q: Tensor
    k: Tensor
    v: Tensor
    x: Tensor
    mask: Tensor | None = None
    scale: float | None = None

    def to(self, dtype: torch.dtype) -> Call:
        mask = self.mask if self.mask is None or self.mask.dtype == torch.bool else self.mask.to(dtype)
        q, k, v, x = (tensor.to(dtype) for tensor in (self.q, self.k, self.v, self.x))
        return Call(q, k, v, x, mask, self.scale)


def tokens(
    batch: int = 2,
    heads: int = 3,
    length: int = 12,
    head_dim: int = 8,
    value_dim: int | None = None,
    channels: int = 20,
    seed: int = 0,
    mask: str | None = None,
    scale: float | None = None,
) -> Call:
    """Random tokens in float64; `mask` is one of `MASKS`, with " bool" after it for a bool one."""
    generator = torch.Generator().manual_seed(seed)
    q, k = SPREAD * torch.randn(2, batch, heads, length, head_dim, generator=generator, dtype=torch.float64)
    value_dim = value_dim or head_dim
    v = torch.randn(batch, heads, length, value_dim, generator=generator, dtype=torch.float64)
    x = torch.randn(batch, length, channels, generator=generator, dtype=torch.float64)
    return Call(q, k, v, x, None if mask is None else make_mask(mask, batch, heads, length, generator), scale)


def make_mask(kind: str, batch: int, heads: int, length: int, generator: torch.Generator) -> Tensor:
    """A mask that leaves every query at least token 0."""
    shape = {
        "(L, L)": (length, length),
        "(1, 1, 1, L)": (1, 1, 1, length),
        "(B, 1, L, L)": (batch, 1, length, length),
        "(B, H, L, L)": (batch, heads, length, length),
    }[kind.removesuffix(" bool")]
    attends = torch.rand(shape, generator=generator) < 0.7
    attends[..., 0] = True
    if kind.endswith(" bool"):
        return attends
    return torch.randn(shape, generator=generator, dtype=torch.float64).masked_fill(~attends, float("-inf"))


@st.composite
def calls(draw: st.DrawFn, largest_head_dim: int = 256) -> Call:
    head_dim = draw(st.one_of(st.integers(1, 12), st.integers(1, largest_head_dim)))
    value_dims = st.one_of(st.just(head_dim), st.integers(1, 2 * head_dim), st.integers(2 * head_dim, 5 * head_dim))
    kinds = [None, *MASKS, *(f"{kind} bool" for kind in MASKS)]
    factor = draw(st.one_of(st.none(), st.floats(0.5, 2.0)))
    return tokens(
        batch=draw(st.integers(1, 3)),
        heads=draw(st.integers(1, 3)),
        length=draw(st.integers(1, 10)),
        head_dim=head_dim,
        value_dim=draw(value_dims),
        channels=draw(st.integers(1, 24)),
        seed=draw(st.integers(0, 2**16)),
        mask=draw(st.sampled_from(kinds)),
        scale=None if factor is None else factor * head_dim**-0.5,
    )


@st.composite
def in_any_form(
    draw: st.DrawFn, lowest: float, highest: float, neutral: float, batch: int, heads: int
) -> float | Tensor:
    """γ or β in any of its forms; every now and then one of its numbers is exactly the neutral one."""
    form = draw(st.sampled_from(FORMS))
    shape = {"float": (), "0-d": (), "(B,)": (batch,), "(B, H)": (batch, heads), "(B, H, 1, 1)": (batch, heads, 1, 1)}
    number = st.one_of(st.just(neutral), st.floats(lowest, highest), st.floats(lowest, highest))
    if form == "float":
        return draw(number)
    count = torch.Size(shape[form]).numel()
    numbers = draw(st.lists(number, min_size=count, max_size=count))
    return torch.tensor(numbers, dtype=torch.float64).reshape(shape[form])


def gammas(batch: int, heads: int) -> st.SearchStrategy[float | Tensor]:
    return in_any_form(-2.0, 3.0, 1.0, batch, heads)


def betas(batch: int, heads: int) -> st.SearchStrategy[float | Tensor]:
    return in_any_form(0.0, 10.0, 0.0, batch, heads)


@st.composite
def retrievals(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and patterns, with fewer and with more tokens than twice the head dim."""
    call = tokens(
        batch=draw(st.integers(1, 2)),
        heads=draw(st.integers(1, 2)),
        length=draw(st.integers(2, 20)),
        head_dim=draw(st.integers(1, 10)),
        value_dim=draw(st.integers(1, 5)),
        seed=draw(st.integers(0, 2**16)),
    )
    lean = draw(st.floats(-2.0, 2.0))
    return call.q, call.k + lean * call.q, call.v
