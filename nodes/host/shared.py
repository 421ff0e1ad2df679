"""Objects of which there is one, however often ComfyUI's dictionaries around them are copied."""

from __future__ import annotations

from typing import Any, TypeVar

Self = TypeVar("Self", bound="Shared")


class Shared:
    """Something that runs write into: a copy of what holds it holds the same one.

    Packs copy `model_options` with `copy.deepcopy` in the middle of a run and call the model with the copy. That call
    belongs to the run and is reported with it.
    """

    def __copy__(self: Self) -> Self:
        return self

    def __deepcopy__(self: Self, memo: dict[int, Any]) -> Self:
        return self
