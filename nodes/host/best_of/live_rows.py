"""Model calls of a batch of which only some rows are still wanted.

The sampler keeps its whole batch, so a sampler with a history, or a function that another node hangs into the guidance,
sees no change. Only the evaluations of the model leave rows out. A row that is left out is predicted as what it is, so
it stays where it is and stays finite.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import comfy.model_management
import torch
from torch import Tensor

from ..memory import is_out_of_memory
from ..rows import named_rows
from .row_noise import RowNoise

Conditionings = Sequence[Sequence[Mapping[str, Any]] | None]
Prediction = list[Tensor]  # one for each list of conditionings, each with all rows of the evaluation


class LiveRows:
    """The rows that go on, how many of them were computed, and how many are computed at once.

    Args:
        names: of the rows, in a trace.
        at_once: see the attribute.
        noise: which is paused while the model computes.
        recorded: what earlier evaluations of these rows gave; the first ones take it instead of the model.
        keeps: whether to keep what the evaluations give.

    Attributes:
        at_once: the most rows of an evaluation; 0 means as many as fit into memory, until one did not.
        alive: the rows that go on.
        computed: rows that the model computed, of all evaluations together.
        evaluations: how many there were, recorded ones too.
        predictions: of each evaluation, which rows it had and what came of it; None where nothing is kept.
    """

    def __init__(
        self,
        names: Sequence[int],
        at_once: int,
        noise: RowNoise,
        recorded: Sequence[Prediction] = (),
        keeps: bool = False,
    ):
        self.batch = len(names)
        self.alive = list(range(self.batch))
        self.computed = 0
        self.evaluations = 0
        self._names = names
        self.predictions: list[tuple[list[int], Prediction]] | None = [] if keeps else None
        self.at_once = at_once
        self._noise = noise
        self._recorded = deque(recorded)

    def evaluate(
        self,
        executor: Callable[..., Any],
        model: Any,
        conds: Conditionings,
        x_in: Tensor,
        timestep: Tensor,
        model_options: dict[str, Any],
    ) -> Prediction:
        """Evaluate lists of prompts as ComfyUI's `calc_cond_batch` does, for the rows that go on.

        The arguments have its names, because other packs may hand them over by name.
        """
        conds = [None if each is None else [_of_one(cond) for cond in each] for each in conds]
        if len(x_in) != self.batch:  # another node evaluates parts of the batch in a way of its own
            with self._noise.paused():
                foreign: Prediction = executor(model, conds, x_in, timestep, model_options)
            self.computed += len(x_in)
            return foreign
        self.evaluations += 1
        if self._recorded:
            return [each.to(x_in) for each in self._recorded.popleft()]
        with self._noise.paused():
            found = self._evaluate_alive(executor, model, conds, x_in, timestep, model_options)
        self.computed += len(self.alive)
        if self.predictions is not None:
            self.predictions.append((list(self.alive), [each.clone() for each in found]))
        if len(self.alive) == self.batch:
            return found
        result = [x_in.clone() for _ in found]
        for whole, part in zip(result, found, strict=True):
            whole[self.alive] = part
        return result

    def recorded_of(self, rows: Sequence[int]) -> list[Prediction]:
        """Return what the evaluations so far gave for these rows, all of which go on."""
        assert self.predictions is not None
        kept = []
        for alive, found in self.predictions:
            places = [alive.index(row) for row in rows]
            kept.append([each[places] for each in found])
        return kept

    def _evaluate_alive(
        self,
        executor: Callable[..., Any],
        model: Any,
        conds: Conditionings,
        x_in: Tensor,
        timestep: Tensor,
        model_options: dict[str, Any],
    ) -> Prediction:
        """Return the predictions of the rows that go on, computed as many at once as memory allows."""
        options = model_options.setdefault("transformer_options", {})
        waiting = list(self.alive)
        at_once = self.at_once or _fitting(model, x_in, len(waiting))
        parts: list[Prediction] = []
        while waiting:
            rows = waiting[:at_once]
            times = timestep[rows] if len(timestep) == self.batch else timestep
            try:
                with named_rows(options, [self._names[row] for row in rows]):
                    parts.append(executor(model, conds, x_in[rows], times, model_options))
            except Exception as error:
                if len(rows) == 1 or not is_out_of_memory(error):
                    raise
                at_once = self.at_once = (len(rows) + 1) // 2
                comfy.model_management.soft_empty_cache()
                continue
            del waiting[: len(rows)]
        return parts[0] if len(parts) == 1 else [torch.cat(each) for each in zip(*parts, strict=True)]


def _fitting(model: Any, x: Tensor, rows: int) -> int:
    """Return how many rows of `x` fit into memory, by ComfyUI's estimate for one prompt; at least 1."""
    free = comfy.model_management.get_free_memory(x.device)
    while rows > 1 and model.memory_required([rows, *x.shape[1:]]) > free:
        rows = (rows + 1) // 2
    return rows


def _of_one(cond: Mapping[str, Any]) -> dict[str, Any]:
    """Return a conditioning as ComfyUI would use it for a batch of one, so that every row gets the same."""
    given = cond.get("model_conds", {})
    changed = {"model_conds": {name: each.process_cond(batch_size=1, area=None) for name, each in given.items()}}
    if "mask" in cond:
        changed["mask"] = cond["mask"][:1]
    return {**cond, **changed}
