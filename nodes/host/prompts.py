"""Find the prompt of each row of a model call.

ComfyUI's `cond_or_uncond` marks are indices into the list of prompts that one evaluation got, not names. Another
guider, or a node that evaluates the model once more, hands over another list. A guider keeps its conditionings by
name, and every conditioning has an id, its `uuid`. The id is not enough to name a row either: beside a prompt with an
area ComfyUI puts a copy with the same id among the prompts of the other side (comfy/samplers.py,
`create_cond_with_same_area_if_none`). So a row is named by its id and by the whole list it comes from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .shared import Shared

PLACES = "symmetric_attention.places"  # where the options of an evaluation hold its `Places`
POSITIVE, NEGATIVE = SIDES = ("positive", "negative")
UNKNOWN = "pass unknown"
# Beside the ids and what ComfyUI derives from a prompt, these do not make it another prompt.
NOT_OF_A_PROMPT = ("uuid", "prompt_type", "model_conds")

NO_GUIDER = "no guider called the model, so it is not known which prompt is which"
NO_IDS = "the model was called without the ids of its prompts"
OTHER_ROWS = (
    "the model call did not have one row for each prompt and image, for example because another node samples in tiles"
)
NOT_OF_THE_GUIDER = "the guider did not say which prompt one of them is"
SHARED_ID = "different prompts had the same id"

Conditionings = Mapping[str, Sequence[Mapping[str, Any]]]
Area = tuple[int, int, int, int]  # of a latent: height, width, top, left


@dataclass(frozen=True)
class Prompt:
    """The prompt of some rows of a model call.

    Attributes:
        name: the guider's name for it, or `UNKNOWN`.
        sides: which of `SIDES` it is; none for a third prompt of a guider, unless it is the same as one of them.
        number: counts the conditionings of this name from 1.
    """

    name: str
    sides: tuple[str, ...] = ()
    number: int = 1

    @property
    def label(self) -> str:
        """The name, with the number from the second one of this name on."""
        return self.name if self.number == 1 else f"{self.name} {self.number}"


@dataclass(frozen=True)
class CallPrompts:
    """The prompts of one model call.

    Attributes:
        chunks: a prompt for each of as many equal parts of the rows; one where the rows cannot be told apart.
        reason: why a prompt is `UNKNOWN`; empty where none is.
    """

    chunks: tuple[Prompt, ...]
    reason: str = ""


@dataclass(frozen=True)
class Places:
    """The lists of prompts of one evaluation.

    Attributes:
        names: the guider's names for the list at each place: one, none where it is not the guider's, more where the
            guider has the same list twice.
        rows: rows of the latent, which each prompt gets.
        source: the prompts of the run.
        size: height and width of the latent.
        areas: for the list at each place, the part of the latent that each prompt has, by id; None where one id means
            several.
    """

    names: tuple[tuple[str, ...], ...]
    rows: int
    source: RunPrompts | None = None
    size: tuple[int, int] = (0, 0)
    areas: tuple[Mapping[Any, Area | None], ...] = ()

    def area(self, mark: int, chunk: Any) -> Area | None:
        """Return the part of the latent that the rows with this mark and id have; None where it is not known."""
        return self.areas[mark].get(chunk) if mark < len(self.areas) else None


UNREAD = CallPrompts(())  # where nothing depends on the prompts
NOBODY = CallPrompts((Prompt(UNKNOWN),), NO_GUIDER)


class RunPrompts(Shared):
    """The prompts of one sampling run by name.

    Args:
        given: the conditionings by name, as they were handed over.
        current: returns the conditionings by name as they are now, with the copies that ComfyUI adds.
    """

    def __init__(self, given: Conditionings, current: Callable[[], Conditionings]):
        self._given = given
        self._current = current
        self._sides: dict[str, tuple[str, ...]] = {}

    def evaluate(
        self,
        executor: Callable[..., Any],
        model: Any,
        conds: Sequence[Sequence[Mapping[str, Any]] | None],
        x_in: Tensor,
        timestep: Tensor,
        model_options: dict[str, Any],
    ) -> Any:
        """Evaluate lists of prompts as ComfyUI's `calc_cond_batch` does, with their names in the options.

        The arguments have its names, because other packs may hand them over by name.
        """
        ids = self._ids()
        names = tuple(_names_of(_ids_of(prompts or ()), ids) for prompts in conds)
        options = model_options["transformer_options"]
        outer = options.get(PLACES)
        size = (x_in.shape[-2], x_in.shape[-1])
        areas = tuple(_areas_of(prompts or (), *size) for prompts in conds)
        options[PLACES] = Places(
            names, len(x_in), self, size, areas
        )  # in place: others keep their state in these options too
        try:
            return executor(model, conds, x_in, timestep, model_options)
        finally:
            options.pop(PLACES)
            if outer is not None:
                options[PLACES] = outer

    def without_contents(self) -> RunPrompts:
        """Return the same prompts, of which only the ids and the sides are held and no tensor."""
        ids: Conditionings = {name: [{"uuid": each} for each in own] for name, own in self._ids().items()}
        kept = RunPrompts({}, lambda: ids)
        kept._sides = {name: self._sides_of(name) for name in ids}
        return kept

    def of_call(self, options: Mapping[str, Any], rows: int) -> CallPrompts:
        """Return the prompts of a model call with these `transformer_options` and so many rows."""
        chunk_ids, marks = options.get("uuids") or (), options.get("cond_or_uncond") or ()
        places = options.get(PLACES)
        if not chunk_ids or len(chunk_ids) != len(marks):
            return CallPrompts((Prompt(UNKNOWN),), NO_IDS)
        if places is None:  # another pack evaluates the prompts in a way of its own
            places = Places((), len(options.get("sigmas", ())))
        if rows != len(chunk_ids) * places.rows:
            return CallPrompts((Prompt(UNKNOWN),), OTHER_ROWS)
        ids = self._ids()
        reason = ""
        chunks = []
        for chunk, mark in zip(chunk_ids, marks, strict=True):
            names = [name for name, each in ids.items() if chunk in each]
            if mark < len(places.names):
                names = [name for name in names if name in places.names[mark]] or names
            if names and all(ids[name] == ids[names[0]] for name in names):
                sides = tuple(side for side in SIDES if any(side in self._sides_of(name) for name in names))
                chunks.append(Prompt(names[0], sides, 1 + ids[names[0]].index(chunk)))
            else:
                reason = SHARED_ID if names else NOT_OF_THE_GUIDER
                chunks.append(Prompt(UNKNOWN, number=1 + sum(each.name == UNKNOWN for each in chunks)))
        return CallPrompts(tuple(chunks), reason)

    def _ids(self) -> dict[str, tuple[Any, ...]]:
        return {name: _ids_of(prompts) for name, prompts in self._current().items()}

    def _sides_of(self, name: str) -> tuple[str, ...]:
        if name not in self._sides:
            own = self._given.get(name)
            sides = [side for side in SIDES if own is not None and _are_the_same(own, self._given.get(side))]
            self._sides[name] = (name,) if name in SIDES else tuple(sides)
        return self._sides[name]


def prompts_of_guider(guider: Any) -> RunPrompts:
    """Return the prompts of the run that a guider of ComfyUI starts now."""
    given = getattr(guider, "original_conds", None) or {}
    return RunPrompts(given, lambda: getattr(guider, "conds", None) or given)


def _ids_of(prompts: Sequence[Mapping[str, Any]]) -> tuple[Any, ...]:
    return tuple(each.get("uuid") for each in prompts)


def _areas_of(prompts: Sequence[Mapping[str, Any]], height: int, width: int) -> Mapping[Any, Area | None]:
    """Return the area of each prompt of a list, by id, within a latent of this size.

    ComfyUI's areas are all their sizes and then all their starts, height before width (comfy/samplers.py,
    `get_area_and_mult`).
    """
    found: dict[Any, Area | None] = {}
    for prompt in prompts:
        area, chunk = prompt.get("area"), prompt.get("uuid")
        own: Area = height, width, 0, 0
        if area is not None:
            dims = len(area) // 2
            top, left = int(area[-2]), int(area[-1])
            own = min(height - top, int(area[dims - 2])), min(width - left, int(area[dims - 1])), top, left
        found[chunk] = own if found.get(chunk, own) == own else None
    return found


def _names_of(own: tuple[Any, ...], ids: Mapping[str, tuple[Any, ...]]) -> tuple[str, ...]:
    """Return the names of a list with these ids: those of the same list, or else those that have all of its ids."""
    exactly = tuple(name for name, each in ids.items() if each == own)
    return exactly or tuple(name for name, each in ids.items() if own and set(own) <= set(each))


def _are_the_same(one: Any, other: Any) -> bool:
    """Return whether two conditionings, or parts of them, are the same object or have equal numbers."""
    if one is other:
        return True
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        is_alike = isinstance(one, Tensor) and isinstance(other, Tensor) and one.shape == other.shape
        return is_alike and one.dtype == other.dtype and one.device == other.device and torch.equal(one, other)
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        names = {*one, *other}.difference(NOT_OF_A_PROMPT)
        return all(name in one and name in other and _are_the_same(one[name], other[name]) for name in names)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(_are_the_same, one, other))
    return type(one) is type(other) and isinstance(one, (str, int, float)) and one == other
