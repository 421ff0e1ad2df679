"""γ where diffusers and PyTorch decide where and when a layer runs: offload, compiled graphs, threads, gradients."""

from __future__ import annotations

import copy
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import accelerate
import pytest
import torch
from torch import Tensor

from lab.testing.definition import relative_error
from lab.testing.diffusers_definition import predict
from lab.testing.diffusers_models import ROWS, normal
from sad_core import set_skew_attention
from sad_core.diffusers.families import FAMILIES

BY_NAME = {row.name: row for row in ROWS}


@pytest.mark.parametrize("offload_type", ["block_level", "leaf_level"])
@pytest.mark.parametrize("name", ["UNet2DConditionModel", "FluxTransformer2DModel", "ZImageTransformer2DModel"])
@pytest.mark.parametrize("is_first", [True, False], ids=["before", "after"])
def test_gamma_stays_with_group_offload(offload_type, name, is_first):
    row = BY_NAME[name]
    model = row.build()
    set_skew_attention(model, 1.5, 2.0)
    wanted = predict(row, model)
    set_skew_attention(model, 1.0)
    plain = predict(row, model)
    blocks = {"num_blocks_per_group": 1} if offload_type == "block_level" else {}
    cpu = torch.device("cpu")
    steps = [
        lambda: model.enable_group_offload(onload_device=cpu, offload_device=cpu, offload_type=offload_type, **blocks),
        lambda: set_skew_attention(model, 1.5, 2.0),
    ]
    for step in steps if is_first else reversed(steps):
        step()
    assert torch.equal(predict(row, model), wanted)
    set_skew_attention(model, 1.0)
    assert torch.equal(predict(row, model), plain)


@pytest.mark.parametrize("name", ["FluxTransformer2DModel", "PixArtTransformer2DModel"])
def test_a_compiled_model_is_one_graph_and_follows_gamma(name):
    row = BY_NAME[name]
    model = row.build()
    graphs: list[Any] = []
    compiled = torch.compile(model, backend=lambda graph, _: graphs.append(graph) or graph.forward, fullgraph=True)
    plain = predict(row, model)
    more = [1.6 + 0.1 * number for number in range(torch._dynamo.config.recompile_limit)]
    blended = [(gamma, 2.0 + gamma) for gamma in (1.5, *more, 1.0, 1.7, 1.0)]
    for gamma, beta in ((1.5, 1.0), (1.7, 1.0), *blended):
        names = set_skew_attention(compiled, gamma, beta)
        assert len(names) == row.layers
        assert relative_error(predict(row, compiled), predict(row, model)) < 1e-6
    assert len(graphs) == 3, "every γ or β made another graph"  # with γ, with γ and β, and without
    assert torch.equal(predict(row, model), plain)


def test_blocks_that_are_compiled_share_their_graphs_and_follow_gamma():
    """As `compile_repeated_blocks` compiles them, by themselves."""
    row = BY_NAME["FluxTransformer2DModel"]
    model, reference = row.build(), row.build()
    for each in (model, reference):
        each.transformer_blocks = torch.nn.ModuleList()  # the other kind of blocks is enough, and takes half the time
        blocks = each.single_transformer_blocks
        blocks.append(copy.deepcopy(blocks[-1]))  # the first one gets tensors of other strides, so it shares with none
    graphs: list[Any] = []
    model.compile_repeated_blocks(backend=lambda graph, _: graphs.append(graph) or graph.forward, fullgraph=True)
    predict(row, model)
    of_plain = len(graphs)
    for gamma in (1.5, 1.7, 1.0):
        for each in (model, reference):
            set_skew_attention(each, gamma, 2.0)
        assert relative_error(predict(row, model), predict(row, reference)) < 1e-6
    assert len(graphs) == 2 * of_plain


@pytest.mark.parametrize("name", ["FluxTransformer2DModel", "ZImageTransformer2DModel", "StableAudioDiTModel"])
def test_calls_in_two_threads_keep_their_own_lengths(name):
    """Two pipelines may share a model; here the second call is under way before the first attends."""
    row = BY_NAME[name]
    model, inputs = row.build(), (row.inputs(1), other_lengths(name, row.inputs(1)))
    set_skew_attention(model, 1.5, 2.0)
    sensed = {id(layer.sensed): layer.sensed for layer in FAMILIES[name].layers(model) if layer.sensed is not None}

    def result(given: dict[str, Any]) -> Tensor:
        with torch.no_grad():
            return row.result(model(**given))

    wanted = [result(given) for given in inputs]
    barrier = threading.Barrier(2, timeout=60)

    def meet(*_: Any) -> None:
        barrier.wait()

    for module in sensed.values():
        module.register_forward_pre_hook(meet)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(result, inputs))
    assert all(map(torch.equal, found, wanted))


def test_checkpointed_layers_are_computed_again_in_a_thread():
    """Compute in a thread of PyTorch, like the gradients of a model on a card."""
    row = BY_NAME["ZImageTransformer2DModel"]
    gradients = []
    for is_checkpointed in (False, True):
        model = row.build()
        if is_checkpointed:
            model.enable_gradient_checkpointing()
        set_skew_attention(model, 1.5, 2.0)
        out = row.result(model(**row.inputs(1)))
        with ThreadPoolExecutor(1) as pool:
            pool.submit(out.sum().backward).result()
        gradients.append(torch.cat([each.grad.flatten() for each in model.parameters() if each.grad is not None]))
    torch.testing.assert_close(gradients[1], gradients[0])


def other_lengths(name: str, inputs: dict[str, Any]) -> dict[str, Any]:
    """The same call with another number of the tokens that a sensor counts."""
    if name.startswith("Flux"):
        return {**inputs, "encoder_hidden_states": normal(1, 3, 16, seed=1), "txt_ids": torch.zeros(3, 3)}
    if name.startswith("ZImage"):
        return {**inputs, "x": list(normal(1, 4, 1, 16, 8))}
    rotation = normal(18, 4, seed=3)
    return {
        **inputs,
        "global_hidden_states": normal(1, 2, 12, seed=2),
        "rotary_embedding": (rotation.cos(), rotation.sin()),
    }


def sequential(model: torch.nn.Module) -> None:
    """As `enable_sequential_cpu_offload` of a pipeline does it."""
    accelerate.cpu_offload(model, torch.device("cpu"))


def whole(model: torch.nn.Module) -> None:
    """As `enable_model_cpu_offload` of a pipeline does it."""
    accelerate.cpu_offload_with_hook(model, torch.device("cpu"))


@pytest.mark.parametrize("offload", [sequential, whole])
@pytest.mark.parametrize("is_first", [True, False], ids=["before", "after"])
def test_gamma_stays_with_the_offload_of_a_pipeline_and_after_its_end(offload, is_first):
    """Its end is `remove_all_hooks`."""
    row = BY_NAME["FluxTransformer2DModel"]
    model = row.build()
    plain = predict(row, model)
    set_skew_attention(model, 1.5, 2.0)
    wanted = predict(row, model)
    set_skew_attention(model, 1.0)
    steps = [lambda: offload(model), lambda: set_skew_attention(model, 1.5, 2.0)]
    for step in steps if is_first else reversed(steps):
        step()
    assert torch.equal(predict(row, model), wanted)
    accelerate.hooks.remove_hook_from_module(model, recurse=True)
    assert torch.equal(predict(row, model), wanted)
    set_skew_attention(model, 1.0)
    assert torch.equal(predict(row, model), plain)
