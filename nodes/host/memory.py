"""Out-of-memory errors, told from others."""

from __future__ import annotations

from comfy.model_management import OOM_EXCEPTION, is_oom


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether the host should handle `error` by freeing memory. Never without a GPU."""
    return OOM_EXCEPTION is not Exception and is_oom(error)  # without a GPU the host calls every error one
