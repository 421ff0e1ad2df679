"""The file of a baseline: safetensors with a JSON header, so reading one runs no code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..file_values import different, text_of, whole_number_of
from ..parameters import check_choice
from ..shown_text import shown
from ..whole_file import whole_file
from .baseline import ALL, PARTS, StabilityBaseline
from .files import DAMAGE, has_header, opened
from .measures import TRACE_MEASURES
from .value_counts import ValueCounts

HEADER = "stability_baseline"
VERSION = 1
LARGEST_FILE = 256 * 2**20
LARGEST_HEADER = 8 * 2**20
MOST = 2**31  # of runs, samples, steps and tokens
TEXTS = ("model", "patterns")
LISTS = ("measures", "sites", "passes")
TABLES = {"count": torch.int64, "mean": torch.float64, "squares": torch.float64}


def save_baseline(baseline: StabilityBaseline, path: str | Path) -> None:
    """Write a baseline to a file as a whole; what is there is replaced."""
    from safetensors.torch import save_file

    names = (*TEXTS, *LISTS, "runs", "samples", "tokens", "steps")
    header = {"version": VERSION, "parts": PARTS, **{name: getattr(baseline, name) for name in names}}
    tensors = {name: getattr(baseline, name).contiguous() for name in TABLES}
    tensors |= {"codes": baseline.seen.codes, "counts": baseline.seen.counts}
    with whole_file(path) as unfinished:
        save_file(tensors, str(unfinished), metadata={HEADER: json.dumps(header)})


def has_baseline(path: str | Path) -> bool:
    """Return whether a file has the header of a baseline. Reads only the first bytes."""
    return has_header(path, HEADER)


def load_baseline(path: str | Path) -> StabilityBaseline:
    """Return the baseline in a file that `save_baseline` wrote.

    Raises:
        ValueError: no such file, too large, no safetensors file, not a baseline, damaged, or of a newer version; the
            sentence says which.
    """
    path = Path(path)
    with opened(path, HEADER, "stability baseline", "Save Stability Baseline", LARGEST_FILE) as (header, file):
        tensors = {each: file.get_tensor(each) for each in file.keys()}  # noqa: SIM118 (the file is no dict)
    try:
        if len(header) > LARGEST_HEADER:
            raise ValueError("the header is too large")
        content = json.loads(header)
        if (content["version"], content["parts"]) == (VERSION, PARTS):
            return _read(content, tensors)
    except DAMAGE as error:
        raise ValueError(f"{path.name} is damaged and cannot be read. Save the baseline again.") from error
    raise ValueError(
        f"{path.name} has format {shown(content['version'])}, but this version reads {VERSION}. Update the pack."
    )


def _read(content: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> StabilityBaseline:
    fields: dict[str, Any] = {name: text_of(content[name]) for name in TEXTS}
    lists = {name: different(map(text_of, content[name])) for name in LISTS}
    for measure in lists["measures"]:
        check_choice("measure", measure, TRACE_MEASURES)
    shape = (len(lists["sites"]), len(lists["passes"]), PARTS, len(lists["measures"]))
    tables = {name: tensors[name] for name in TABLES}
    if any(tables[name].shape != shape or tables[name].dtype != dtype for name, dtype in TABLES.items()):
        raise ValueError(f"a table is not of shape {shape}")
    if (
        lists["sites"][0] != ALL
        or lists["passes"][0] != ALL
        or not all(list(each) == sorted({*each}) for each in [lists["sites"], lists["passes"]])
    ):
        raise ValueError("sites or passes are out of order")
    codes, counts = tensors["codes"], tensors["counts"]
    if codes.dim() != 1 or codes.shape != counts.shape or {codes.dtype, counts.dtype} != {torch.int64}:
        raise ValueError("the values have another shape")
    seen = ValueCounts(codes, counts)
    is_in_order = bool((codes.diff() > 0).all()) and bool((counts > 0).all())
    if not is_in_order or (len(codes) and not 0 <= int(seen.cells[0]) <= int(seen.cells[-1]) < prod(shape)):
        raise ValueError("the values are out of order")
    seen_counts = torch.zeros(prod(shape), dtype=torch.int64).index_add_(0, seen.cells, counts)
    if not seen_counts.equal(tables["count"].flatten()):
        raise ValueError("the number of values differs from the stored count")
    fields |= {name: whole_number_of(content[name], 1, MOST) for name in ("runs", "samples")}
    fields |= {name: tuple(whole_number_of(each, 1, MOST) for each in content[name]) for name in ("tokens", "steps")}
    if not fields["steps"]:
        raise ValueError("no run has steps")
    fields |= lists
    fields |= tables
    return StabilityBaseline(**fields, seen=seen)
