"""Running nodes and samplers the way ComfyUI does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import comfy.model_management
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io
from comfy_api.torch_helpers import set_torch_compile_wrapper
from symmetric_attention.nodes.skew_attention import SkewAttentionNode
from symmetric_attention.nodes.stability_feedback import StabilityFeedbackNode
from symmetric_attention.nodes.stability_probe import StabilityProbeNode

NODE_ID = "7"
# Curves for schedules that have to be told from their neighbours: never near γ = 1 for long, another slope everywhere.
CURVE = {"keyframes": "0:1.5, 0.5:0.4, 1:2"}


def execute(node: type[io.ComfyNode], **inputs: Any) -> tuple[Any, ...]:
    """The outputs of a V3 node, run on a locked copy of its class that knows the node's id, as ComfyUI runs it."""
    copy = node.PREPARE_CLASS_CLONE({"hidden_inputs": {io.Hidden.unique_id: NODE_ID}})
    outputs: tuple[Any, ...] = copy.EXECUTE_NORMALIZED(**inputs).args
    return outputs


def skew(model: ModelPatcher, gamma: float = 1.5, beta: float = 1.0, **widgets: Any) -> tuple[Any, ...]:
    """A model through Skew Attention: the patched model and the report handle."""
    patched, _, report = execute(SkewAttentionNode, model=model, gamma=gamma, beta=beta, **widgets)
    return patched, report


def compiled(model: ModelPatcher, *, fullgraph: bool, backend: str = "eager") -> ModelPatcher:
    """The model as ComfyUI's own TorchCompileModel node leaves it, guards on transformer_options dropped."""
    from comfy_extras.nodes_torch_compile import skip_torch_compile_dict

    model = model.clone()
    options = {"guard_filter_fn": skip_torch_compile_dict}
    set_torch_compile_wrapper(model=model, backend=backend, fullgraph=fullgraph, options=options)
    return model


def probe(model: ModelPatcher, **widgets: Any) -> tuple[Any, ...]:
    """A model through Stability Probe: the model and the trace."""
    return execute(StabilityProbeNode, model=model, **widgets)


def with_feedback(model: ModelPatcher, **widgets: Any) -> tuple[Any, ...]:
    """A model through Stability Feedback: the model and the trace."""
    return execute(StabilityFeedbackNode, model=model, **widgets)


def through(order: str, model: ModelPatcher, patterns: str = "value", **widgets: Any) -> tuple[Any, ...]:
    """A model through Skew Attention and Stability Probe in the given order: the model and the trace.

    "between": two Skew Attention nodes on the same sites with the probe between them; the later one wins.
    """
    if order == "skew first":
        return probe(skew(model, **widgets)[0], patterns=patterns)
    model, trace = probe(skew(model, gamma=0.3)[0] if order == "between" else model, patterns=patterns)
    return skew(model, **widgets)[0], trace


def stop_at(step: int) -> Callable[..., None]:
    """A step callback that does what the Cancel button does."""

    def callback(index: int, denoised: Any, x: Any, steps: int) -> None:
        if index == step:
            raise comfy.model_management.InterruptProcessingException

    return callback


@contextmanager
def little_memory(model: ModelPatcher) -> Iterator[None]:
    """A machine on which ComfyUI cannot run cond and uncond in one batch."""
    with patch.object(model.model, "memory_required", lambda *args, **kwargs: float("inf")):
        yield


def forget_dead_models() -> None:
    """Have the host forget models whose patcher is gone while something still holds the network.

    It would collect all garbage before each run to come, which takes longer than the run of a tiny model.
    """
    loaded = comfy.model_management.current_loaded_models
    loaded[:] = [each for each in loaded if not each.is_dead()]


def patches_of(model: Any) -> list[Any]:
    """Our patches of a model, one for each node it went through and each once."""
    functions = [each for each in model.object_patches.values() if hasattr(each, "patched_forward")]
    patches = [function.patched_forward.patch for function in functions]
    return list({id(patch): patch for patch in patches}.values())


def with_override_of_another_pack(model: ModelPatcher) -> ModelPatcher:
    """The model with an attention override in its slot that does what the host does, under a name of its own."""

    def attention_of_another_pack(function: Callable[..., Any], *arguments: Any, **keyword: Any) -> Any:
        return function(*arguments, **keyword)

    model = model.clone()
    model.model_options["transformer_options"]["optimized_attention_override"] = attention_of_another_pack
    return model
