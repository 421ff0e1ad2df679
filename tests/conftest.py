"""Set up all tests: this checkout is importable, after everything else, and draws are equal on every machine."""

from __future__ import annotations

import gc
import os

import hypothesis
import pytest
import torch

hypothesis.settings.register_profile("ci", derandomize=True, deadline=None, print_blob=True)
hypothesis.settings.register_profile("dev", deadline=None)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "dev")


def pytest_collection_finish() -> None:
    """Leave what is imported out of the garbage collections of the tests, which look at all of it each time.

    A million objects of torch, ComfyUI and transformers took 0.6 s a time, a third of the time of the hosts' tests.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _same_random_numbers():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _same_threads():
    """Code that trains sets the number of threads for good; the next test would round otherwise."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
