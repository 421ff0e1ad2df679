"""The price of one attention call, of symmetricity and of the stability measures, on the CPU in float32."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lab.benchmarks import authors_way
from lab.benchmarks.rows import Row
from lab.benchmarks.timing import Work, compare
from sad_core import adapt, average, hopfield_stability, skew_attention, symmetricity
from sad_core.inner_attention import pytorch_attend

GAMMA, BETA = 1.05, 3.0
PLAIN = "plain attention"
GOALS = {"γ": 1.6, "γ and β, value norm": 2.2, "γ and β, input norm": 3.5}


@dataclass(frozen=True)
class Shape:
    """One attention call: samples, heads, tokens, head dim, and the channels of the block input."""

    batch: int
    heads: int
    tokens: int
    head_dim: int

    @property
    def channels(self) -> int:
        return self.heads * self.head_dim

    def __str__(self) -> str:
        return f"B{self.batch} H{self.heads} L{self.tokens} d{self.head_dim}"


SHAPES = (
    Shape(2, 10, 1024, 64),
    Shape(2, 20, 256, 64),
    Shape(1, 10, 4096, 64),
    Shape(2, 8, 1024, 40),
    Shape(1, 24, 1280, 128),
)
INPUT_NORM_SHAPE = SHAPES[0]
AUTHORS_SHAPES = SHAPES[:2]
LENGTHS = (256, 512, 1024, 2048, 4096, 8192)


class Call:
    """Tensors of one call, from a block input with the falling spectrum of real ones and weights of its own."""

    def __init__(self, shape: Shape):
        generator = torch.Generator().manual_seed(0)

        def draw(*size: int) -> Tensor:
            return torch.randn(size, generator=generator)

        channels = shape.channels
        spectrum = torch.arange(1, channels + 1) ** -0.5
        mixed = draw(shape.batch, shape.tokens, channels) * spectrum @ draw(channels, channels)
        self.x = F.layer_norm(mixed, [channels])
        weights = [draw(shape.heads, channels, shape.head_dim) / channels**0.5 for _ in range(3)]
        self.query_weight, self.key_weight, self.value_weight = weights
        self.q, self.k, self.v = (self.x[:, None] @ weight for weight in weights)

    def skewed(self, gamma: float = GAMMA, beta: float = BETA, **options: Any) -> Tensor:
        x = self.x if options.get("norm") in ("input", "projected") else None
        return skew_attention(self.q, self.k, self.v, gamma, beta, x=x, **options)

    def padded(self, gamma: float = GAMMA, beta: float = BETA, **options: Any) -> Tensor:
        """By the fused kernel with a doubled head dim, as on a GPU."""
        x = self.x if options else None
        return skew_attention(self.q, self.k, self.v, gamma, beta, x=x, attend=pytorch_attend, **options)

    def adaptive(self) -> Tensor:
        gamma, beta = self.strengths()
        return skew_attention(self.q, self.k, self.v, gamma, beta)

    def strengths(self) -> tuple[Tensor, Tensor]:
        return adapt(GAMMA, BETA, average(symmetricity(self.q, self.k)))


def measure_attention(shape: Shape, rounds: int) -> Iterator[Row]:
    """The rows of one shape that are ratios to plain attention on the same q, k and v."""
    call = Call(shape)
    ways: dict[str, Work] = {
        PLAIN: lambda: F.scaled_dot_product_attention(call.q, call.k, call.v),
        "γ": lambda: call.skewed(beta=1.0),
        "γ, fused kernel": lambda: call.padded(beta=1.0),
        "γ and β, value norm": call.skewed,
        "γ and β, fused kernel": call.padded,
        "γ = 1": lambda: call.skewed(gamma=1.0),
        "adaptive γ and β, value norm": call.adaptive,
    }
    if shape == INPUT_NORM_SHAPE:
        ways["γ and β, projected norm"] = lambda: call.skewed(norm="projected")
        ways["γ and β, projected norm, fused kernel"] = lambda: call.padded(norm="projected")
        ways["γ and β, input norm"] = lambda: call.skewed(norm="input")
    if shape in AUTHORS_SHAPES:
        authors = (call.q, call.k, call.x, call.value_weight, GAMMA, BETA)
        ways["authors' way, static"] = lambda: authors_way.skew_attention(*authors)
        ways["authors' way, adaptive"] = lambda: authors_way.adaptive_skew_attention(*authors)
    timings = compare(ways, rounds)
    for name, timing in list(timings.items())[1:]:
        yield Row.of(name, str(shape), timing, PLAIN, GOALS.get(name, 1.0 if name == "γ = 1" else None))
    if shape == INPUT_NORM_SHAPE:
        yield from _projected(call, ways, rounds)


def _projected(call: Call, ways: dict[str, Work], rounds: int) -> Iterator[Row]:
    """The projected norm against the value norm, in tiles and by the fused kernel."""
    exact = call.skewed(norm="input")
    error = {name: float((call.skewed(norm=name) - exact).norm() / exact.norm()) for name in ("projected", "value")}
    note = f"error of the output {error['projected']:.1e}, of the value norm {error['value']:.1e}"
    for projected, value in (
        ("γ and β, projected norm", "γ and β, value norm"),
        ("γ and β, projected norm, fused kernel", "γ and β, fused kernel"),
    ):
        timing = compare({value: ways[value], projected: ways[projected]}, rounds)[projected]
        yield Row.of(projected, str(INPUT_NORM_SHAPE), timing, value, 1.05, note)


def measure_extras(shape: Shape, rounds: int) -> Iterator[Row]:
    """Symmetricity and stability against the matrix products that nothing could do without."""
    call = Call(shape)
    q, k = (y.contiguous() for y in (call.q, call.k))
    retrieved = pytorch_attend(q, k, call.v, None, shape.head_dim**-0.5)

    def gram_matrices() -> None:
        for one, other in ((k, q), (q, q), (k, k)):
            one.mT @ other

    gram = compare({"floor": gram_matrices, "η": call.strengths}, rounds)["η"]
    yield Row.of("adaptive η", str(shape), gram, "its three Gram matrices", 1.3)

    s = retrieved.contiguous()
    a, b = q.mT @ s, k.mT @ s

    def products() -> None:
        q.mT @ s
        k.mT @ s
        q @ b
        k @ a

    cheap = ("energy", "instability", "alignment")
    ways: dict[str, Work] = {
        "floor": products,
        PLAIN: lambda: pytorch_attend(q, k, call.v, None, shape.head_dim**-0.5),
        "three": lambda: hopfield_stability(q, k, retrieved, cheap),
        "four": lambda: hopfield_stability(q, k, retrieved, (*cheap, "depth")),
        "all": lambda: hopfield_stability(q, k, retrieved),
    }
    timings = compare(ways, rounds)
    goal = 1.5 if shape.tokens >= 16 * shape.head_dim else None
    share = f"floor {timings['floor'].seconds / timings[PLAIN].seconds:.3f} of plain attention"
    arithmetic = f"{share}; by counting 3.5·d/L = {3.5 * shape.head_dim / shape.tokens:.3f}"
    yield Row.of("stability: three measures", str(shape), timings["three"], "its four products", goal, arithmetic)
    yield Row.of("stability: with depth", str(shape), timings["four"], "its four products", goal)
    yield Row.of("stability: with depth and curvature", str(shape), timings["all"], "its four products")
    if shape in AUTHORS_SHAPES:
        patterns = torch.softmax(q @ k.mT * shape.head_dim**-0.5, dim=-1) @ call.x[:, None]
        theirs: dict[str, Callable[[], object]] = {
            "ours": lambda: hopfield_stability(q, k, patterns, cheap),
            "theirs": lambda: authors_way.stability(call.x, patterns, call.query_weight, call.key_weight),
        }
        against = compare(theirs, max(2, rounds // 3))["theirs"]
        yield Row.of("authors' way: stability, input patterns", str(shape), against, "ours, input patterns")


def measure_growth(rounds: int) -> Iterator[tuple[str, list[float], float]]:
    """(work, seconds for each of LENGTHS, fitted exponent of L) for one sample with 4 heads of 64."""
    ways: dict[str, Callable[[Call], object]] = {
        PLAIN: lambda call: F.scaled_dot_product_attention(call.q, call.k, call.v),
        "γ": lambda call: call.skewed(beta=1.0),
        "γ and β, value norm": lambda call: call.skewed(),
        "adaptive η": lambda call: call.strengths(),
        "stability: three measures": lambda call: hopfield_stability(
            call.q, call.k, call.v, ("energy", "instability", "alignment")
        ),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for length in LENGTHS:
        call = Call(Shape(1, 4, length, 64))
        timings = compare({name: partial(way, call) for name, way in ways.items()}, rounds)
        for name, timing in timings.items():
            seconds[name].append(timing.seconds)
    for name, taken in seconds.items():
        yield name, taken, exponent(LENGTHS, taken)


def exponent(lengths: tuple[int, ...], seconds: list[float]) -> float:
    """The slope of log seconds over log length, by least squares."""
    x, y = [math.log(n) for n in lengths], [math.log(t) for t in seconds]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    above = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return above / sum((a - mean_x) ** 2 for a in x)
