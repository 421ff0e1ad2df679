"""The noise level of a model call, read from the device as late and as seldom as possible.

Reading a number from a GPU waits for all that the GPU still has to do. So a model call hands out a `NoiseLevel`, which
every node of the pack shares and which reads when somebody asks for the number, once.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .progress import ModelSampling, progress_at
from .shared import Shared

LEVEL = "symmetric_attention_noise_level"  # the key in the options of a model call


class NoiseScale:
    """The progress of every sigma of one sampling run, each computed once.

    That of all sigmas that the run is going to have is computed when the first one is asked for, so that model calls
    find theirs. A sampler may call the model at sigmas between them, which are computed when they come.

    Attributes:
        coming: the sigmas of the run, `(steps + 1,)`, where they are; None where nobody says them, and once they are
            read.
    """

    def __init__(self, model_sampling: ModelSampling, coming: Tensor | None = None):
        self.coming = coming
        self._model_sampling = model_sampling
        self._on_cpu: ModelSampling | None = None
        self._known: dict[float, float] = {}
        self._foreseen: list[float] = []

    def foresee(self, sigmas: Tensor) -> None:
        """Take `sigmas`, a copy of `coming` on the CPU. The model is not called at the last one."""
        self.coming, self._foreseen = None, sigmas.tolist()[:-1]

    def progress_at(self, sigma: float) -> float:
        """Return the p in [0, 1] that belongs to `sigma`, see `progress.progress_at`."""
        if sigma not in self._known:
            if self._on_cpu is None:
                self._on_cpu = on_cpu(self._model_sampling)
            for each in {sigma, *self._foreseen}:
                self._known[each] = progress_at(self._on_cpu, each)
            self._foreseen = []
        return self._known[sigma]


class NoiseLevel(Shared):
    """The noise level of one model call.

    Attributes:
        t: the host's `(B,)` sigmas of the call, where the model is. They are not changed afterwards.
        scale: of its run.
    """

    def __init__(self, t: Tensor, scale: NoiseScale):
        self.t = t
        self.scale = scale
        self._sigma: float | None = None

    @property
    def sigma(self) -> float:
        """The highest sigma of the batch. The first use waits for the device, unless `read_levels` came before it."""
        if self._sigma is None:
            read_levels([self])
        assert self._sigma is not None
        return self._sigma

    @property
    def progress(self) -> float:
        """The progress at `sigma`, in [0, 1]."""
        return self.scale.progress_at(self.sigma)

    def know(self, sigmas: Tensor) -> None:
        """Take `sigmas`, a copy of `t` on the CPU, for what `t` says."""
        self._sigma = float(sigmas.max())


def level_of(options: Any, t: Tensor, scale: NoiseScale) -> NoiseLevel:
    """Return the noise level of the model call with these options and sigmas, the same for every node of the pack."""
    level = options.get(LEVEL)
    if not isinstance(level, NoiseLevel) or level.t is not t:
        level = options[LEVEL] = NoiseLevel(t, scale)
    return level


def read_levels(levels: Sequence[NoiseLevel], others: Sequence[Tensor] = ()) -> list[Tensor]:
    """Read the levels that nobody has read yet, and copies of other flat tensors with them, in one go.

    The sigmas that their runs are going to have are read with them, so those cost no wait of their own.

    Args:
        levels: of model calls.
        others: `(N,)` tensors, any N.

    Returns:
        `others` on the CPU.
    """
    unread = [level for level in dict.fromkeys(levels) if level._sigma is None]
    coming = {level.scale: level.scale.coming for level in unread}
    scales = {scale: sigmas.flatten() for scale, sigmas in coming.items() if sigmas is not None}
    parts = read_together([*(level.t.flatten() for level in unread), *scales.values(), *others])
    for level, part in zip(unread, parts, strict=False):
        level.know(part)
    for scale, part in zip(scales, parts[len(unread) :], strict=False):
        scale.foresee(part)
    return parts[len(unread) + len(scales) :]


def read_together(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return flat tensors on the CPU, read with one wait for each device and dtype that they have."""
    groups: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    for index, tensor in enumerate(tensors):
        groups.setdefault((tensor.device, tensor.dtype), []).append(index)
    result = list(tensors)
    for indices in groups.values():
        together = torch.cat([tensors[index] for index in indices]).cpu()
        parts = together.split([len(tensors[index]) for index in indices])
        for index, part in zip(indices, parts, strict=True):
            result[index] = part
    return result


def on_cpu(model_sampling: ModelSampling) -> ModelSampling:
    """Return `model_sampling`, or a copy of it where its tables lie on a device.

    `progress_at` reads them several times for a sigma, and each time would wait for the device.
    """
    if not isinstance(model_sampling, torch.nn.Module):
        return model_sampling
    tables = [*model_sampling.parameters(), *model_sampling.buffers()]
    if all(table.device.type == "cpu" for table in tables):
        return model_sampling
    try:
        copied: ModelSampling = copy.deepcopy(model_sampling).cpu()
    except Exception:  # another pack's may hold what cannot be copied; its own tables are right, and slower
        return model_sampling
    return copied
