"""What all tests share: this checkout is importable, after everything else, and draws are the same on every machine."""

from __future__ import annotations

import os
import sys
import types
from pathlib import Path

import hypothesis
import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
# At the end of the path: ComfyUI has a module called `nodes` as well, and in host tests that one must win.
sys.path.append(str(ROOT))
# ComfyUI has a package called `tests` too. Ours has no __init__.py, or pytest would climb to the pack's own.
sys.modules["tests"] = types.ModuleType("tests")
sys.modules["tests"].__path__ = [str(ROOT / "tests")]

hypothesis.settings.register_profile("ci", derandomize=True, deadline=None, print_blob=True)
hypothesis.settings.register_profile("dev", deadline=None)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "dev")


@pytest.fixture(autouse=True)
def _same_random_numbers():
    torch.manual_seed(0)
