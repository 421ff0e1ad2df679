"""Runs on a card with the fused kernel, and where it is missing, forbidden or broken; simulated on the CPU."""

from __future__ import annotations

from collections.abc import Callable

import comfy.ldm.modules.attention
import pytest
import torch
from symmetric_attention.nodes.host.patches import attention_backend, skew_patch
from symmetric_attention.sad_core import attention, joint_attention
from symmetric_attention.sad_core.kernels import eligibility, operation
from symmetric_attention.sad_core.kernels.unfused import retrieve_unfused
from torch import Tensor
from torch._dynamo.utils import counters

from lab.testing.recorder import backend
from lab.testing.run_nodes import compiled, skew, with_override_of_another_pack

KERNEL = "fused kernel"
WIDGETS = [{}, {"beta": 3.0}, {"beta": 3.0, "adaptive": "gamma and beta"}, {"apply_to": "cond", "beta": 3.0}]


@pytest.fixture
def launches(monkeypatch) -> list[object]:
    """The CPU as a card on which the kernel is chosen, and ordinary products in its place; the calls that it got."""
    calls: list[object] = []

    def launch(call):
        calls.append(call)
        return retrieve_unfused(call)

    for module in (attention, joint_attention, eligibility, skew_patch):
        monkeypatch.setattr(module, "has_kernel", lambda device: True)
    monkeypatch.setattr(eligibility, "unsuitability", lambda *of_the_device: None)
    monkeypatch.setattr(operation, "_works", {})
    monkeypatch.setattr(operation, "launch", launch)
    return calls


def own_backend() -> str:
    return comfy.ldm.modules.attention.optimized_attention.__name__


def assert_near(got: Tensor, want: Tensor) -> None:
    assert float((got - want).norm()) < 3e-5 * float(want.norm())


@pytest.mark.parametrize("name", ["SD15", "Flux"])
@pytest.mark.parametrize("widgets", WIDGETS, ids=str)
def test_the_kernel_is_named_and_gives_the_same_picture(families, name, monkeypatch, launches, widgets):
    family = families[name]
    patched, report = skew(family.model, **widgets)
    got = family.sample(patched)
    assert launches
    told = [KERNEL] if widgets.get("apply_to") is None else [own_backend(), KERNEL]
    assert f"Attention was computed by {', '.join(told)}." in report.describe()
    monkeypatch.setattr(eligibility, "unsuitability", lambda *of_the_device: "forbidden")
    assert_near(got, family.sample(patched))
    assert KERNEL not in report.describe()


def test_gamma_of_1_calls_no_kernel(sd15, launches):
    plain = sd15.sample(sd15.model)
    assert torch.equal(sd15.sample(skew(sd15.model, gamma=1.0)[0]), plain)
    assert torch.equal(sd15.sample(skew(sd15.model, beta=0.0)[0]), plain)
    assert not launches


@pytest.mark.newest
def test_a_compiled_model_holds_the_kernel(small_flux, launches):
    patched, _ = skew(small_flux.model, beta=3.0)
    want = small_flux.sample(patched)
    launches.clear()
    if own_backend() == "attention_pytorch":
        assert_near(small_flux.sample(compiled(patched, fullgraph=True)), want)
        assert launches


class QuantisedAttention:
    """PyTorch attention under the name that SageAttention has in the host."""

    __name__ = __qualname__ = "attention_sage"

    def __call__(self, *arguments: Tensor, **keyword: Tensor) -> Tensor:
        out: Tensor = comfy.ldm.modules.attention.attention_pytorch(*arguments, **keyword)
        return out


def test_with_sage_attention_the_kernel_stays_out(sd15, launches):
    patched, report = skew(sd15.model, beta=3.0)
    with backend(QuantisedAttention()):
        picture = sd15.sample(patched)
    assert not launches
    assert bool(picture.isfinite().all())
    assert "Attention was computed by attention_sage." in report.describe()


def test_an_override_of_another_pack_keeps_the_kernel_out(sd15, launches):
    patched, report = skew(with_override_of_another_pack(sd15.model))
    sd15.sample(patched)
    assert not launches
    assert "Attention was computed by attention_of_another_pack." in report.describe()


