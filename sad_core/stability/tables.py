"""Stability in tables and in words: rows, CSV, JSON, and a sentence for each measure."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from .step import Step

TableRow = dict[str, str | int | float]


class Tabled(Protocol):
    """Something with a table and a summary, as `trace.StabilityTrace` is."""

    def to_table(self) -> list[TableRow]:
        """The rows."""

    def summary(self) -> str:
        """The same in words."""


def step_rows(number: int, step: Step, measures: Sequence[str]) -> Iterator[TableRow]:
    """One row per sample and site of a step, the measures averaged over the heads.

    Args:
        number: of the step in its run, counted from 0.
        step: the step.
        measures: names of its measures, in the order of its values.
    """
    means = step.means()
    for row, sample in enumerate(step.samples):
        for address, values in means.items():
            if not values[row].isnan().all():
                where: TableRow = {"step": number, "sigma": step.sigma, "progress": step.progress}
                who: TableRow = {"pass": sample.pass_name, "sample": sample.number, "site": address}
                gamma: TableRow = {"gamma": step.gammas[row]} if step.gammas else {}
                yield where | who | dict(zip(measures, values[row].tolist(), strict=True)) | gamma


def describe_measure(measure: str, values: Tensor, addresses: Sequence[str]) -> str:
    """The mean of a measure, how it went over the run, and the sites where it is lowest and highest.

    Args:
        measure: its name.
        values: `(sites, steps)`, NaN where there is none.
        addresses: of the sites.
    """
    by_site, by_step = values.nanmean(dim=1), values.nanmean(dim=0)
    order = torch.nan_to_num(by_site, nan=float(by_site.nanmean())).sort().indices.tolist()
    low, high = order[0], order[-1]
    return (
        f"{measure}: mean {values.nanmean():.4g}; from {by_step[0]:.4g} to {by_step[-1]:.4g} over the run; "
        f"lowest at {addresses[low]} ({by_site[low]:.4g}), highest at {addresses[high]} ({by_site[high]:.4g})."
    )


def to_csv(trace: Tabled) -> str:
    """The table of a trace for a spreadsheet: a header line, then a row per run, step, sample and site."""
    rows = trace.to_table()
    names = dict.fromkeys(name for row in rows for name in row)
    out = io.StringIO()
    writer = csv.DictWriter(out, list(names), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _short(value) for name, value in row.items()} for row in rows)
    return out.getvalue()


def to_json(trace: Tabled) -> str:
    """The table of a trace and its summary as JSON; undefined numbers are null."""
    rows = [{name: None if _is_undefined(value) else value for name, value in row.items()} for row in trace.to_table()]
    return json.dumps({"summary": trace.summary(), "table": rows}, ensure_ascii=False)


def _is_undefined(value: str | int | float) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _short(value: str | int | float) -> str | int:
    if isinstance(value, float):
        return "" if _is_undefined(value) else f"{value:.7g}"  # what float32 carries
    return value
