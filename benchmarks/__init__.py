"""What the pack costs, as ratios of things timed in turn in one process: `python -m benchmarks`."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "tools"))
import own_tests  # noqa: F401
