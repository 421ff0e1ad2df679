"""Choose between the fused kernel and the doubled heads, and the block sizes of the kernel.

`choices.json` names the quicker one for each architecture, head dim and mode in half precision. `make benchmark-gpu`
measures both on a card and writes it. Nothing is timed while a model runs, so that the same seed gives the same picture
after a restart. Whatever the table does not name takes the doubled heads.
"""

from __future__ import annotations

import functools
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch

Function = TypeVar("Function", bound=Callable[..., object])

KERNEL, DOUBLED_HEADS = "kernel", "doubled heads"
CHOICES = Path(__file__).with_name("choices.json")
VARIABLE = "SAD_FUSED_KERNEL"
ALWAYS, NEVER = "always", "never"
SMALLEST_SHARED_MEMORY = 99 * 1024  # of a block on every NVIDIA card since Ampere
SHARED_MEMORY_OF_AMD = 64 * 1024


class Blocks(NamedTuple):
    """The division of the kernel's work: queries and keys of a block, warps, and blocks of keys in flight."""

    rows: int
    columns: int
    warps: int
    stages: int


# The first that fits into the shared memory of a card is taken.
WANTED_BLOCKS = (
    Blocks(128, 64, 8, 3),
    Blocks(128, 64, 8, 2),
    Blocks(64, 64, 4, 3),
    Blocks(64, 64, 4, 2),
    Blocks(64, 32, 4, 2),
    Blocks(32, 32, 4, 2),
    Blocks(32, 32, 4, 1),
    Blocks(16, 16, 4, 1),
)
INTERPRETED_BLOCKS = Blocks(32, 16, 4, 1)


def constant_in_graphs(function: Function) -> Function:
    """Have a compiler of graphs call `function` once instead of looking into it.

    This is what `torch.compiler.assume_constant_result` does, which imports the compiler; users who do not compile
    need not wait for that. The compiler sees through `functools.cache`, so what is marked cannot be cached itself.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


@constant_in_graphs
def wish() -> str | None:
    """Return "always" or "never" where the environment variable SAD_FUSED_KERNEL says so, else None."""
    return _wish()


@functools.cache
def _wish() -> str | None:
    value = os.environ.get(VARIABLE, "").strip().lower()
    if value in ("", ALWAYS, NEVER):
        return value or None
    logging.warning("%s is %r, but it must be %r or %r. It is ignored.", VARIABLE, value, ALWAYS, NEVER)
    return None


@functools.cache
def choices() -> dict[str, dict[str, dict[str, str]]]:
    """The table: architecture, head dim and mode to KERNEL or DOUBLED_HEADS."""
    table: dict[str, dict[str, dict[str, str]]] = json.loads(CHOICES.read_text(encoding="utf-8"))
    return table


def mode_of(blends: bool) -> str:
    """The name of a mode in the table."""
    return "gamma and beta" if blends else "gamma"


def chosen(architecture: str, head_dim: int, blends: bool) -> str:
    """KERNEL or DOUBLED_HEADS, from the table."""
    return choices().get(architecture, {}).get(str(head_dim), {}).get(mode_of(blends), DOUBLED_HEADS)


@functools.cache
def architecture_of(index: int) -> str:
    """The architecture of the CUDA or ROCm device `index`, such as "sm_90" or "gfx1100"."""
    properties = torch.cuda.get_device_properties(index)
    if torch.version.hip is not None:
        return str(properties.gcnArchName).partition(":")[0]
    return f"sm_{properties.major}{properties.minor}"


@functools.cache
def shared_memory_of(index: int) -> int:
    """The bytes of shared memory that a block may take on the CUDA or ROCm device `index`."""
    if torch.version.hip is not None:
        return SHARED_MEMORY_OF_AMD
    properties = torch.cuda.get_device_properties(index)
    return int(getattr(properties, "shared_memory_per_block_optin", SMALLEST_SHARED_MEMORY))


@functools.cache
def block_sizes(width: int, blends: bool, bytes_each: int, shared_memory: int) -> Blocks:
    """The blocks for a padded head dim `width` of numbers of `bytes_each` bytes.

    They depend on nothing of a call but this, so that no batch mate and no other length changes a bit.
    """
    most_rows = 64 if blends and width <= 64 else 128
    for blocks in WANTED_BLOCKS:
        own = 2 * blocks.rows * width  # q and k of the rows
        loaded = 3 * blocks.stages * blocks.columns * width  # q, k and v of the columns
        if blocks.rows <= most_rows and (own + loaded) * bytes_each <= shared_memory:
            return blocks._replace(warps=8) if blocks.rows * width > 64 * 128 else blocks
    return WANTED_BLOCKS[-1]


def padded(head_dim: int) -> int:
    """The head dim rounded up to a power of 2 of at least 16, the smallest that matrix products take."""
    return max(16, 1 << (head_dim - 1).bit_length())
