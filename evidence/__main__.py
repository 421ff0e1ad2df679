"""Everything behind docs/evidence.md: draws the samples, measures them, writes the numbers, tables and figures.

    python -m evidence              # about two hours on two cores; may be stopped, and goes on from there
    python -m evidence --short      # a minute: draws a slice anew and compares it with the committed numbers
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import torch

from demo.data import add_data_option, download
from evidence.document import write_tables
from evidence.draw import draw, shared_model
from evidence.figures import draw_figures
from evidence.results import Results, drawn_settings, of_real, slice_of, write_json
from evidence.sampling import draw_samples
from evidence.settings import SETTINGS, Setting, named
from evidence.stability_and_quality import stability_and_quality
from evidence.store import FOLDER, Store

NUMBERS = Path(__file__).with_name("numbers.json")
SLICED = ("plain", "gamma_0.5", "gamma_1.05_beta_3", "gamma_2")
SLICE_SEEDS = range(6)
LARGEST_DIFFERENCE = 5e-3  # in any of the numbers of the slice; rounding on another machine makes far less


@cache
def results_at(folder: Path, data: Path) -> Results:
    """One a process, so that features are computed once."""
    torch.set_num_threads(1)
    return Results(Store(folder), data)


def measure_setting(job: tuple[Path, Path, Setting, int]) -> dict[str, Any]:
    """The numbers of one setting; runs in a worker."""
    folder, data, setting, count = job
    return results_at(folder, data).of(setting, count)


def measure_stability(job: tuple[Path, Path, Setting, int]) -> dict[str, Any]:
    """What stability says about the samples of one setting; runs in a worker."""
    folder, data, setting, count = job
    return stability_and_quality(results_at(folder, data), setting, count)


def measure_all(store: Store, data: Path, processes: int) -> dict[str, Any]:
    """All numbers, of as many samples as are drawn."""
    jobs = [(store.folder, data, setting, count) for setting, count in drawn_settings(store)]
    measured = [(setting, min(setting.count, store.count(setting))) for setting in SETTINGS if setting.measured]
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        stability = pool.map(measure_stability, [(store.folder, data, *pair) for pair in measured if pair[1]])
        settings = {}
        for (_, _, setting, count), result in zip(jobs, pool.map(measure_setting, jobs), strict=True):
            settings[setting.name] = result
            print(f"measured {setting.name}, n = {count} ({len(settings)} of {len(jobs)})", flush=True)
        found = {result["setting"]: result for result in stability}
    return {
        "settings": settings,
        "real": of_real(results_at(store.folder, data).real),
        "stability": found,
        "slice": slices(),
    }


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
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the samples are kept")
    parser.add_argument("--short", action="store_true", help="only compare a slice with the committed numbers")
    parser.add_argument("--as-drawn", action="store_true", help="measure what is drawn already, draw nothing")
    options = parser.parse_args(arguments)
    if options.short:
        difference = check_slice(json.loads(NUMBERS.read_text(encoding="utf-8"))["slice"])
        agrees = difference <= LARGEST_DIFFERENCE
        verdict = "it agrees" if agrees else "TOO FAR"
        print(f"The slice differs from the committed numbers by {difference:.1e}: {verdict}.")
        return 0 if agrees else 1
    data = options.data or download()
    store = Store(options.folder)
    if not options.as_drawn:
        draw(store, SETTINGS, processes=options.processes)
    numbers = measure_all(store, data, options.processes)
    write_json(NUMBERS, numbers)
    write_tables(numbers)
    draw_figures(numbers, store)
    print(f"Written: {NUMBERS}, the tables of docs/evidence.md and its figures.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
