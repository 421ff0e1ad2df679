"""The fused kernel without a card: Triton's interpreter runs it on the CPU."""

from __future__ import annotations

import os
import sys

os.environ["TRITON_INTERPRET"] = "1"  # read by Triton while it is imported, so the tests of a folder set it together
os.environ["SAD_FUSED_KERNEL"] = "always"

if "triton" in sys.modules:
    raise RuntimeError(
        "Triton was imported before tests/kernels could choose its interpreter. Run this folder by itself."
    )
