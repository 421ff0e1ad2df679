"""The arguments with which a model calls one of its modules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Argument = tuple[str, int]  # name and position


@dataclass(frozen=True)
class SiteCall:
    """The arguments of one call of a module's `forward`.

    Attributes:
        seen_lengths: lengths that the sensors of this forward have seen, by the name of the sensor.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    seen_lengths: Mapping[str, int] = field(default_factory=dict)

    def argument(self, name: str, position: int) -> Any:
        """The argument called `name`, or the positional one at `position`; None where it was not given."""
        if name in self.kwargs:
            return self.kwargs[name]
        return self.args[position] if position < len(self.args) else None

    def length(self, name: str, position: int) -> int | None:
        """Number of tokens of the `(B, L, C)` argument called `name`; None where it was not given."""
        argument = self.argument(name, position)
        return None if argument is None else argument.shape[1]

    @property
    def options(self) -> Mapping[str, Any]:
        """The `transformer_options` of the call, empty where it got none."""
        return self.kwargs.get("transformer_options") or {}