def test_disable_triton_backend_is_honoured(sd15, monkeypatch, launches):
    monkeypatch.setattr(attention_backend.args, "disable_triton_backend", True, raising=False)
    patched, report = skew(sd15.model)
    sd15.sample(patched)
    assert not launches
    assert f"Attention was computed by {own_backend()}." in report.describe()


def no_triton(monkeypatch) -> None:
    monkeypatch.setattr(eligibility, "import_error", lambda: "ModuleNotFoundError: No module named 'triton'")
    monkeypatch.setattr(eligibility, "architecture_of", lambda index: "sm_90")


def amd_of_rdna2(monkeypatch) -> None:
    monkeypatch.setattr(torch.version, "hip", "7.0")
    monkeypatch.setattr(eligibility, "import_error", lambda: None)
    monkeypatch.setattr(eligibility, "architecture_of", lambda index: "gfx1030")


def amd_without_triton(monkeypatch) -> None:
    no_triton(monkeypatch)
    monkeypatch.setattr(torch.version, "hip", "7.0")
    monkeypatch.setattr(eligibility, "architecture_of", lambda index: "gfx1100")


def card_that_nobody_measured(monkeypatch) -> None:
    monkeypatch.setattr(eligibility, "import_error", lambda: None)
    monkeypatch.setattr(eligibility, "architecture_of", lambda index: "sm_89")


@pytest.mark.parametrize("machine", [no_triton, amd_of_rdna2, card_that_nobody_measured])
def test_machines_without_the_kernel_do_with_the_hosts_attention(
    sd15, monkeypatch, launches, machine: Callable[[pytest.MonkeyPatch], None]
):
    asked = eligibility._unsuitability.__wrapped__
    monkeypatch.setattr(eligibility, "unsuitability", lambda kind, *rest: asked("cuda", *rest))
    machine(monkeypatch)
    patched, report = skew(sd15.model, beta=3.0)
    picture = sd15.sample(patched)
    assert not launches
    assert f"Attention was computed by {own_backend()}." in report.describe()
    monkeypatch.undo()
    assert torch.equal(sd15.sample(patched), picture)


def test_a_broken_kernel_costs_no_picture_and_one_traceback(sd15, monkeypatch, launches, caplog):
    def broken(call):
        raise RuntimeError("ptxas was not found")

    patched, report = skew(sd15.model)
    with monkeypatch.context() as forbidden:
        forbidden.setattr(eligibility, "unsuitability", lambda *of_the_device: "forbidden")
        want = sd15.sample(patched)
    monkeypatch.setattr(operation, "launch", broken)
    assert torch.equal(sd15.sample(patched), want)
    described = report.describe()
    assert f"Attention was computed by {own_backend()}." in described
    assert described.count("Fallback: the fused kernel failed (RuntimeError: ptxas was not found), so ") == 1
    assert described.endswith(", so ordinary attention with twice the head dimension was used.")
    assert caplog.text.count("Traceback") == 1
    sd15.sample(patched)  # a later run of the same process falls back too, and says so
    assert report.describe().partition("Fallback")[1:] == described.partition("Fallback")[1:]
    assert "ptxas was not found" in caplog.text


def test_out_of_memory_in_the_kernel_is_the_hosts(sd15, monkeypatch, launches):
    def full(call):
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(operation, "launch", full)
    patched, report = skew(sd15.model)
    with pytest.raises(torch.OutOfMemoryError):
        sd15.sample(patched)
    assert report.runs[-1].status == "failed (OutOfMemoryError)"
    assert not report.runs[-1].fallbacks


NO_TRITON = "Triton cannot be imported: ModuleNotFoundError: No module named 'triton'"
MACHINES = {
    "Windows with a card, without Triton": ("cuda", no_triton, NO_TRITON),
    "AMD without Triton": ("cuda", amd_without_triton, NO_TRITON),
    "a Mac": ("mps", lambda monkeypatch: None, "the tensors are on mps, and the kernel needs CUDA or ROCm"),
    "an older AMD card": ("cuda", amd_of_rdna2, "the kernel is not used on gfx1030"),
}


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("name", ["SD15", "Flux"])
def test_a_kernel_that_was_asked_for_and_is_not_there_is_named(families, name, monkeypatch, launches, machine):
    family, (kind, simulate, reason) = families[name], MACHINES[machine]
    asked = eligibility._unsuitability.__wrapped__
    monkeypatch.setattr(eligibility, "wish", lambda: "always")
    monkeypatch.setattr(eligibility, "unsuitability", lambda _, *rest: asked(kind, *rest))
    simulate(monkeypatch)
    patched, report = skew(family.model, beta=3.0)
    picture = family.sample(patched)
    assert not launches
    described = report.describe()
    assert f"Attention was computed by {own_backend()}." in described
    assert described.count("Fallback: ") == 1
    assert f"Fallback: the fused kernel was not used ({reason}" in described
    assert described.endswith("), so ordinary attention with twice the head dimension was used.")
    monkeypatch.undo()
    assert family.sample(patched).equal(picture)


