"""What all tests share: this checkout is importable, after everything else, and draws are the same on every machine."""

from __future__ import annotations

import os

import hypothesis
import pytest
import torch

hypothesis.settings.register_profile("ci", derandomize=True, deadline=None, print_blob=True)
hypothesis.settings.register_profile("dev", deadline=None)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "dev")


@pytest.fixture(autouse=True)
def _same_random_numbers():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _same_threads():
    """Code that trains sets the number of threads for good; the next test would round otherwise."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
