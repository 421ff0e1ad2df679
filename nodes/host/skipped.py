"""An output that is not there (comfy_execution of ComfyUI): the nodes behind it are left out of the prompt."""

from __future__ import annotations

from typing import Any

from comfy_execution.graph_utils import ExecutionBlocker


def skip_readers() -> Any:
    """Return an output whose readers ComfyUI leaves out, without an error; the rest of the prompt runs."""
    return ExecutionBlocker(None)
