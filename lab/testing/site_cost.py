"""The cost of a patched site before any arithmetic: operations dispatched and Python functions called, counted.

    python -m lab.benchmarks.operations     # prints the table of all modes, in float32 and bfloat16, in half a minute

A GPU waits for every operation that is handed to it, and for the Python that hands it over. Both are the same with tiny
tensors on a CPU, and both counts are exact. They are taken during one model call of a tiny SDXL, once with every site
patched and once with some of them, so the cost of a site is kept apart from the cost of a model call. What takes more
operations on a CPU, because they are cheap there, is counted the way a card does it. It is not the first model call of
its run, so what is done once a run is not counted: the progress of all steps (tests/host/test_progress.py).
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from types import FrameType
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from torch import Tensor
from torch._library.custom_ops import OPDEFS
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lab.testing.families import configs
from lab.testing.families.building import build
from lab.testing.families.rows import FAMILIES
from lab.testing.run_nodes import patches_of, probe, skew, with_feedback

ROW = replace(FAMILIES["SDXL"], latent=(4, 8, 8))
CONFIG = {  # several heads at every site, as in the real one: what one head leaves behind needs no copy to be flattened
    **configs.SDXL,
    "num_res_blocks": [1, 1],
    "channel_mult": [1, 2],
    "transformer_depth": [0, 1],
    "transformer_depth_output": [0, 0, 1, 1],
    "transformer_depth_middle": 2,
}
ALL, SOME = 5, 2  # sites of this model, and those that are patched where not all are
FULL_SIZE_SITES = 70  # of the real SDXL
WARMING, OPERATIONS, PYTHON = range(3)  # the model calls of a run: one that fills the caches, and one for each count
SYMMETRICITY = sys.modules["symmetric_attention.sad_core.symmetricity"]  # its package has the function by this name
WITHOUT_WORK = ("empty", "new_empty", "_unsafe_view")  # beginnings of the names of operations that compute nothing
READS = ("_local_scalar_dense",)  # a number that Python reads, for which it waits

MODES: dict[str, Callable[[ModelPatcher, str], ModelPatcher]] = {
    "gamma": lambda model, blocks: skew(model, 1.05, 1.0, blocks=blocks)[0],
    "gamma and beta": lambda model, blocks: skew(model, 1.05, 3.0, blocks=blocks)[0],
    "adaptive": lambda model, blocks: skew(model, 1.05, 3.0, adaptive="gamma and beta", blocks=blocks)[0],
    "gamma, mask": lambda model, blocks: skew(model, 1.05, 1.0, mask=half_painted(), blocks=blocks)[0],
    "gamma and beta, mask": lambda model, blocks: skew(model, 1.05, 3.0, mask=half_painted(), blocks=blocks)[0],
    "feedback": lambda model, blocks: with_feedback(skew(model, 1.05, 1.0, blocks=blocks)[0], blocks=blocks)[0],
    "probe": lambda model, blocks: probe(model, blocks=blocks)[0],
    "probe with depth and curvature": lambda model, blocks: probe(model, blocks=blocks, depth_and_curvature=True)[0],
}


def half_painted() -> Tensor:
    """A mask over a picture of `ROW`, `(1, height, width)`: 1 in its left half and 0 in the other."""
    mask = torch.zeros(1, *ROW.latent[-2:])
    mask[:, :, : mask.shape[2] // 2] = 1.0
    return mask


class Cost(NamedTuple):
    """Operations that are no views, and Python functions called."""

    operations: float
    python_calls: float


class ModeCost(NamedTuple):
    """The cost of a mode in one model call, beyond the unpatched model.

    Attributes:
        site: of each site.
        model_call: of the model call itself, however many sites it has.
    """

    site: Cost
    model_call: Cost

    @property
    def shared_out(self) -> Cost:
        """The cost of a site with its share of that of the model call, in an SDXL of full size."""
        pairs = zip(self.site, self.model_call, strict=True)
        return Cost(*(site + model_call / FULL_SIZE_SITES for site, model_call in pairs))


@cache
def mode_cost(mode: str, dtype: torch.dtype) -> ModeCost:
    """Return the cost of `mode`, one of `MODES`, in a model of `dtype`."""
    plain = _plain_cost(dtype)
    some, every = (
        [number - base for number, base in zip(_cost(dtype, mode, sites), plain, strict=True)] for sites in (SOME, ALL)
    )
    site = Cost(*((most - least) / (ALL - SOME) for most, least in zip(every, some, strict=True)))
    model_call = Cost(*(total - ALL * each for total, each in zip(every, site, strict=True)))
    return ModeCost(site, model_call)


def operations_of_a_site(mode: str, dtype: torch.dtype) -> float:
    """Return the operations of `mode` at each site, counted now, so with whatever a test has put in place of ours."""
    return (_cost(dtype, mode, ALL).operations - _cost(dtype, mode, SOME).operations) / (ALL - SOME)


@cache
def _plain_cost(dtype: torch.dtype) -> Cost:
    return _cost(dtype, None, 0)


@cache
def _model(dtype: torch.dtype) -> ModelPatcher:
    return build("SDXL", CONFIG, dtype=dtype)


@cache
def _addresses() -> tuple[str, ...]:
    patch = patches_of(skew(_model(torch.float32))[0])[0]
    addresses = tuple(site.address for site in patch.sites)
    assert len(addresses) == ALL
    return addresses


def _cost(dtype: torch.dtype, mode: str | None, sites: int) -> Cost:
    """Return the cost of one model call with so many sites patched for `mode`."""
    counting = CountingModelCalls()
    model = _model(dtype).clone()
    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "site cost", counting)  # first, so it encloses ours
    with patch.object(SYMMETRICITY, "CHEAP_OPERATIONS", ()):
        ROW.sample(model if mode is None else MODES[mode](model, ", ".join(_addresses()[:sites])), steps=PYTHON + 1)
    return Cost(counting.operations, counting.python_calls)


class CountingModelCalls:
    """A wrapper around the model calls of one run that counts what happens in them."""

    def __init__(self) -> None:
        self.model_calls = 0
        self.operations = 0
        self.python_calls = 0

    def __call__(self, executor: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Make the model call and count in it what its place in the run is for."""
        place, self.model_calls = self.model_calls, self.model_calls + 1
        if place == OPERATIONS:
            with CountingOperations() as counting:
                result = executor(*args, **kwargs)
            self.operations = counting.operations
            return result
        if place == PYTHON:
            return self._profiled(executor, *args, **kwargs)
        return executor(*args, **kwargs)

    def _profiled(self, executor: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        def count(frame: FrameType, event: str, argument: Any) -> None:
            self.python_calls += event == "call"

        outer, collects = sys.getprofile(), gc.isenabled()
        gc.disable()  # a collection calls functions of objects that have nothing to do with it
        sys.setprofile(count)
        try:
            return executor(*args, **kwargs)
        finally:
            sys.setprofile(outer)
            if collects:
                gc.enable()


class CountingOperations(TorchDispatchMode):
    """Counts the operations that write numbers, not those that only look at a tensor in another way.

    Operations within the Python body of a custom operation count as well. A body that dispatches none counts as one,
    because the kernels that it launches are not seen.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation and count it."""
        kwargs = kwargs or {}
        body = OPDEFS.get(func._schema.name)
        if body is not None:
            before = self.operations
            with self:
                result = body._init_fn(*args, **kwargs)
            self.operations += self.operations == before
            return result
        result = func(*args, **kwargs)
        given = {_storage(x) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        is_view = all(_storage(x) in given for x in tree_leaves(result) if isinstance(x, Tensor))
        works = func._schema.is_mutable or not is_view or func.__name__.startswith(READS)
        self.operations += works and not func.__name__.startswith(WITHOUT_WORK)
        return result


def _storage(x: Tensor) -> int:
    address: int = x.untyped_storage()._cdata
    return address


def table() -> str:
    """Return the costs of all modes as a table."""
    lines = [f"{'per site and model call, beyond plain':40s}{'operations':>24s}{'Python calls':>20s}"]
    for mode in MODES:
        for dtype in (torch.float32, torch.bfloat16):
            cost = mode_cost(mode, dtype)
            parts = [f"{cost.site[index]:8.1f} + {cost.model_call[index]:.0f}/{FULL_SIZE_SITES}" for index in range(2)]
            lines.append(f"{mode:32s}{str(dtype).removeprefix('torch.'):10s}{parts[0]:>22s}{parts[1]:>20s}")
    return "\n".join(lines)
