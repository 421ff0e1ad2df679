"""The tables of docs/speed.md and the choices of the fused kernel, written from what was measured."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lab.benchmarks.gpu.whole_steps import MODES
from lab.folders import ROOT
from sad_core.kernels import choice

BEGIN, END = "<!-- On a card: written by make benchmark-gpu. -->", "<!-- End of what is written. -->"
SPEED = ROOT / "docs" / "speed.md"
GOALS = {
    "γ = 1": 1.0,
    "γ": 1.1,
    "γ and β": 1.18,
    "adaptive γ and β": 1.22,
    "probe": 1.15,
    "probe, depth and curvature": 1.5,
    "compiled, γ": 1.15,
}


def ratio(seconds: Mapping[str, float], name: str, to: str = "plain") -> str:
    """A cell with the ratio of two times, empty where one was not measured."""
    return f"{seconds[name] / seconds[to]:.2f}" if name in seconds and to in seconds else ""


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """A table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def tables(found: Mapping[str, Any]) -> str:
    """All that was measured, as the tables of docs/speed.md."""
    attention = []
    for row in found["attention"]:
        seconds, memory = row["seconds"], row["memory"]
        cells = [row["shape"], f"{1000 * seconds['plain']:.3f}", ratio(seconds, "FlashAttention-2")]
        for name in ("γ", "γ and β"):
            cells += [ratio(seconds, f"{name}, {way}") for way in ("doubled heads", "kernel")]
        cells += [ratio(seconds, name) for name in ("η", "three measures")]
        held = ("γ and β, doubled heads", "γ and β, kernel", "three measures")
        cells.append(" · ".join(f"{memory[name]:.1f}" for name in held if name in memory))
        attention.append(cells)
    head = ["shape (B H L d)", "plain, ms", "FlashAttention-2", "γ: doubled heads", "γ: kernel"]
    head += ["γ and β: doubled heads", "γ and β: kernel", "η", "three measures", "memory in q"]
    names = [*MODES, "probe", "probe, depth and curvature", "compiled, γ"]
    steps = []
    for name in names:
        cells = [name]
        for each in found["steps"].values():
            cells.append(ratio(each["seconds"], name, "compiled, plain" if name.startswith("compiled") else "plain"))
        if any(cells[1:]):  # what no model was measured for has no row
            steps.append([*cells, f"{GOALS[name]:g}"])
    titles = [f"{title} ({1000 * each['seconds']['plain']:.1f} ms)" for title, each in found["steps"].items()]
    bits = all(each["same bits at γ = 1"] for each in found["steps"].values())
    return "\n\n".join(
        [
            f"{found['device']}, torch {found['torch']}. Only the attention, relative to plain attention:",
            markdown(head, attention),
            "A whole sampling step, relative to that of the unpatched model:",
            markdown(["", *titles, "goal"], steps),
            f"γ = 1 gives the bits of the unpatched model: {'yes' if bits else 'NO'}.",
        ]
    )


def write_between(path: Path, text: str) -> None:
    """Put `text` between the two marks of a page.

    Raises:
        ValueError: the page has no marks.
    """
    page = path.read_text(encoding="utf-8")
    pattern = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    if pattern.search(page) is None:
        raise ValueError(f"{path} has no place for the tables; it must have the lines {BEGIN} and {END}.")
    path.write_text(pattern.sub(lambda _: f"{BEGIN}\n\n{text}\n\n{END}", page), encoding="utf-8")


def write_choices(architecture: str, table: Mapping[str, Mapping[str, str]], path: Path = choice.CHOICES) -> None:
    """Put the choices of one architecture into the table of the fused kernel, a line a head dim."""
    known = json.loads(path.read_text(encoding="utf-8"))
    known[architecture] = {**known.get(architecture, {}), **table}
    blocks = []
    for name in sorted(known):
        lines = [f'    "{dim}": {json.dumps(known[name][dim])}' for dim in sorted(known[name], key=int)]
        blocks.append(f'  "{name}": {{\n' + ",\n".join(lines) + "\n  }")
    path.write_text("{\n" + ",\n".join(blocks) + "\n}\n", encoding="utf-8")


def choose(rows: list[dict[str, Any]]) -> dict[str, dict[str, str]]:
    """The quicker way by head dim and mode, over the shapes of this head dim with the most tokens."""
    table: dict[str, dict[str, str]] = {}
    for row in sorted(rows, key=lambda row: int(row["tokens"])):
        for mode, name in (("gamma", "γ"), ("gamma and beta", "γ and β")):
            both = [row["seconds"].get(f"{name}, {way}") for way in ("kernel", "doubled heads")]
            if None not in both:
                chosen = choice.KERNEL if both[0] < both[1] else choice.DOUBLED_HEADS
                table.setdefault(str(row["head_dim"]), {})[mode] = chosen
    return table
