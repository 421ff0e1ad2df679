"""Shared runs of one family's tests, so that its tiny model is built and run as seldom as possible."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import comfy.supported_models
import pytest
import torch

from lab.testing.families.family import Family
from lab.testing.recorder import Seen, watch_attention
from lab.testing.run_nodes import skew


@dataclass(frozen=True)
class Runs:
    """The plain model of one row, watched, and patched clones of it."""

    row: Family

    @cached_property
    def plain(self) -> list[Seen]:
        return self.watched(self.row.model)

    @cached_property
    def picture(self) -> torch.Tensor:
        return self.row.sample()

    @cached_property
    def _skewed(self) -> dict[str, list[Seen]]:
        return {}

    def skewed(self, gamma: float, beta: float = 1.0, **widgets: Any) -> list[Seen]:
        """The calls of a run with these widgets, made once."""
        key = f"{gamma}, {beta}, {widgets}"
        if key not in self._skewed:
            patched, _ = skew(self.row.model, gamma, beta, **widgets)
            self._skewed[key] = self.watched(patched)
        return self._skewed[key]

    def watched(self, model: Any, **options: Any) -> list[Seen]:
        with watch_attention(model) as calls:
            self.row.sample(model, **options)
        return calls

    @cached_property
    def takes_one_row(self) -> bool:
        """False where this ComfyUI's network takes cond and uncond only together."""
        try:
            self.row.sample(cfg=1.0)
        except ValueError as problem:
            if "not enough values to unpack" not in str(problem):
                raise
            return False
        return True

    def need_one_row(self) -> None:
        """Skip a test that calls the network with one row, where it does not take one."""
        if not self.takes_one_row:
            pytest.skip(f"{self.row.name} of this ComfyUI takes cond and uncond only together")

    def site(self, seen: Seen) -> str | None:
        """The address of the site that made a call; None for cross-attention and whatever else is no site."""
        return self.row.site_of(seen.path)

    def acting(self, calls: list[Seen]) -> list[Seen]:
        return [seen for seen in calls if self.acts_in(seen)]

    def acts_in(self, seen: Seen) -> bool:
        """Return whether γ acts in a call."""
        has_image = not self.row.image_alone or seen.q.shape[2] == self.row.image_tokens
        return self.site(seen) in self.row.paths and has_image


def in_this_host(classes: Iterable[str]) -> list[str]:
    """Return those classes of `comfy.supported_models` that the ComfyUI of this process has."""
    return [name for name in classes if hasattr(comfy.supported_models, name)]