def test_a_card_of_the_table_without_triton_is_named_without_a_wish(sd15, monkeypatch, launches):
    asked = eligibility._unsuitability.__wrapped__
    monkeypatch.setattr(eligibility, "chosen", lambda *of_the_card: "kernel")
    monkeypatch.setattr(
        eligibility, "unsuitability", lambda kind, index, dim, blends, half: asked("cuda", 0, dim, 1, 1)
    )
    no_triton(monkeypatch)
    patched, report = skew(sd15.model)
    sd15.sample(patched)
    assert f"Fallback: the fused kernel was not used ({NO_TRITON}), so " in report.describe()


@pytest.mark.parametrize("is_wished", [True, False])
def test_a_wish_for_the_kernel_is_answered_where_others_compute(sd15, monkeypatch, launches, is_wished):
    monkeypatch.setattr(eligibility, "wish", lambda: "always" if is_wished else None)
    sentence = "Fallback: the fused kernel was not used ({} computes the attention)."
    patched, report = skew(sd15.model, beta=3.0)
    with backend(QuantisedAttention()):
        sd15.sample(patched)
    assert (sentence.format("attention_sage") in report.describe()) == is_wished
    patched, report = skew(with_override_of_another_pack(sd15.model))
    sd15.sample(patched)
    assert (sentence.format("attention_of_another_pack") in report.describe()) == is_wished
    assert not launches


@pytest.mark.newest
def test_a_kernel_that_breaks_in_a_compiled_model_is_named(small_flux, monkeypatch, launches):
    if own_backend() != "attention_pytorch":
        pytest.skip("only PyTorch's attention is compiled with the sites")

    def broken(call):
        raise RuntimeError("ptxas was not found")

    patched, report = skew(small_flux.model, beta=3.0)
    want = small_flux.sample(patched)
    assert "Fallback" not in report.describe()
    monkeypatch.setattr(operation, "_works", {})
    monkeypatch.setattr(operation, "launch", broken)
    assert_near(small_flux.sample(compiled(patched, fullgraph=True)), want)
    assert report.describe().endswith(
        "Fallback: the fused kernel failed (RuntimeError: ptxas was not found), so ordinary matrix products were used "
        "in a compiled graph."
    )
    small_flux.sample(patched.clone(), steps=1)
    assert "compiled graph" not in report.describe()


@pytest.mark.newest
@pytest.mark.parametrize("is_others", [True, False])
def test_a_wish_for_the_kernel_adds_no_graph_to_a_compiled_model(flux, monkeypatch, launches, is_others):
    if own_backend() != "attention_pytorch":
        pytest.skip("only PyTorch's attention is compiled with the sites")
    monkeypatch.setattr(eligibility, "wish", lambda: "always")
    monkeypatch.setattr(eligibility, "unsuitability", lambda *of_the_device: "it is made up")
    patched, report = skew(with_override_of_another_pack(flux.model) if is_others else flux.model, beta=3.0)
    model = compiled(patched, fullgraph=True)
    torch._dynamo.reset()
    counters.clear()
    flux.sample(model, steps=2)
    told = report.describe()
    assert counters["stats"]["unique_graphs"] == 1
    why = " (attention_of_another_pack computes the attention)" if is_others else " (it is made up)"
    assert told.count("Fallback: ") == told.count(f"Fallback: the fused kernel was not used{why}") == 1
    flux.sample(model, steps=1)  # a run that compiles nothing says so too
    assert told.partition("Fallback")[2] == report.describe().partition("Fallback")[2]
