"""Names of the custom operations that compiled graphs hold."""

from __future__ import annotations

import zlib


def operation_namespace(module: str) -> str:
    """A namespace for the custom operations of a module, which no second copy of the pack has.

    ComfyUI names a pack by its path, which may have letters that PyTorch does not allow in the name of an operation.

    Args:
        module: its `__name__`, of any letters.
    """
    return f"symmetric_attention_{zlib.crc32(module.encode(errors='surrogatepass')):08x}"
