"""γ of every row of one model call, where feedback gives each sample its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class RowGammas:
    """γ among the image tokens, for each sample of a model call.

    Attributes:
        by_sample: γ of every sample; the passes of a sample share it.
        rows: of the model call, the passes one after the other.
        without: γ without feedback.
        tensor: γ of every row, `(rows,)`, where the model is.
        without_tensor: `without` as a 0-d tensor there, for compiled graphs.
    """

    by_sample: tuple[float, ...]
    rows: int
    without: float
    tensor: Tensor
    without_tensor: Tensor

    @classmethod
    def of(cls, by_sample: Sequence[float], passes: int, without: float, device: torch.device) -> RowGammas:
        """Return the γ of a model call with these samples in each of so many passes.

        The tensors are filled on the device: a number that is copied there waits for it.
        """
        distinct = set(by_sample)
        if len(distinct) == 1:
            one_pass = torch.full((len(by_sample),), by_sample[0], dtype=torch.float32, device=device)
        else:
            each = [torch.full((1,), gamma, dtype=torch.float32, device=device) for gamma in by_sample]
            one_pass = torch.cat(each)
        without_tensor = torch.full((), without, dtype=torch.float32, device=device)
        rows = passes * len(by_sample)
        return cls(tuple(by_sample), rows, without, one_pass.repeat(passes), without_tensor)

    @property
    def furthest(self) -> float:
        """The γ that is furthest from 1."""
        return max(self.by_sample, key=lambda gamma: abs(gamma - 1.0))

    def at(self, rows: slice, batch: int, compiling: bool) -> float | Tensor:
        """Return γ for some rows of an attention call: one number, a 0-d tensor or `(rows,)`.

        Video models fold frames or pixels into the batch. With one sample all of them are its own. With more it is not
        known which are whose, so γ is as it is without feedback.

        Args:
            rows: of the attention call.
            batch: all of its rows.
            compiling: whether a graph is being compiled. Then γ is a tensor.
        """
        if batch % self.rows or (batch != self.rows and len(self.by_sample) > 1):
            return self.without_tensor if compiling else self.without
        if not compiling and len(set(self.by_sample)) == 1:
            return self.by_sample[0]
        tensor = self.tensor if batch == self.rows else self.tensor.repeat_interleave(batch // self.rows)
        return tensor[rows]
