"""The attention contract of newer hosts, imitated: γ acts by it as before, beside other overrides and backends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import comfy.ldm.modules.attention
import pytest
import torch
from torch import Tensor

from lab.testing.neighbours import ORDERS, in_order, louder, with_override
from lab.testing.newer_contract import MARKER, LayerAttention, TensorContainer, by_contract, unpacked
from lab.testing.recorder import attention_names, distance, effect, plainly, stated, watch_attention
from lab.testing.run_nodes import probe, skew

NAMES = ["SD15", "SD3 with image-only attention", "Flux"]


def of_the_layer(*given: Any, **named: Any) -> Tensor:
    """A backend that a layer prefers, as attention in eight bits is; it differs from the others."""
    named.pop(MARKER, None)
    return 0.9 * comfy.ldm.modules.attention.attention_pytorch(*unpacked(given), **named)


@contextmanager
def newer_host(family, preferred: Callable[..., Tensor] | None = None) -> Iterator[list[tuple[Any, ...]]]:
    """The models of the host call its attention by the contract, with containers; yields what every call got."""
    network, received = family.model.model.diffusion_model, []
    layer = LayerAttention()
    layer.function = preferred
    attend = by_contract(comfy.ldm.modules.attention.optimized_attention.__wrapped__)

    def optimized_attention(q: Tensor, k: Tensor, v: Tensor, *rest: Any, **named: Any) -> Tensor:
        containers = tuple(map(TensorContainer, (q, k, v)))
        received.append(containers)
        return attend(*containers, *rest, preferred_attention=layer, **named)

    with ExitStack() as stack:
        for name, module in list(network.named_modules()):
            if name.endswith(("attn", "attn1", "attn2")):
                module.comfy_attention = layer
                stack.callback(delattr, module, "comfy_attention")
        for file, name in attention_names():
            stack.enter_context(patch.object(file, name, optimized_attention))
        yield received


def assert_stated(family, calls, beta: float = 1.0, times: float = 1.0) -> None:
    assert len(calls) >= len(family.sites)
    for seen in calls:
        want = plainly(seen) if seen.is_cross else stated(family, seen, 1.5, beta)
        close = 1e-5 * want.norm() if seen.is_cross else 1e-3 * effect(family, seen, 1.5)
        assert distance(seen.out, times * want) <= close, seen.path


@pytest.mark.parametrize("beta", [1.0, 3.0])
@pytest.mark.parametrize("name", NAMES)
def test_every_site_gives_what_the_definition_says(families, name, beta):
    family = families[name]
    with newer_host(family) as received:
        patched, report = skew(family.model, beta=beta)
        with watch_attention(patched) as calls:
            family.sample(patched, steps=1)
        assert_stated(family, calls, beta)
        assert all(each.tensor is None for containers in received for each in containers)
        assert set(report.runs[-1].site_calls) == set(family.sites)
        assert report.runs[-1].warning is None


@pytest.mark.parametrize("name", NAMES)
def test_the_plain_model_and_gamma_1_have_the_bits_they_had(families, name):
    family = families[name]
    before = family.picture
    with newer_host(family):
        assert family.sample().equal(before)
        assert family.sample(skew(family.model, gamma=1.0)[0]).equal(before)
        family.sample(skew(family.model)[0])
        assert family.sample().equal(before)
    assert family.sample().equal(before)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", NAMES)
def test_an_override_of_another_pack_attends_in_both_orders(families, name, order):
    family = families[name]
    with newer_host(family):
        patched, _ = in_order(order, family.model, lambda model: with_override(model, louder))
        with watch_attention(patched) as calls:
            family.sample(patched, steps=1)
    assert_stated(family, calls, times=1.1)


@pytest.mark.parametrize("name", NAMES)
def test_an_override_that_takes_containers_works_in_both_orders(families, name):
    """It gets containers without our override, as in cross-attention, and plain tensors from ours."""
    family, kinds = families[name], set()

    def theirs(function: Callable[..., Tensor], *given: Any, **named: Any) -> Tensor:
        kinds.add(type(given[0]))
        return louder(function, *given, **named)

    def with_containers(*given: Any, **named: Any) -> Tensor:
        kinds.add(type(given[0]))
        return louder(comfy.ldm.modules.attention.attention_pytorch, *unpacked(given), **named)

    theirs.container_function = with_containers
    pictures = []
    with newer_host(family):
        for order in ORDERS:
            patched, report = in_order(order, family.model, lambda model: with_override(model, theirs))
            with watch_attention(patched) as calls:
                pictures.append(family.sample(patched, steps=1))
            assert_stated(family, calls, times=1.1)
            assert set(report.runs[-1].site_calls) == set(family.sites)
    assert pictures[0].equal(pictures[1])
    assert torch.Tensor in kinds
    assert (TensorContainer in kinds) == any(seen.is_cross for seen in calls)


@pytest.mark.parametrize("name", NAMES)
def test_a_backend_that_a_layer_asks_for_gives_way_to_gamma(families, name):
    """An override comes first, so a site with γ attends by the host's own backend; without it the layer has its own."""
    family = families[name]
    with newer_host(family, of_the_layer):
        plain = family.sample()
        assert distance(plain, family.picture) > 1e-3 * plain.norm()
        assert family.sample(skew(family.model, gamma=1.0)[0]).equal(plain)
        patched, report = skew(family.model)
        with watch_attention(patched) as calls:
            family.sample(patched, steps=1)
        for seen in calls:
            want = 0.9 * plainly(seen) if seen.is_cross else stated(family, seen, 1.5)
            close = 1e-5 * want.norm() if seen.is_cross else 1e-3 * effect(family, seen, 1.5)
            assert distance(seen.out, want) <= close, seen.path
        assert set(report.runs[-1].site_calls) == set(family.sites)
        assert family.sample().equal(plain)


@pytest.mark.parametrize("name", NAMES)
def test_the_probe_changes_no_bit_and_measures(families, name):
    family = families[name]
    with newer_host(family):
        model, trace = probe(family.model)
        assert family.sample(model).equal(family.picture)
        assert {address.partition("#")[0] for address in trace.runs[-1].addresses} == set(family.sites)
        together, trace = probe(skew(family.model)[0])
        assert family.sample(together).equal(family.sample(skew(family.model)[0]))
        assert not trace.is_empty
