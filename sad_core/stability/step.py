"""One evaluation of a model, with what was measured of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

NAMES = {"cond": "positive", "uncond": "negative"}  # what traces of earlier versions call these passes


class Sample(NamedTuple):
    """One picture of a batch in one pass of the model.

    Attributes:
        pass_name: what the guider calls the prompt, such as positive, negative or middle, with a number for a second
            one, as positive 2. Older traces have cond for positive and uncond for negative.
        number: of the picture, from 0.
    """

    pass_name: str
    number: int

    @property
    def today(self) -> Sample:
        """The same sample by the name its pass has today."""
        name, number = split_pass(self.pass_name)
        return Sample(f"{NAMES.get(name, name)}{number}", self.number)


def split_pass(pass_name: str) -> tuple[str, str]:
    """Return the name of a prompt and what numbers it: "positive" and " 2"; the number is empty for the first one."""
    name, space, number = pass_name.rpartition(" ")
    return (name, space + number) if number.isdecimal() and name else (pass_name, "")


def is_of(pass_name: str, wanted: str) -> bool:
    """Return whether a pass has the given name or a numbered form of it. cond means positive, uncond negative."""
    today, of_all = (Sample(each, 0).today.pass_name for each in (pass_name, wanted))
    return today == of_all or split_pass(today)[0] == of_all


@dataclass(frozen=True)
class Step:
    """One evaluation of the model.

    Attributes:
        sigma, progress: noise level, and how far the run is, 0 … 1.
        samples: what the rows of `values` are.
        columns: `(site, heads)` in the order of the model.
        values: `(samples, measures, heads of all sites)`, float32 on the CPU; NaN where a sample did not reach a site.
        maps: alignment by place in the picture, `(samples, height, width)` in float16, by site; where asked for.
        gammas: the γ that feedback gave each of `samples`; empty without feedback.
    """

    sigma: float
    progress: float
    samples: tuple[Sample, ...]
    columns: tuple[tuple[str, int], ...]
    values: Tensor
    maps: Mapping[str, Tensor] = field(default_factory=dict)
    gammas: tuple[float, ...] = ()

    def of(self, address: str) -> Tensor | None:
        """The values of one site, `(samples, measures, heads)`, or None where the step has none."""
        start = 0
        for name, heads in self.columns:
            if name == address:
                return self.values[..., start : start + heads]
            start += heads
        return None

    @cached_property
    def averages(self) -> Tensor:
        """The mean over the heads, `(sites, samples, measures)` in the order of `columns`."""
        parts = self.values.split([heads for _, heads in self.columns], dim=-1)
        return torch.stack([part.mean(dim=-1) for part in parts])

    def means(self) -> dict[str, Tensor]:
        """The mean over the heads by site, each `(samples, measures)`."""
        return {address: average for (address, _), average in zip(self.columns, self.averages, strict=True)}

    def part_means(self) -> dict[str, Tensor]:
        """The mean over heads, samples and sites of each part of the model (`input`, `double` …), each `(measures,)`.

        The mean over all sites comes first, as "all".
        """
        rows: dict[str, list[int]] = {"all": list(range(len(self.columns)))}
        for row, (address, _) in enumerate(self.columns):
            rows.setdefault(address.partition("#")[0].partition(".")[0], []).append(row)
        return {part: self.averages[each].flatten(0, 1).nanmean(dim=0) for part, each in rows.items()}

    def gamma_by_sample(self) -> dict[int, float]:
        """The γ that feedback gave, by the number of the sample; the passes of a sample share it."""
        return {sample.number: gamma for sample, gamma in zip(self.samples, self.gammas, strict=False)}

    def rows(self, pass_name: str | None) -> list[int]:
        """Rows of `values` that belong to `pass_name`: its own name, or that of all of its prompts; None means all."""
        return [
            row for row, sample in enumerate(self.samples) if pass_name is None or is_of(sample.pass_name, pass_name)
        ]

    @property
    def nbytes(self) -> int:
        """Bytes of the values and the maps."""
        return sum(each.numel() * each.element_size() for each in (self.values, *self.maps.values()))


def step_of(
    sigma: float,
    progress: float,
    samples: Sequence[Sample],
    values: Mapping[str, Tensor],
    maps: Mapping[str, Tensor] | None = None,
    gammas: Sequence[float] = (),
) -> Step:
    """Return the step of one call of the model; arguments as for `StabilityRun.record`."""
    columns = tuple((address, each.shape[-1]) for address, each in values.items())
    flat = torch.cat(list(values.values()), dim=-1).float()
    half = {address: each.half() for address, each in (maps or {}).items()}
    return Step(sigma, progress, tuple(samples), columns, flat, half, tuple(gammas))


def join(first: Step, second: Step) -> Step:
    """Two steps at one sigma with different samples, as one. Where a site is only in one of them, the other has NaN."""
    samples, maps = first.samples + second.samples, _joined_maps(first, second)
    first = replace(first, gammas=first.gammas + second.gammas)
    if first.columns == second.columns:
        return replace(first, samples=samples, values=torch.cat([first.values, second.values]), maps=maps)
    columns = dict(first.columns)
    for address, heads in second.columns:
        columns.setdefault(address, heads)
    parts = []
    for step in (first, second):
        shape = step.values.shape[:2]
        found = [(step.of(address), heads) for address, heads in columns.items()]
        nothing = [
            torch.full((*shape, heads), float("nan")) if each is None or each.shape[-1] != heads else each
            for each, heads in found
        ]
        parts.append(torch.cat(nothing, dim=-1))
    return replace(first, samples=samples, columns=tuple(columns.items()), values=torch.cat(parts), maps=maps)


def _joined_maps(first: Step, second: Step) -> dict[str, Tensor]:
    """The maps that both steps have, of one size."""
    shared = [address for address, each in first.maps.items() if address in second.maps]
    pairs = {address: (first.maps[address], second.maps[address]) for address in shared}
    return {address: torch.cat(pair) for address, pair in pairs.items() if pair[0].shape[1:] == pair[1].shape[1:]}
