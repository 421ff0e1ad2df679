"""What all tests share: this checkout is importable, after everything else, and draws are the same on every machine."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import hypothesis
import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
# At the end of the path: ComfyUI has a module called `nodes` as well, and in host tests that one must win.
sys.path += [str(ROOT), str(ROOT / "tools")]
import own_tests  # noqa: E402, F401

hypothesis.settings.register_profile("ci", derandomize=True, deadline=None, print_blob=True)
hypothesis.settings.register_profile("dev", deadline=None)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "dev")


@pytest.fixture(autouse=True)
def _same_random_numbers():
    torch.manual_seed(0)
