"""The choice of the fused kernel, and the fallback if it is missing or broken. Needs neither Triton nor a card."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys

import pytest
import torch

from lab.folders import ROOT
from lab.testing import definition
from lab.testing.strategies import tokens
from sad_core import modal_skew_attention, skew_attention
from sad_core.kernels import choice, eligibility, operation
from sad_core.kernels.call import FusedCall
from sad_core.kernels.choice import Blocks, block_sizes, chosen, padded
from sad_core.kernels.eligibility import ineligibility, unsuitability
from sad_core.kernels.imitation import imitation, smaller_strides
from sad_core.kernels.operation import fused_retrieve
from sad_core.kernels.unfused import retrieve_unfused

CACHED = (choice._wish, choice.choices, eligibility._unsuitability, eligibility.import_error)


@pytest.fixture(autouse=True)
def _nothing_is_remembered(monkeypatch):
    monkeypatch.setattr(operation, "_works", {})
    monkeypatch.delenv("SAD_FUSED_KERNEL", raising=False)
    for function in CACHED:
        function.cache_clear()
    yield
    for function in CACHED:
        function.cache_clear()


@pytest.fixture
def launches(monkeypatch) -> list[FusedCall]:
    """The CPU as a card whose kernel works; the calls that it got."""
    calls: list[FusedCall] = []

    def launch(call):
        calls.append(call)
        return retrieve_unfused(call)

    monkeypatch.setattr(operation, "launch", launch)
    monkeypatch.setattr(eligibility, "has_kernel", lambda device: True)
    monkeypatch.setattr(eligibility, "unsuitability", lambda *of_the_device: None)
    monkeypatch.setattr("sad_core.attention.has_kernel", lambda device: True)
    monkeypatch.setattr("sad_core.joint_attention.has_kernel", lambda device: True)
    return calls


def call_of(**changes) -> FusedCall:
    drawn = tokens(heads=2, length=20, head_dim=16).to(torch.float32)
    return FusedCall.of(**{"q": drawn.q, "k": drawn.k, "v": drawn.v, "gamma": 0.6, **changes})


# --- which calls are eligible


def test_a_call_that_fits_is_eligible(launches):
    assert ineligibility(call_of()) is None
    assert ineligibility(call_of(beta=3.0, mask=torch.zeros(20), gamma=torch.ones(2))) is None
    fewer = tokens(heads=2, length=20, head_dim=16).to(torch.float32)
    assert ineligibility(FusedCall.of(fewer.q[:, :, 5:], fewer.k, fewer.v, 0.6)) is None
    assert ineligibility(call_of(beta=1.0, norm="input")) is None  # β = 1 needs no norm


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"q": torch.zeros(2, 2, 20, 16).double()}, "torch.float64"),
        ({"v": torch.zeros(2, 2, 20, 16).half()}, "torch.float16"),
        ({"v": torch.zeros(2, 2, 20, 8)}, "differ"),
        ({"q": torch.zeros(2, 2, 21, 16)}, "differ"),
        ({"q": torch.zeros(2, 2, 16, 20).mT}, "not adjacent"),
        ({"mask": torch.zeros(20, dtype=torch.int64)}, "mask is torch.int64"),
        ({"beta": 3.0, "norm": "input"}, 'norm "input"'),
        ({"q": torch.zeros(2, 2, 20, 16, requires_grad=True)}, "gradients"),
        ({"gamma": torch.ones(2, requires_grad=True)}, "gradients"),
        ({name: torch.zeros(2, 2, 20, 257) for name in "qkv"}, "head dim is 257"),
        ({name: torch.zeros(0, 2, 20, 16) for name in "qkv"}, "nothing to compute"),
        ({"mask": torch.zeros(20, device="meta")}, "different devices"),
    ],
)
def test_a_call_that_does_not_fit_is_named(launches, changes, words):
    assert words in ineligibility(call_of(**changes))
    assert fused_retrieve(call_of(**changes)) is None
    assert not launches


def test_under_autocast_float32_is_left_to_pytorch(launches):
    with torch.autocast("cpu"):
        assert "autocast" in ineligibility(call_of())
        half = tokens(heads=2, length=20, head_dim=16).to(torch.bfloat16)
        assert ineligibility(FusedCall.of(half.q, half.k, half.v, 0.6)) is None


def test_tokens_that_lie_too_far_apart_for_32_bits_are_left_out(launches, monkeypatch):
    monkeypatch.setattr(eligibility, "LARGEST_OFFSET", 20 * 16)
    assert ineligibility(call_of()) is None
    monkeypatch.setattr(eligibility, "LARGEST_OFFSET", 20 * 16 - 1)
    assert "too far apart" in ineligibility(call_of())


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # of vmap, which PyTorch tells of
def test_under_vmap_the_doubled_heads_do_the_work(launches):
    drawn = tokens(batch=3, length=9).to(torch.float32)

    def one(q, k, v):
        return skew_attention(q[None], k[None], v[None], 0.6)[0]

    together = torch.vmap(one)(drawn.q, drawn.k, drawn.v)
    assert not launches
    assert definition.relative_error(together, definition.skew_attention(drawn.q, drawn.k, drawn.v, 0.6)) < 1e-5


@pytest.mark.parametrize("shape", [(3,), (2, 5), (2, 2, 19), (2, 2, 20, 2), (20,)])
def test_a_gamma_of_another_shape_is_refused_by_name(shape):
    with pytest.raises(ValueError, match="gamma has shape"):
        call_of(gamma=torch.ones(shape))


# --- which machines use it


@pytest.mark.parametrize(
    ("architecture", "blends", "expected"),
    [
        ("sm_90", True, None),
        ("sm_90", False, "twice the head dimension"),
        ("sm_120", True, "twice the head dimension"),
        ("sm_75", True, "sm_75"),
    ],
)
def test_the_table_decides_and_unknown_cards_do_without(monkeypatch, architecture, blends, expected):
    table = {"sm_90": {"64": {"gamma": "doubled heads", "gamma and beta": "kernel"}}}
    monkeypatch.setattr(choice, "choices", lambda: table)
    monkeypatch.setattr(eligibility, "architecture_of", lambda index: architecture)
    monkeypatch.setattr(eligibility, "import_error", lambda: None)
    reason = unsuitability("cuda", 0, 64, blends, True)
    assert reason is None if expected is None else expected in reason
    assert "twice the head dimension" in unsuitability("cuda", 0, 64, True, False) or architecture == "sm_75"  # float32
    assert unsuitability("cuda", 0, 48, True, True) is not None


def test_the_environment_variable_forces_and_forbids(monkeypatch):
    monkeypatch.setattr(eligibility, "architecture_of", lambda index: "sm_86")
    monkeypatch.setattr(eligibility, "import_error", lambda: None)
    for value, expected in (("Always", None), ("never", "SAD_FUSED_KERNEL is never"), ("", "twice the head dimension")):
        monkeypatch.setenv("SAD_FUSED_KERNEL", value)
        choice._wish.cache_clear()
        eligibility._unsuitability.cache_clear()
        reason = unsuitability("cuda", 0, 64, True, False)
        assert reason is None if expected is None else expected in reason


def test_another_value_of_the_variable_is_reported_and_ignored(monkeypatch, caplog):
    monkeypatch.setenv("SAD_FUSED_KERNEL", "yes")
    assert choice.wish() is None
    assert "SAD_FUSED_KERNEL is 'yes'" in caplog.text
    assert "'always' or 'never'" in caplog.text


@pytest.mark.parametrize(
    ("architecture", "is_used"),
    [("gfx1030", False), ("gfx906", False), ("gfx90a", True), ("gfx942", True), ("gfx950", True), ("gfx1100", True)],
)
def test_on_rocm_only_rdna3_and_newer_and_cdna(monkeypatch, architecture, is_used):
    monkeypatch.setenv("SAD_FUSED_KERNEL", "always")
    monkeypatch.setattr(torch.version, "hip", "7.0")
    monkeypatch.setattr(eligibility, "architecture_of", lambda index: architecture)
    monkeypatch.setattr(eligibility, "import_error", lambda: None)
    assert (unsuitability("cuda", 0, 64, True, True) is None) == is_used


def test_triton_is_imported_only_where_it_will_be_used(monkeypatch):
    monkeypatch.setattr(choice, "choices", dict)
    monkeypatch.setattr(eligibility, "architecture_of", lambda index: "sm_90")
    monkeypatch.setattr(eligibility, "import_error", lambda: pytest.fail("Triton was imported"))
    assert "attention with twice the head dimension is used" in unsuitability("cuda", 0, 64, True, True)


def test_without_triton_the_reason_is_kept(monkeypatch):
    monkeypatch.setenv("SAD_FUSED_KERNEL", "always")
    monkeypatch.setattr(eligibility, "architecture_of", lambda index: "sm_90")
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "sad_core.kernels.skew_kernel", raising=False)
    monkeypatch.delattr("sad_core.kernels.skew_kernel", raising=False)
    error = eligibility.import_error()
    assert error.startswith("ModuleNotFoundError: import of triton")
    assert error in unsuitability("cuda", 0, 64, True, True)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_other_devices_do_without(device):
    moved = call_of()._replace(**{name: getattr(call_of(), name).to(device) for name in "qkv"})
    assert f"the tensors are on {device}" in ineligibility(moved)


def test_the_committed_table_names_what_there_is():
    table = json.loads(choice.CHOICES.read_text(encoding="utf-8"))
    for architecture, by_head_dim in table.items():
        assert architecture.startswith(("sm_", "gfx"))
        for head_dim, by_mode in by_head_dim.items():
            assert 1 <= int(head_dim) <= 256
            assert set(by_mode) == {"gamma", "gamma and beta"}
            assert set(by_mode.values()) <= {"kernel", "doubled heads"}
            for blends in (True, False):
                assert chosen(architecture, int(head_dim), blends) in by_mode.values()


@pytest.mark.parametrize("blends", [True, False])
@pytest.mark.parametrize("bytes_each", [2, 4])
@pytest.mark.parametrize("width", [16, 64, 128, 256])
def test_the_blocks_fit_into_every_card(blends, bytes_each, width):
    smallest = 64 * 1024 if bytes_each == 2 else 99 * 1024  # float32 of 256 does not fit into an AMD card, and fails
    for shared_memory in (smallest, 99 * 1024, 163 * 1024, 227 * 1024):
        rows, columns, _, stages = block_sizes(width, blends, bytes_each, shared_memory)
        assert (2 * rows + 3 * stages * columns) * width * bytes_each <= shared_memory


def test_the_blocks_are_those_found_best_on_a_card():
    assert block_sizes(128, True, 2, 227 * 1024) == block_sizes(64, False, 2, 227 * 1024) == Blocks(128, 64, 8, 3)
    assert block_sizes(64, True, 2, 227 * 1024) == Blocks(64, 64, 4, 3)


def test_head_dims_are_padded_to_powers_of_two():
    dims = (1, 16, 17, 40, 64, 80, 96, 128, 160, 256)
    assert [padded(dim) for dim in dims] == [16, 16, 32, 64, 64, 128, 128, 128, 256, 256]


def test_the_kernel_compiles_for_a_card_that_is_not_there():
    """In a process of its own, because a process either compiles or interprets."""
    pytest.importorskip("triton", reason="Triton is not installed, so there is no compiler")
    command = [sys.executable, "-m", "lab.testing.compile_kernel", "cuda", "80"]
    variables = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    taken, there = map(int, done.stdout.split())
    assert 0 < taken <= there


# --- how it is called


@pytest.mark.parametrize("beta", [1.0, 3.0])
def test_the_kernel_runs_and_says_so(launches, beta):
    drawn = tokens(length=20).to(torch.float32)
    told = []
    out = skew_attention(drawn.q, drawn.k, drawn.v, 0.6, beta, on_kernel=lambda: told.append("kernel"))
    assert told == ["kernel"]
    assert len(launches) == 2  # its check and itself
    assert definition.relative_error(out, definition.skew_attention(drawn.q, drawn.k, drawn.v, 0.6, beta)) < 1e-5
    skew_attention(drawn.q, drawn.k, drawn.v, 0.7, beta)
    assert len(launches) == 3  # checked once


def test_the_kernel_runs_in_joint_attention(launches):
    drawn = tokens(length=20).to(torch.float32)
    options = {"inner": slice(4, 17), "gamma_text": 1.3, "gamma_cross": -0.4}
    told = []
    out = modal_skew_attention(drawn.q, drawn.k, drawn.v, 0.6, 3.0, **options, on_kernel=lambda: told.append("kernel"))
    want = modal_skew_attention(drawn.q, drawn.k, drawn.v, 0.6, 3.0, **options, kernel=False)
    assert told == ["kernel"]
    assert definition.relative_error(out, want) < 1e-5


@pytest.mark.parametrize(
    "changes",
    [
        {"gamma": 1.0},
        {"beta": 0.0},
        {"kernel": False},
        {"attend": lambda q, k, v, mask, scale: torch.nn.functional.scaled_dot_product_attention(q, k, v)},
        {"gamma": torch.tensor([1.0, 0.6])},
        {"beta": torch.tensor(2.0)},
    ],
)
def test_where_the_kernel_does_not_run(launches, changes):
    drawn = tokens(length=20).to(torch.float32)
    told = []
    arguments = {"gamma": 0.6, "beta": 3.0, **changes}
    skew_attention(drawn.q, drawn.k, drawn.v, **arguments, on_kernel=lambda: told.append("kernel"))
    assert not told
    assert not launches


def test_tensors_go_to_the_kernel_where_rounding_is_allowed(launches):
    drawn = tokens(length=20).to(torch.float32)
    gamma, beta = torch.tensor([1.0, 0.6]), torch.tensor([2.0, 0.0])
    out = skew_attention(drawn.q, drawn.k, drawn.v, gamma, beta, neutral_bits=False)
    assert launches
    want = skew_attention(drawn.q, drawn.k, drawn.v, gamma, beta, kernel=False)
    torch.testing.assert_close(out, want, rtol=1e-5, atol=1e-5)


# --- what happens where it is broken


def broken(call: FusedCall) -> torch.Tensor:
    raise RuntimeError("ptxas was not found")


def test_a_kernel_that_raises_costs_one_traceback_and_no_picture(launches, monkeypatch, caplog):
    monkeypatch.setattr(operation, "launch", broken)
    drawn = tokens(length=20).to(torch.float32)
    want = skew_attention(drawn.q, drawn.k, drawn.v, 0.6, kernel=False)
    for _ in range(3):
        assert torch.equal(skew_attention(drawn.q, drawn.k, drawn.v, 0.6), want)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "ptxas was not found" in caplog.text
    assert caplog.text.count("Traceback") == 1
    skew_attention(drawn.q, drawn.k, drawn.v, 0.6, 3.0)  # another variant is logged without a traceback
    assert len(caplog.records) == 2
    assert caplog.text.count("Traceback") == 1


@pytest.mark.parametrize("factor", [1.02, float("nan")])
def test_a_kernel_with_wrong_numbers_is_not_used(launches, monkeypatch, caplog, factor):
    monkeypatch.setattr(operation, "launch", lambda call: factor * retrieve_unfused(call))
    drawn = tokens(length=20).to(torch.float32)
    want = skew_attention(drawn.q, drawn.k, drawn.v, 0.6, 3.0, kernel=False)
    assert torch.equal(skew_attention(drawn.q, drawn.k, drawn.v, 0.6, 3.0), want)
    assert "gave wrong numbers" in caplog.text


@pytest.mark.parametrize("other", [1.0, 0.9 * 0.6, -0.6])
@pytest.mark.parametrize("dtype", operation.TOLERANCES)
def test_the_check_notices_another_gamma(launches, monkeypatch, caplog, other, dtype):
    """0.4 is the γ of a check."""
    monkeypatch.setattr(operation, "launch", lambda call: retrieve_unfused(call._replace(gamma=other * 0.4 / 0.6)))
    drawn = tokens(length=60, head_dim=64).to(dtype)
    assert fused_retrieve(FusedCall.of(drawn.q, drawn.k, drawn.v, 0.6)) is None
    assert "gave wrong numbers" in caplog.text


def test_a_kernel_that_breaks_later_is_given_up(launches, monkeypatch, caplog):
    assert fused_retrieve(call_of()) is not None
    monkeypatch.setattr(operation, "launch", broken)
    assert fused_retrieve(call_of()) is None
    monkeypatch.setattr(operation, "launch", retrieve_unfused)
    assert fused_retrieve(call_of()) is None
    assert caplog.text.count("Traceback") == 1


@pytest.mark.parametrize("is_checked", [True, False])
def test_running_out_of_memory_is_left_to_the_host(launches, monkeypatch, caplog, is_checked):
    if is_checked:
        fused_retrieve(call_of())

    def full(call):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(operation, "launch", full)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        fused_retrieve(call_of())
    assert not caplog.records
    monkeypatch.setattr(operation, "launch", retrieve_unfused)
    assert fused_retrieve(call_of()) is not None


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("length", [5, 64, 300])
def test_a_check_has_the_form_of_the_call(packed, length):
    drawn = tokens(batch=3, heads=3, length=length, head_dim=16).to(torch.float16)
    q, k, v = (x.transpose(1, 2).contiguous().transpose(1, 2) if packed else x for x in (drawn.q, drawn.k, drawn.v))
    mask = torch.zeros(3, 1, length - 2, length, dtype=torch.bool)
    gamma = torch.ones(3, 3, length - 2)
    call = FusedCall.of(q[:, :, 2:], k, v, gamma, 3.0, mask=mask, image_tokens=slice(1, length))
    state = torch.get_rng_state()
    made_up = imitation(call)
    assert torch.equal(torch.get_rng_state(), state)
    order = [sorted(range(4), key=lambda place: x.stride(place)) for x in (made_up.q, q)]
    assert order[0] == order[1]
    assert all((new - old) % 16 == 0 for new, old in zip(made_up.q.stride(), q.stride(), strict=True))
    assert (made_up.q.dtype, made_up.mask.dtype, made_up.prefix > 0) == (torch.float16, torch.bool, True)
    keys = made_up.k.shape[2]
    assert keys <= length
    assert keys % 16
    assert made_up.mask.shape == (2, 1, made_up.q.shape[2], keys)
    assert made_up.gamma.shape == (2, 2, made_up.q.shape[2], 1)
    assert operation.variant_of(made_up) == operation.variant_of(call)
    assert bool(retrieve_unfused(made_up).isfinite().all())


@pytest.mark.parametrize("order", ["tokens before heads", "heads before tokens", "q, k and v together", "shared"])
def test_a_check_takes_no_memory_of_the_size_of_the_call(order):
    """A whole sample of this one would be 300 MB; nothing of it is allocated."""
    heads, length, head_dim = 40, 30000, 128
    strides = {
        "tokens before heads": (length * heads * head_dim, head_dim, heads * head_dim, 1),
        "heads before tokens": (heads * length * head_dim, length * head_dim, head_dim, 1),
        "q, k and v together": (3 * length * heads * head_dim, head_dim, 3 * heads * head_dim, 1),
        "shared": (0, head_dim, heads * head_dim, 1),
    }[order]
    like = torch.empty(1, dtype=torch.float16, device="meta").as_strided((2, heads, length, head_dim), strides)
    shape = (2, 2, 193, head_dim)
    made = torch.empty_strided(shape, smaller_strides(shape, like.stride()))
    assert made.untyped_storage().nbytes() < 2 * 4 * 2 * 2 * 193 * head_dim
    assert made.stride(3) == 1
    assert all((new - old) % 16 == 0 for new, old in zip(made.stride(), strides, strict=True))
    places = (torch.arange(size) * stride for size, stride in zip(shape, made.stride(), strict=True))
    assert len({sum(place) for place in torch.cartesian_prod(*(each[:3] for each in places)).tolist()}) == 2 * 2 * 3 * 3


@pytest.mark.parametrize("strides", [(35, 5, 7, 1), (3000, 21, 7, 1), (999, 1, 3, 9)])
def test_smaller_strides_never_let_two_numbers_share_a_place(strides):
    shape = (2, 3, 5, 4)
    made = smaller_strides(shape, strides)
    places = torch.empty(shape, dtype=torch.int64)
    for index in torch.cartesian_prod(*map(torch.arange, shape)).tolist():
        places[tuple(index)] = sum(place * stride for place, stride in zip(index, made, strict=True))
    assert len(places.unique()) == places.numel()


@pytest.mark.parametrize("queries", [8, 20])
def test_rows_and_last_queries_go_to_the_kernel_where_rounding_is_allowed(launches, queries):
    drawn = tokens(length=20).to(torch.float32)
    gamma = 1 + torch.linspace(-1, 1, queries).expand(2, 3, queries)
    arguments = (drawn.q[:, :, -queries:], drawn.k, drawn.v, gamma, 3.0)
    out = skew_attention(*arguments, neutral_bits=False)
    assert launches
    torch.testing.assert_close(out, skew_attention(*arguments, kernel=False), rtol=1e-4, atol=1e-5)
