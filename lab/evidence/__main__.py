"""Everything behind docs/evidence_emoji.md: draws the samples, measures them, writes the numbers, tables and figures.

python -m lab.evidence              # about an hour on two cores; may be stopped, and goes on from there
python -m lab.evidence --short      # a minute: draws a slice anew and compares it with the committed numbers
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

import torch

from lab.demo.data import add_data_option, download
from lab.evidence.document import DOCUMENT, with_tables
from lab.evidence.draw import draw, shared_model
from lab.evidence.measuring import measure_all
from lab.evidence.results import NUMBERS, slice_of, write_json
from lab.evidence.sampling import draw_samples
from lab.evidence.settings import SETTINGS, named
from lab.evidence.store import FOLDER, Store
from lab.figures.evidence import draw_figures
from lab.folders import expand_path

SLICED = ("plain", "gamma_0.5", "gamma_1.05_beta_3", "gamma_2")
SLICE_SEEDS = range(6)
LARGEST_DIFFERENCE = 5e-3  # in any of the numbers of the slice; rounding on another machine makes far less


def slices() -> dict[str, list[list[float]]]:
    """The numbers of a few samples, drawn now (see `results.slice_of`)."""
    pictures = {each.name: draw_samples(shared_model(), each, SLICE_SEEDS).pictures for each in named(SLICED)}
    return {name: slice_of(drawn, pictures["plain"]) for name, drawn in pictures.items()}


def check_slice(committed: dict[str, list[list[float]]]) -> float:
    """The largest difference between the committed slice and one drawn now."""
    drawn = slices()
    if drawn.keys() != committed.keys():
        return float("inf")
    return max(float((torch.tensor(drawn[name]) - torch.tensor(committed[name])).abs().max()) for name in drawn)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data_option(parser)
    parser.add_argument("--processes", type=int, default=2, help="of one thread each (default 2)")
    parser.add_argument("--folder", type=expand_path, default=FOLDER, help="where the samples are kept")
    parser.add_argument("--short", action="store_true", help="only compare a slice with the committed numbers")
    parser.add_argument("--as-drawn", action="store_true", help="measure what is drawn already, be it less")
    options = parser.parse_args(arguments)
    if options.short:
        difference = check_slice(json.loads(NUMBERS.read_text(encoding="utf-8"))["slice"])
        agrees = difference <= LARGEST_DIFFERENCE
        verdict = "it agrees" if agrees else "TOO FAR"
        print(f"The slice differs from the committed numbers by {difference:.1e}: {verdict}.")
        return 0 if agrees else 1
    data = options.data or download()
    store = Store(options.folder)
    if not options.as_drawn and not draw(store, SETTINGS, processes=options.processes):
        return 1
    numbers = measure_all(store, data, options.processes) | {"slice": slices()}
    text = with_tables(DOCUMENT.read_text(encoding="utf-8"), numbers)  # before anything is written: it may refuse
    write_json(NUMBERS, numbers)
    DOCUMENT.write_text(text, encoding="utf-8")
    draw_figures(numbers, store)
    print(f"Written: {NUMBERS}, the tables of docs/evidence_emoji.md and its figures.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
