"""Counting the numbers that Python reads out of tensors in each model call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from torch.utils._python_dispatch import TorchDispatchMode


class Reads(TorchDispatchMode):
    """Counts the numbers that Python reads out of tensors; on a device each waits for all that was asked of it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


def watched(model: ModelPatcher) -> tuple[ModelPatcher, list[int]]:
    """The model, and a list that gets the number of reads of each of its model calls."""
    model = model.clone()
    reads: list[int] = []

    def watching(executor: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        with Reads() as mode:
            result = executor(*args, **kwargs)
        reads.append(mode.count)
        return result

    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "watching", watching)
    return model, reads
