"""Importing this makes `tests` the folder of this checkout.

ComfyUI and torch-fidelity bring packages of that name, which would win: ours has no __init__.py, or pytest would climb
to that of the pack.
"""

from __future__ import annotations

import sys
import types
from pathlib import Path

tests = sys.modules["tests"] = types.ModuleType("tests")
tests.__path__ = [str(Path(__file__).resolve().parents[1] / "tests")]
