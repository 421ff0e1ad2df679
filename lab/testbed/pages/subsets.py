"""γ on models of fewer training images, from subsets.json: the answer to question 14 and its tables."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from lab.testbed.arms import PLAIN
from lab.testbed.pages.reading import Change, bold, markdown, spell

QUESTION = (
    "14. **The same UNet trained on fewer images: does it copy, mix or draw new ones? Where on that way does γ act "
    "most, and does it turn copies into other images?**"
)
TITLE = "## Fewer training images"
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
STRONG = "γ 2"  # whose changes the models are compared by
FEW_COPIES = 0.05  # of the samples; fewer are no memory


def kept_subsets(path: Path) -> dict[str, Any]:
    """The numbers of a file, or an empty dict where nothing was measured yet."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def short_subsets(content: Mapping[str, Any]) -> str:
    """The answer; empty where nothing was measured."""
    if not content:
        return ""
    opening = (
        f"{TITLE}\n\nA sample is a *copy* if it lies nearer to a training image of its model than 99 % of the test "
        "images of its class do. It is a *repeat* if it lies nearer to the sample of another seed than 99 % of the "
        "test images of its class lie to another one."
    )
    return f"{opening}\n\n{QUESTION} {answer(content)}"


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
        f"{TITLE}\n\nThe same UNet learned from fewer images, the smaller sets within the larger ones. "
        "A sample is a *copy* if it lies nearer to a training image of its model than 99 % of the test images of its "
        "class do. It is a *repeat* if it lies nearer to the sample of another seed than 99 % of the test images of "
        "its class lie to another one. Distances are those of pixels. A small change may move a sample over a limit, "
        "so compare settings of equal drift. *Copies lost* and *new* are the seeds that ceased to be copies and those "
        f"that became some. Every setting has {content['count']:,} seeds, so these numbers cannot be compared with "
        f"those of the other tables. The models differ in training too. Their steps of 32 images are {steps} images."
    )


def rows_of(content: Mapping[str, Any], columns: Mapping[str, str]) -> str:
    """A table: for each size the unpatched model's own measures, then the changes of each setting."""
    rows = []
    for size, model in content["sizes"].items():
        for name, row in model["arms"].items():
            own, changes = row["measures"], row.get("changes")
            if name == PLAIN.name:
                cells = [spell(own[each]) if each in own else "" for each in columns]
                rows.append([f"**{int(size):,}**", "**unpatched model**", *cells, ""])
            else:
                cells = [
                    bold(Change(each, *changes[each])) if each in changes else spell(own[each]) for each in columns
                ]
                moved = row["copies"]
                rows.append(["", name, *cells, f"{moved['lost']} · {moved['new']}"])
    return markdown(["training images", "setting", *columns.values(), "copies lost · new"], rows)


def answer(content: Mapping[str, Any]) -> str:
    """The answer in sentences: what each model draws, what becomes of its copies, and what γ changes."""
    sizes = content["sizes"]
    shares = [_over_sizes(sizes, PLAIN.name, partial(_share, kind)) for kind in KINDS]
    parts = [f"The share of copies is {shares[0]} training images, that of repeats {shares[1]}."]
    parts += [_fate(size, model["arms"]) for size, model in sizes.items()]
    if max(model["arms"][PLAIN.name]["measures"]["copies"][0] for model in sizes.values()) < FEW_COPIES:
        parts.append("None of these models gives its images back, so what γ makes of copies stays open.")
    changed = [_changes(size, model["arms"]) for size, model in sizes.items()]
    parts += changed if any(changed) else ["No setting of γ changes either share significantly with any of them."]
    moved = _over_sizes(sizes, STRONG, lambda row: f"{row['measures']['drift'][0]:.3f}")
    lost = _over_sizes(sizes, STRONG, lambda row: str(Change("frechet", *row["changes"]["frechet"])))
    parts.append(f"{STRONG} moves an image by {moved} training images (root mean square difference of pixel values).")
    parts.append(f"It changes the Fréchet distance by {lost}.")
    return " ".join(filter(None, parts))


def _share(kind: str, row: Mapping[str, Any]) -> str:
    """`99.8 %`."""
    return f"{100 * row['measures'][kind][0]:.1f} %"


def _over_sizes(sizes: Mapping[str, Any], name: str, words: Callable[[Mapping[str, Any]], str]) -> str:
    """`99.8 % with 100, 2.0 % with 500`: of one setting of each model."""
    return ", ".join(f"{words(model['arms'][name])} with {int(size):,}" for size, model in sizes.items())


def _fate(size: str, rows: Mapping[str, Any]) -> str:
    """The copies that the settings of γ turn into other images; empty where there are hardly any."""
    if rows[PLAIN.name]["measures"]["copies"][0] < FEW_COPIES:
        return ""
    fates = [row["copies"] for name, row in rows.items() if name.startswith("γ")]
    before, lost = fates[0]["kept"] + fates[0]["lost"], [fate["lost"] for fate in fates]
    return (
        f"Of the {before} copies with {int(size):,} training images the settings of γ turn {min(lost)} to {max(lost)} "
        "into other images."
    )


def _changes(size: str, rows: Mapping[str, Any]) -> str:
    """The shares that settings of γ change significantly; empty where none does."""
    gammas = {name: row["changes"] for name, row in rows.items() if name.startswith("γ")}
    parts = []
    for kind in KINDS:
        changed = {name: Change(kind, *row[kind]) for name, row in gammas.items()}
        moved = {name: change for name, change in changed.items() if change.is_significant}
        if not moved:
            continue
        fewer = sum(change.value < 0 for change in moved.values())
        most = max(moved, key=lambda name: abs(moved[name].value))
        held = "also" if moved[most].is_significant_of_many else "but not"
        parts.append(
            f"With {int(size):,} training images γ makes {kind} rarer in {fewer} of {len(gammas)} settings and more "
            f"frequent in {len(moved) - fewer}, most at {most} ({moved[most]}, {held} after correction)."
        )
    return " ".join(parts)
