"""Draw the samples that are missing. May be stopped at any moment, and goes on from there.

python -m lab.evidence.draw                          # all of them, with two processes of one thread each
python -m lab.evidence.draw --only plain --limit 40
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from lab.demo.model import DemoModel, load_model
from lab.demo.train import Stop
from lab.evidence.sampling import CHUNK, draw_samples
from lab.evidence.settings import SETTINGS, Setting, named
from lab.evidence.store import FOLDER, Store
from lab.folders import expand_path

FIRST_GOAL = 200  # every setting gets so many before one gets more
COST_OF_MEASURING = 3  # of one step and sample, in evaluations of the model


@dataclass(frozen=True)
class Job:
    """One chunk: a setting and the seeds to draw, a range of at most CHUNK."""

    setting: Setting
    seeds: range

    @property
    def cost(self) -> int:
        """In evaluations of the model."""
        measuring = COST_OF_MEASURING * self.setting.steps if self.setting.measured else 0
        return len(self.seeds) * (self.setting.evaluations + measuring)


def missing(store: Store, settings: Sequence[Setting], limit: int | None = None) -> list[Job]:
    """The chunks that are not in the store yet, in the order to draw them; of each setting `limit` samples at most."""
    wanted = {setting: setting.count if limit is None else min(setting.count, limit) for setting in settings}
    there = {setting: store.count(setting) for setting in settings}
    jobs = []
    for goal in (FIRST_GOAL, max(wanted.values(), default=0)):
        for setting in settings:
            while there[setting] < min(goal, wanted[setting]):
                start = there[setting]
                there[setting] = min(start - start % CHUNK + CHUNK, goal, wanted[setting])
                jobs.append(Job(setting, range(start, there[setting])))
    return jobs


@functools.cache
def shared_model() -> DemoModel:
    """The model, loaded once a process."""
    torch.set_num_threads(1)
    return load_model()


def run(job: Job) -> bytes:
    """The samples of a job, pickled: a queue would put bare tensors into shared memory, which containers keep small."""
    return pickle.dumps(draw_samples(shared_model(), job.setting, job.seeds))


def _begin_worker() -> None:
    """Leaves Ctrl-C to the parent, which lets the chunk be finished, but ends when the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


@contextmanager
def results_of(jobs: Iterable[Job], processes: int) -> Iterator[Iterator[bytes]]:
    """Yield the results of `run` for the jobs, in their order. With one process, this process runs them."""
    if processes == 1:
        yield map(run, jobs)
        return
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(processes, mp_context=context, initializer=_begin_worker)
    try:
        yield executor.map(run, jobs)
    finally:
        executor.shutdown(cancel_futures=True)


def draw(store: Store, settings: Sequence[Setting], limit: int | None = None, processes: int = 1) -> bool:
    """Draw what is missing and keep it chunk by chunk; whether nothing is missing any more.

    Ctrl-C or a polite kill ends it after the chunks under way.
    """
    jobs = missing(store, settings, limit)
    left = sum(job.cost for job in jobs)
    done, started = 0, time.monotonic()
    with Stop() as stop, results_of(jobs, processes) as results:
        for job, result in zip(jobs, results, strict=True):
            store.append(job.setting, job.seeds.start, pickle.loads(result))
            done, left = done + job.cost, left - job.cost
            minutes = (time.monotonic() - started) / done * left / 60
            print(f"{job.setting.name}: {job.seeds.stop} samples; {minutes:.1f} minutes left", flush=True)
            if stop:
                print("Stopped; the same command goes on from here.", flush=True)
                return not missing(store, settings, limit)
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2, help="to draw with, of one thread each (default 2)")
    parser.add_argument("--limit", type=int, help="of each setting so many samples at most")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="only these settings")
    parser.add_argument("--folder", type=expand_path, default=FOLDER, help="where the samples are kept")
    options = parser.parse_args()
    for name in ("processes", "limit"):
        if (value := getattr(options, name)) is not None and value < 1:
            parser.error(f"--{name} is {value}, but it must be at least 1.")
    try:
        settings = named(options.only) if options.only else SETTINGS
    except ValueError as error:
        parser.error(str(error))
    draw(Store(options.folder), settings, options.limit, options.processes)


if __name__ == "__main__":
    main()
