"""A patched site stays within a budget of operations and of Python function calls, both exact.

A budget has a row for each mode: of a site in one model call, beyond the unpatched model. What a model call costs
besides, whatever the number of its sites, has a budget of its own. `python -m lab.benchmarks.operations` prints all.
"""

from __future__ import annotations

import os

import pytest
import torch
from comfy.ldm.modules.attention import attention_pytorch
from symmetric_attention.nodes.host.patches import skew_patch
from symmetric_attention.nodes.host.patches.attention_backend import backends_using_scale
from symmetric_attention.sad_core import attention
from symmetric_attention.sad_core.kernels import eligibility, operation

from lab.testing.site_cost import CountingOperations, mode_cost, operations_of_a_site

DTYPES = [torch.float32, torch.bfloat16]  # in float32 casts are free, so a detour through it does not show
OPERATIONS_OF_A_SITE = {
    "gamma": 6,
    "gamma and beta": 14,
    "adaptive": 35,
    "gamma, mask": 17,  # three parts of queries and keys, and the rows that stay plain
    "gamma and beta, mask": 25,
    "feedback": 17,  # those of gamma and of the probe
    "probe": 11,
    "probe with depth and curvature": 11,
}
PYTHON_CALLS_OF_A_SITE = {
    "gamma": 23,
    "gamma and beta": 33,
    "adaptive": 47,
    "gamma, mask": 34,
    "gamma and beta, mask": 38,
    "feedback": 70,
    "probe": 42,
    "probe with depth and curvature": 42,
}
OPERATIONS_OF_A_MODEL_CALL = {
    "gamma": 1,
    "gamma and beta": 1,
    "adaptive": 2,
    "gamma, mask": 3,  # γ of every row, for all sites of as many tokens
    "gamma and beta, mask": 3,
    "feedback": 62,
    "probe": 62,  # for all sites together, five of them or seventy
    "probe with depth and curvature": 621,
}
# An attention of the host that ignores `scale=`, as that of the oldest one, costs an operation more for each scale.
FOLDED = 0 if any(each is attention_pytorch for each in backends_using_scale()) else 1
pytestmark = [
    pytest.mark.newest,
    pytest.mark.skipif(
        os.environ.get("SAD_ATTENTION", "pytorch") != "pytorch", reason="the budgets are those of attention_pytorch"
    ),
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("mode", OPERATIONS_OF_A_SITE)
def test_a_site_keeps_its_budget_of_operations(mode, dtype):
    assert mode_cost(mode, dtype).site.operations <= OPERATIONS_OF_A_SITE[mode] + FOLDED


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("mode", PYTHON_CALLS_OF_A_SITE)
def test_a_site_keeps_its_budget_of_python_calls(mode, dtype):
    assert mode_cost(mode, dtype).site.python_calls <= PYTHON_CALLS_OF_A_SITE[mode] + FOLDED


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("mode", OPERATIONS_OF_A_MODEL_CALL)
def test_a_model_call_keeps_its_budget_of_operations(mode, dtype):
    assert mode_cost(mode, dtype).model_call.operations <= OPERATIONS_OF_A_MODEL_CALL[mode]


@pytest.mark.parametrize(("mode", "beyond_plain"), [("gamma", 0), ("gamma and beta", 0), ("adaptive", 12)])
def test_the_fused_kernel_takes_the_place_of_one_operation(mode, beyond_plain, monkeypatch):
    """That of plain attention. The kernel is simulated by an operation. What else is counted is η and the rule."""
    for module in (attention, eligibility, skew_patch):
        monkeypatch.setattr(module, "has_kernel", lambda device: True)
    monkeypatch.setattr(eligibility, "unsuitability", lambda *of_the_device: None)
    monkeypatch.setattr(operation, "_compute", lambda call: torch.zeros_like(call.q))
    assert operations_of_a_site(mode, torch.bfloat16) == beyond_plain


def counted(function) -> int:
    with CountingOperations() as counting:
        function()
    return counting.operations


def test_what_only_looks_at_a_tensor_does_not_count():
    x = torch.ones(2, 3, 4)
    assert counted(lambda: x.transpose(1, 2)[..., :2].unflatten(1, (2, 2)).flatten(1, 2).mT) == 0
    assert counted(lambda: x.new_empty(5)) == 0


def test_what_writes_or_reads_numbers_counts():
    x = torch.ones(2, 3, 4)
    assert counted(lambda: x.transpose(1, 2).flatten(1)) == 1  # has to copy
    assert counted(lambda: x[..., :2].copy_(x[..., 2:])) == 1
    assert counted(lambda: torch.mul(x, 2.0, out=x)) == 1
    assert counted(lambda: float(x.sum())) == 2
    assert counted(lambda: x.to(torch.bfloat16)) == 1


def test_a_custom_operation_counts_for_what_it_dispatches():
    @torch.library.custom_op("sad_test_site_cost::twice_and_one", mutates_args=())
    def twice_and_one(x: torch.Tensor) -> torch.Tensor:
        return 2 * x + 1

    @torch.library.custom_op("sad_test_site_cost::kernel", mutates_args=())
    def kernel(x: torch.Tensor) -> torch.Tensor:
        return torch.empty_like(x)  # and a kernel would be launched, which no mode sees

    assert counted(lambda: twice_and_one(torch.ones(3))) == 1 + 2
    assert counted(lambda: kernel(torch.ones(3))) == 1 + 1
