"""Models on more devices than one, on a machine that has one."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lab.testing.families.building import build
from lab.testing.families.configs import SD15
from lab.testing.families.family import Family


def on_two_devices(family: Family) -> Any:
    """An SD1.5 and another module with the same weights, registered as ComfyUI's MultiGPU node does.

    Skips the test where the host knows no such models.
    """
    if not hasattr(family.model, "set_additional_models") or not hasattr(family.model, "is_multigpu_base_clone"):
        pytest.skip("this ComfyUI has no multi-GPU clones")
    second = build("SD15", SD15)
    second.load_device = torch.device("cpu", 0)
    second.is_multigpu_base_clone = True
    second.clone_base_uuid = family.model.clone_base_uuid
    model = family.model.clone()
    model.set_additional_models("multigpu", [second])
    return model
