"""The published reference cases: outputs of the authors' own code, see tests/core/test_reference.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from torch import Tensor

FILES = sorted((Path(__file__).parent / "reference").glob("*.safetensors"))


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a file and its settings (`spec`)."""
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (the file is no dict)
        return tensors, json.loads(file.metadata()["spec"])


def cases(kind: str) -> list[Any]:
    """Parameters `(path, index)` for every case of a kind, "static" or "adaptive", in all files."""
    return [
        pytest.param(path, index, id=f"{path.stem}-{kind}-{index}")
        for path in FILES
        for index in range(len(load(path)[1][kind]))
    ]
