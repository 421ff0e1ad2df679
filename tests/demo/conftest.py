"""Makes `demo` mean the demo itself: pytest names this folder `demo` as well and would put an empty module there."""

from __future__ import annotations

import importlib
import sys

sys.modules.pop("demo", None)
importlib.import_module("demo")
