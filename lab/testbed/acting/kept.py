"""The file of a part: arrays and a JSON text, compressed, so that pictures of few grey values stay small."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor

from sad_core.whole_file import whole_file


def keep(path: Path, tensors: Mapping[str, Tensor], about: Any = None) -> None:
    """Write the file of a part, whole or not at all."""
    arrays: dict[str, Any] = {name: each.cpu().numpy() for name, each in tensors.items()}
    with whole_file(path) as unfinished, unfinished.open("wb") as file:
        numpy.savez_compressed(file, about=numpy.array(json.dumps(about)), **arrays)


def load(path: Path) -> tuple[dict[str, Tensor], Any]:
    """The tensors of a part, and what is said about them."""
    with numpy.load(path) as file:
        tensors = {name: torch.from_numpy(file[name]) for name in file.files if name != "about"}
        return tensors, json.loads(str(file["about"]))
