"""Medians of times on a card: of the device over captured graphs, or of the clock on the wall; and peak memory."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from statistics import median

import torch

from lab.benchmarks.timing import Work


class Clock:
    """Medians of device or wall time, each thing in turn."""

    def __init__(self, device: torch.device, rounds: int):
        self.device = device
        self.rounds = rounds
        self.on_card = device.type == "cuda"

    def wait(self) -> None:
        """Wait until the device has done all it was given."""
        if self.on_card:
            torch.cuda.synchronize(self.device)

    def device_times(self, ways: Mapping[str, Work]) -> dict[str, float]:
        """Seconds on the device of each way that runs at all; over captured graphs on a card."""
        replays: dict[str, tuple[Work, int]] = {}
        for name, work in ways.items():
            with suppress(RuntimeError, NotImplementedError):  # not every kernel takes every head dim
                work()
                replays[name] = self._captured(work)
        return {name: seconds / replays[name][1] for name, seconds in self._timed(replays).items()}

    def _timed(self, replays: Mapping[str, tuple[Work, int]]) -> dict[str, float]:
        taken: dict[str, list[float]] = {name: [] for name in replays}
        for number in range(self.rounds):
            for name, (work, _) in reversed(list(replays.items())) if number % 2 else replays.items():
                taken[name].append(self._once(work))
        return {name: median(seconds) for name, seconds in taken.items()}

    def _once(self, work: Work) -> float:
        if not self.on_card:
            started = time.perf_counter()
            work()
            return time.perf_counter() - started
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        work()
        end.record()
        end.synchronize()
        seconds: float = begin.elapsed_time(end) / 1000
        return seconds

    def _captured(self, work: Work) -> tuple[Work, int]:
        """Return a function that replays captured calls of `work`, and their number. Without capture, `work` and 1."""
        if not self.on_card:
            return work, 1
        estimate = min(self._once(work) for _ in range(3))
        count = max(1, min(20, int(0.004 / max(estimate, 1e-6))))
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                for _ in range(count):
                    work()
        except RuntimeError:  # it waits for the device
            self.wait()
            return work, 1
        return graph.replay, count

    def wall_times(self, ways: Mapping[str, Work], most: float) -> dict[str, float]:
        """Seconds of wall time of each way; one that takes longer than `most` is timed once."""
        taken: dict[str, list[float]] = {name: [] for name in ways}
        for work in ways.values():
            work()
        for number in range(self.rounds):
            for name, work in reversed(list(ways.items())) if number % 2 else ways.items():
                if taken[name] and taken[name][0] > most:
                    continue
                self.wait()
                started = time.perf_counter()
                work()
                self.wait()
                taken[name].append(time.perf_counter() - started)
        return {name: median(seconds) for name, seconds in taken.items()}

    def peak(self, work: Work) -> float:
        """Bytes that `work` takes beyond what was there; 0 where there is no card."""
        if not self.on_card:
            return 0.0
        work()
        torch.cuda.synchronize(self.device)
        before = torch.cuda.memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        work()
        torch.cuda.synchronize(self.device)
        return float(torch.cuda.max_memory_allocated(self.device) - before)
