"""Models on more devices than one, and behind the patchers for cards, on a machine without."""

from __future__ import annotations

from typing import Any

import comfy.model_patcher
import comfy_aimdo.host_buffer
import pytest
import torch
from comfy.model_patcher import ModelPatcher

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


def dynamic_on_cpu(network: torch.nn.Module, monkeypatch: pytest.MonkeyPatch, classic: Any = None) -> ModelPatcher:
    """A network behind ComfyUI's dynamic-VRAM patcher, whose classic clones hold another module: that of `classic`.

    On a CPU the host reroutes that patcher to the classic one; here it is made to stay, with pinned memory left out.
    """

    class DynamicOnCpu(comfy.model_patcher.ModelPatcherDynamic):  # type: ignore[misc]
        def __new__(cls, *args: Any, **kwargs: Any) -> DynamicOnCpu:
            return object.__new__(cls)

    class NoPinnedMemory:
        size = 0

        def __init__(self, *sizes: int):
            pass

    monkeypatch.setattr(comfy_aimdo.host_buffer, "HostBuffer", NoPinnedMemory)
    cpu = torch.device("cpu")
    patcher = DynamicOnCpu(network, load_device=cpu, offload_device=cpu)
    patcher.cached_patcher_init = (lambda disable_dynamic=False: classic, ())
    return patcher
