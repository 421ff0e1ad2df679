"""Nodes that look into the server's process, and that fail on purpose. Only for the campaign and its tests."""

from __future__ import annotations

import gc
import json
import re
import resource
import time
from collections import Counter
from typing import Any

import torch
from comfy.patcher_extension import WrappersMP
from comfy_api.latest import ComfyExtension, io

CATEGORY = "symmetric attention campaign"
PACK = re.compile(r"\b(symmetric-attention|symmetric_attention|sad_core)\b(?!-)")
ERRORS = {"out of memory": torch.OutOfMemoryError, "error": ArithmeticError}


def ours() -> Counter[str]:
    """Return how many objects of the pack's classes are alive, by class, and of its functions on modules."""
    gc.collect()
    found = [type(each) for each in gc.get_objects()]
    return Counter(each.__qualname__ for each in found if PACK.search(str(each.__module__)))


def resident() -> int:
    """Return the bytes of memory of this process."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


class LookNode(io.ComfyNode):
    """Return the counts of the objects alive in the process, as JSON."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SADCampaignLook",
            category=CATEGORY,
            inputs=[io.Image.Input("after")],
            outputs=[io.String.Output()],
            not_idempotent=True,
        )

    @classmethod
    def execute(cls, after: torch.Tensor) -> io.NodeOutput:
        return io.NodeOutput(json.dumps({"objects": ours(), "bytes": resident()}))


class FailNode(io.ComfyNode):
    """A MODEL whose calls fail from the n-th of a run on, or take long."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SADCampaignFail",
            category=CATEGORY,
            inputs=[
                io.Model.Input("model"),
                io.Int.Input("call", default=1),
                io.Combo.Input("how", options=[*ERRORS, "wait"]),
            ],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model: Any, call: int, how: str) -> io.NodeOutput:
        model = model.clone()
        count = 0

        def failing(executor: Any, *args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count >= call and how in ERRORS:
                count = 0
                raise ERRORS[how]("on purpose")
            if how == "wait":
                time.sleep(0.05)
            return executor(*args, **kwargs)

        model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "campaign", failing)
        return io.NodeOutput(model)


class CampaignExtension(ComfyExtension):
    """Return the extension that ComfyUI loads."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [LookNode, FailNode]


async def comfy_entrypoint() -> ComfyExtension:
    return CampaignExtension()
