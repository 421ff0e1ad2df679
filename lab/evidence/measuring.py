"""All numbers of all settings, by several processes. A module of its own, as workers cannot import a `__main__`."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import torch

from lab.evidence.results import Results, drawn_settings, of_real
from lab.evidence.settings import SETTINGS, Setting, named
from lab.evidence.stability_and_quality import stability_and_quality
from lab.evidence.store import Store


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
    """Measure the stability of the samples of one setting. Runs in a worker."""
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
        pairs = dict.fromkeys((result["reference"], result["count"]) for result in settings.values())
        compared = pool.map(measure_setting, [(store.folder, data, *named([name]), count) for name, count in pairs])
        references = {f"{name}, {count}": each["measures"] for (name, count), each in zip(pairs, compared, strict=True)}
    return {
        "settings": settings,
        "references": references,
        "real": of_real(results_at(store.folder, data).real),
        "stability": found,
    }
