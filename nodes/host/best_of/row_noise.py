"""Noise for a batch in which every row has its own seed, so that each gets the noise of a run by itself.

A sampler draws noise in three ways (comfy/k_diffusion/sampling.py, comfy/samplers.py): from a generator that it seeds
with the seed of the run, from PyTorch's own generator, and from a Brownian tree. `RowNoise` answers the first two with
a generator for each row, and gives the tree a seed for each row. Another pack's sampler that draws with `torch.randn`
is answered too.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import comfy.k_diffusion.sampling as k_diffusion_sampling
import comfy.utils
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

SEEDS = 2**64  # as many as ComfyUI's widget has


def seeds_from(first: int, count: int) -> list[int]:
    """Return `count` seeds that follow each other; after the highest one comes 0."""
    return [(first + offset) % SEEDS for offset in range(count)]


class StartingNoise:
    """The initial noise of each seed, and the state of PyTorch's generator after the draw.

    Args:
        source: ComfyUI's NOISE.
        latent: ComfyUI's LATENT of one image.
        seeds: of the rows.

    Attributes:
        noise: of each row, as a batch of one.
        states: of PyTorch's generator on the CPU, by row.

    Raises:
        ValueError: the NOISE has no other noise for another seed.
    """

    def __init__(self, source: Any, latent: Mapping[str, Any], seeds: Sequence[int]):
        self.seeds = list(seeds)
        self.noise: list[Any] = []
        self.states: list[Tensor] = []
        for seed in seeds:
            self.noise.append(_seeded(source, seed).generate_noise(latent))
            self.states.append(torch.get_rng_state())
        if len(seeds) > 1 and torch.equal(*map(as_rows, self.noise[:2])):
            raise ValueError(
                '"noise" gives the same noise for every seed, so there is nothing to choose. Wire RandomNoise.'
            )

    def of(self, rows: Sequence[int]) -> StartingNoise:
        """Return the same for some of the rows."""
        chosen = copy.copy(self)
        chosen.seeds = [self.seeds[row] for row in rows]
        chosen.noise = [self.noise[row] for row in rows]
        chosen.states = [self.states[row] for row in rows]
        return chosen

    def batch(self) -> Tensor:
        """Return the noise of all rows, the parts of a nested latent side by side as ComfyUI packs them."""
        return torch.cat([as_rows(each) for each in self.noise])


def as_rows(latent: Any) -> Tensor:
    """Return a latent as ComfyUI samples it: a nested one in one piece (comfy/samplers.py, `CFGGuider.sample`)."""
    packed: Tensor = comfy.utils.pack_latents(latent.unbind())[0] if latent.is_nested else latent
    return packed


class RowNoise(TorchFunctionMode):
    """While it is entered, noise of the shape of the batch is drawn row by row, each from its own generator.

    Args:
        start: what the rows start with.
        batch: the latent of all rows, for its shape.
    """

    def __init__(self, start: StartingNoise, batch: Tensor):
        super().__init__()
        self.start = start
        self.shape = tuple(batch.shape)
        self._drawn: dict[tuple[int, int], tuple[torch.Generator, list[torch.Generator]]] = {}
        self._own: dict[torch.device, list[torch.Generator]] = {}

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Draw noise of the shape of the batch row by row. All other functions run unchanged."""
        options = dict(kwargs or {})
        if function is torch.randn:
            size = options.get("size", args[0] if args and not isinstance(args[0], int) else args)
            if tuple(size) == self.shape:
                options.pop("size", None)
                return self._draw(options)
        elif function is torch.randn_like:
            like = options.get("input", args[0] if args else None)
            if isinstance(like, Tensor) and tuple(like.shape) == self.shape:
                options = {"dtype": like.dtype, "device": like.device} | options
                return self._draw({name: each for name, each in options.items() if name != "input"})
        return function(*args, **options)

    def _draw(self, options: dict[str, Any]) -> Tensor:
        generator = options.pop("generator", None)
        options.pop("memory_format", None)
        device = torch.device(options.get("device") or "cpu")
        generators = self._generators_of(device) if generator is None else self._generators_like(generator)
        size = (1, *self.shape[1:])
        return torch.cat([torch.randn(size, generator=each, **options) for each in generators])

    def _generators_like(self, generator: torch.Generator) -> list[torch.Generator]:
        """Return a generator for each row, seeded as far from the row's seed as this one is from the run's seed."""
        key = id(generator), generator.initial_seed()
        if key not in self._drawn:
            offset = generator.initial_seed() - self.start.seeds[0]
            found = [
                torch.Generator(device=generator.device).manual_seed((seed + offset) % SEEDS)
                for seed in self.start.seeds
            ]
            self._drawn[key] = generator, found  # it is kept too, so that no other gets its id
        return self._drawn[key][1]

    def _generators_of(self, device: torch.device) -> list[torch.Generator]:
        """Return a generator for each row, in the state of PyTorch's own after the row's noise was drawn."""
        if device not in self._own:
            self._own[device] = []
            for seed, state in zip(self.start.seeds, self.start.states, strict=True):
                generator = torch.Generator(device=device)
                if device.type == "cpu":
                    generator.set_state(state)
                else:
                    generator.manual_seed(seed)
                self._own[device].append(generator)
        return self._own[device]

    @contextmanager
    def drawn_by_row(self) -> Iterator[None]:
        """Draw row by row inside the block, from Brownian trees too."""
        whole_tree = k_diffusion_sampling.BatchedBrownianTree

        def tree_by_row(x: Tensor, t0: Any, t1: Any, seed: Any = None, **options: Any) -> Any:
            if isinstance(seed, int) and tuple(x.shape) == self.shape:
                seed = tuple((seed + each - self.start.seeds[0]) % SEEDS for each in self.start.seeds)
            return whole_tree(x, t0, t1, seed, **options)

        k_diffusion_sampling.BatchedBrownianTree = tree_by_row  # the sampler names the tree, and takes no other
        try:
            with self:
                yield
        finally:
            k_diffusion_sampling.BatchedBrownianTree = whole_tree

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Do not act inside the block, for models that a compiler reads."""
        self.__exit__(None, None, None)  # type: ignore[no-untyped-call]  # torch's
        try:
            yield
        finally:
            self.__enter__()  # type: ignore[no-untyped-call]  # torch's


def _seeded(source: Any, seed: int) -> Any:
    """Return the NOISE with another seed.

    Raises:
        ValueError: it takes none.
    """
    other = copy.copy(source)
    try:
        other.seed = seed
    except AttributeError as error:
        raise ValueError(
            '"noise" does not take another seed, so there is nothing to choose. Wire RandomNoise.'
        ) from error
    return other
