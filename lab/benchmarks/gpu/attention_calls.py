"""Only the attention, at the shapes of models: time on the device by each way, and the memory it takes."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from lab.benchmarks.gpu.clock import Clock
from lab.benchmarks.timing import Work
from sad_core import adapt, average, hopfield_stability, skew_attention, symmetricity
from sad_core.kernels.call import FusedCall
from sad_core.kernels.eligibility import import_error
from sad_core.kernels.launch import launch

GAMMA, BETA = 1.05, 3.0
THREE = ("energy", "instability", "alignment")


@dataclass(frozen=True)
class Shape:
    """One attention call of a model: samples, heads, tokens, head dim."""

    model: str
    batch: int
    heads: int
    tokens: int
    head_dim: int

    def __str__(self) -> str:
        return f"{self.model} {self.batch} {self.heads} {self.tokens} {self.head_dim}"


SHAPES = (
    Shape("SD1.5", 2, 8, 4096, 40),
    Shape("SD1.5", 2, 8, 1024, 80),
    Shape("SD1.5", 2, 8, 256, 160),
    Shape("SDXL", 2, 10, 4096, 64),
    Shape("SDXL", 2, 20, 1024, 64),
    Shape("SD3.5", 2, 38, 4250, 64),
    Shape("Flux", 1, 24, 4608, 128),
    Shape("Z-Image", 1, 30, 4256, 128),
    Shape("Wan", 1, 40, 14040, 128),
)
TINY_SHAPES = (Shape("tiny", 2, 2, 48, 40), Shape("tiny", 1, 2, 65, 64))


def draw(shape: Shape, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    """q, k and v as the host hands them over: the heads of a token side by side."""
    generator = torch.Generator(device).manual_seed(0)
    size = (shape.batch, shape.tokens, shape.heads, shape.head_dim)
    return [
        torch.randn(size, generator=generator, device=device, dtype=torch.float32).to(dtype).transpose(1, 2)
        for _ in range(3)
    ]


def ways_of(q: Tensor, k: Tensor, v: Tensor) -> dict[str, Work]:
    """Return the timed variants of one attention call, plain attention first."""

    def flash() -> Tensor:
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            return F.scaled_dot_product_attention(q, k, v)

    def strengths() -> tuple[Tensor, Tensor]:
        return adapt(GAMMA, BETA, average(symmetricity(q, k)))

    def fused(beta: float) -> Tensor:
        return launch(FusedCall.of(q, k, v, GAMMA, beta))

    ways: dict[str, Work] = {
        "plain": lambda: F.scaled_dot_product_attention(q, k, v),
        "FlashAttention-2": flash,
        "γ, doubled heads": lambda: skew_attention(q, k, v, GAMMA, kernel=False, tiles=False),
        "γ and β, doubled heads": lambda: skew_attention(q, k, v, GAMMA, BETA, kernel=False, tiles=False),
        "η": strengths,
        "three measures": lambda: hopfield_stability(q, k, v, THREE),
    }
    if q.is_cuda and import_error() is None:
        ways["γ, kernel"] = lambda: fused(1.0)
        ways["γ and β, kernel"] = lambda: fused(BETA)
    return ways


def warm_up(shapes: tuple[Shape, ...], device: torch.device, dtype: torch.dtype) -> None:
    """Compile the kernels of all head dims side by side, which takes seconds each."""
    if device.type != "cuda" or import_error() is not None:
        return
    sizes = {shape.head_dim: shape for shape in shapes}

    def compiled(task: tuple[Shape, float]) -> None:
        shape, beta = task
        q, k, v = (x[:1, :, :193] for x in draw(shape, device, dtype))
        with suppress(Exception):  # the ways that fail are left out of the tables
            launch(FusedCall.of(q, k, v, GAMMA, beta))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(compiled, [(shape, beta) for shape in sizes.values() for beta in (1.0, BETA)]))
    torch.cuda.synchronize(device)


def measure_attention(
    shapes: tuple[Shape, ...], clock: Clock, dtype: torch.dtype
) -> Iterator[tuple[Shape, dict[str, float], dict[str, float]]]:
    """Yield for each shape seconds by way, and peak memory beyond q, k and v in units of q by way."""
    for shape in shapes:
        q, k, v = draw(shape, clock.device, dtype)
        ways = ways_of(q, k, v)
        seconds = clock.device_times(ways)
        size = q.numel() * q.element_size()
        memory = {name: clock.peak(ways[name]) / size for name in seconds}
        yield shape, seconds, memory
