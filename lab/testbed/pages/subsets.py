"""γ on models of fewer training images, from subsets.json: the answer to question 14 and its tables."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lab.testbed.arms import PLAIN
from lab.testbed.pages.reading import Change, bold, markdown, spell

QUESTION = (
    "14. **The same UNet trained on fewer images: where on the way from copying to generalising does γ act, and does "
    "it turn copies into new images?**"
)
LEADING = {
    "copies": "copies",
    "repeats": "repeats",
    "frechet": "Fréchet distance",
    "coverage": "coverage",
    "judge": "judge",
}
REST = {
    "kernel": "kernel distance ×1000",
    "precision": "precision",
    "density": "density",
    "recall": "recall",
    "vendi": "Vendi",
    "apart": "seed distance",
}
KINDS = ("copies", "repeats")


def kept_subsets(path: Path) -> dict[str, Any]:
    """The numbers of a file, or an empty dict where nothing was measured yet."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def short_subsets(content: Mapping[str, Any]) -> str:
    """The answer and a row for each setting of γ; empty where nothing was measured."""
    if not content:
        return ""
    return "\n\n".join([_opening(content), rows_of(content, LEADING, only_gamma=True), f"{QUESTION} {answer(content)}"])


def long_subsets(content: Mapping[str, Any]) -> str:
    """All settings with all measures; empty where nothing was measured."""
    if not content:
        return ""
    return "\n\n".join(
        [_opening(content), f"{QUESTION} {answer(content)}", *(rows_of(content, each) for each in (LEADING, REST))]
    )


def _opening(content: Mapping[str, Any]) -> str:
    seen = ", ".join(
        f"{int(size):,} images: {row['images seen in training']:,}" for size, row in content["sizes"].items()
    )
    return (
        "## Fewer training images\n\nThe same UNet learned from fewer images, the smaller sets within the larger ones. "
        "A sample is a *copy* if it lies nearer to a training image of its model than 99 % of the test images do. It "
        "is a *repeat* if it is no copy and lies nearer to the sample of another seed than 99 % of the test images lie "
        "to each other. Distances are those of pixels. Every setting has "
        f"{content['count']:,} seeds. Images seen in training ({seen})."
    )


def rows_of(content: Mapping[str, Any], columns: Mapping[str, str], only_gamma: bool = False) -> str:
    """A table: for each size the unpatched model's own measures, then the changes of each setting."""
    rows = []
    for size, model in content["sizes"].items():
        for name, row in model["arms"].items():
            if name == PLAIN.name:
                cells = [spell(row["measures"][each]) for each in columns]
                rows.append([f"**{int(size):,}**", "**unpatched model**", *cells])
            elif not only_gamma or name.startswith("γ"):
                rows.append(["", name, *(bold(Change(each, *row["changes"][each])) for each in columns)])
    return markdown(["training images", "setting", *columns.values()], rows)


def answer(content: Mapping[str, Any]) -> str:
    """The answer in sentences: what each model draws, and what γ does to it."""
    return " ".join(_of_size(size, model["arms"]) for size, model in content["sizes"].items())


def _of_size(size: str, rows: Mapping[str, Any]) -> str:
    own = rows[PLAIN.name]["measures"]
    gammas = {name: row["changes"] for name, row in rows.items() if name.startswith("γ")}
    parts = [
        f"With {int(size):,} images {own['copies'][0]:.0%} of the samples are copies "
        f"and {own['repeats'][0]:.0%} are repeats."
    ]
    for kind in KINDS:
        changed = {name: Change(kind, *row[kind]) for name, row in gammas.items()}
        fewer = [name for name, change in changed.items() if change.is_significant and change.value < 0]
        more = [name for name, change in changed.items() if change.is_significant and change.value > 0]
        parts.append(
            f"γ makes {kind} rarer in {len(fewer)} of {len(gammas)} settings and more frequent in {len(more)}."
        )
        if fewer or more:
            most = max([*fewer, *more], key=lambda name: abs(changed[name].value))
            parts.append(f"The largest change is that of {most}: {changed[most]}.")
    return " ".join(parts)
