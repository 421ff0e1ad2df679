"""γ on models of fewer training images, from subsets.json: the answer to question 14 and its tables."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lab.testbed.arms import PLAIN
from lab.testbed.pages.reading import Change, bold, markdown, spell

QUESTION = (
    "14. **The same UNet trained on fewer images: does it copy, mix or draw new ones? Where on that way does γ act "
    "most, and does it turn copies into other images?**"
)
LEADING = {
    "copies": "copies",
    "repeats": "repeats",
    "frechet": "Fréchet distance",
    "coverage": "coverage",
    "judge": "judge",
    "drift": "drift",
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
STRONG = "γ 2"  # whose drift the models are compared by


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
    steps = ", ".join(f"{row['training steps']:,} with {int(size):,}" for size, row in content["sizes"].items())
    return (
        "## Fewer training images\n\nThe same UNet learned from fewer images, the smaller sets within the larger ones. "
        "A sample is a *copy* if it lies nearer to a training image of its model than 99 % of the test images of its "
        "class do. It is a *repeat* if it lies nearer to the sample of another seed than 99 % of the test images of "
        "its class lie to another one. Distances are those of pixels. A small change may move a sample over a limit, "
        "so compare settings of equal drift. *Copies lost* and *new* are the seeds that ceased to be copies and those "
        f"that became some. Every setting has {content['count']:,} seeds, so these numbers cannot be compared with "
        f"those of the other tables. The models differ in training too. Their steps of 32 images are {steps} images."
    )


def rows_of(content: Mapping[str, Any], columns: Mapping[str, str], only_gamma: bool = False) -> str:
    """A table: for each size the unpatched model's own measures, then the changes of each setting."""
    rows = []
    for size, model in content["sizes"].items():
        for name, row in model["arms"].items():
            own, changes = row["measures"], row.get("changes")
            if name == PLAIN.name:
                cells = [spell(own[each]) if each in own else "" for each in columns]
                rows.append([f"**{int(size):,}**", "**unpatched model**", *cells, ""])
            elif not only_gamma or name.startswith("γ"):
                cells = [
                    bold(Change(each, *changes[each])) if each in changes else spell(own[each]) for each in columns
                ]
                moved = row["copies"]
                rows.append(["", name, *cells, f"{moved['lost']} · {moved['new']}"])
    return markdown(["training images", "setting", *columns.values(), "copies lost · new"], rows)


def answer(content: Mapping[str, Any]) -> str:
    """The answer in sentences: what each model draws, how far γ moves it, and what becomes of its copies."""
    sizes = content["sizes"]
    drifts = ", ".join(
        f"{spell(model['arms'][STRONG]['measures']['drift'])} with {int(size):,}" for size, model in sizes.items()
    )
    parts = [_of_size(size, model["arms"]) for size, model in sizes.items()]
    parts.append(f"{STRONG} moves an image by {drifts} training images (root mean square difference of pixel values).")
    parts.append("The largest of many noisy changes tends to overestimate the true one.")
    return " ".join(parts)


def _of_size(size: str, rows: Mapping[str, Any]) -> str:
    own = rows[PLAIN.name]["measures"]
    gammas = {name: row["changes"] for name, row in rows.items() if name.startswith("γ")}
    shares = f"{own['copies'][0]:.0%} of the samples are copies and {own['repeats'][0]:.0%} are repeats"
    parts = [f"With {int(size):,} training images {shares}."]
    for kind in KINDS:
        changed = {name: Change(kind, *row[kind]) for name, row in gammas.items()}
        moved = {name: change for name, change in changed.items() if change.is_significant}
        fewer = sum(change.value < 0 for change in moved.values())
        parts.append(
            f"γ makes {kind} rarer in {fewer} of {len(gammas)} settings and more frequent in {len(moved) - fewer}"
        )
        if not moved:
            parts[-1] += "."
            continue
        most = max(moved, key=lambda name: abs(moved[name].value))
        held = "also" if moved[most].is_significant_of_many else "but not"
        parts[-1] += f", most at {most} ({moved[most]}, {held} after correction)."
    return " ".join(parts)
