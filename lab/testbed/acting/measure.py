"""Numbers of what was drawn, each with its 95 % interval, part by part, as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lab.testbed.acting.best_of import best_of
from lab.testbed.acting.correlations import correlations
from lab.testbed.acting.feedback_numbers import feedback_numbers, slider_numbers
from lab.testbed.acting.kept import load
from lab.testbed.acting.reference import Reference
from lab.testbed.acting.shift_numbers import shift_numbers
from lab.testbed.results import write_numbers

FILES = {"candidates": ("choice", "candidates"), "feedback": ("feedback",), "slider": ("slider",)}
FILES |= {"shift": ("shift", "shift-altered")}
NUMBERS: Mapping[str, tuple[str, Callable[..., dict[str, Any]]]] = {  # from the name of what was drawn
    "candidates": ("candidates", best_of),
    "correlations": ("candidates", correlations),
    "feedback": ("feedback", feedback_numbers),
    "slider": ("slider", slider_numbers),
    "shift": ("shift", shift_numbers),
}


def measure(folder: Path, names: Sequence[str], data: Path | None, judges: Path, output: Path) -> None:
    """Measure the parts that are drawn and not measured yet, and write the numbers after each.

    Args:
        folder: of the drawn parts.
        names: of the parts.
        data: folder of Fashion-MNIST's files; None downloads Debian's package.
        judges: folder of the classifiers.
        output: the JSON. A part that is in it is left as it is.
    """
    found: dict[str, Any] = json.loads(output.read_text(encoding="utf-8")) if output.exists() else {}
    reference = Reference.load(data, judges)
    for name, (part, numbers_of) in NUMBERS.items():
        if part not in names:
            continue
        paths = [folder / f"{file}.npz" for file in FILES[part]]
        if name in found or not all(path.exists() for path in paths):
            print(f"{name}: {'is measured' if name in found else 'is not drawn'}", flush=True)
            continue
        found[name] = numbers_of(*map(load, paths), reference)
        write_numbers(output, found)
        print(f"{name}: measured", flush=True)
