"""sad_core needs torch and nothing else: no host, no node, no third party."""

from __future__ import annotations

import doctest
import subprocess
import sys

import pytest

import sad_core
from lab.folders import ROOT

HOST_AND_OTHERS = ("comfy", "comfy_api", "nodes", "numpy", "matplotlib", "diffusers", "safetensors")


CODE = f"""
import sys
sys.modules.update(dict.fromkeys({HOST_AND_OTHERS!r}))  # None makes any import of them fail
import torch
before = set(sys.modules)
import sad_core
print(*{{name.partition(".")[0] for name in set(sys.modules) - before}})
q, k, v = torch.randn(3, 1, 2, 6, 4)
for norm in sad_core.NORMS:
    print(tuple(sad_core.skew_attention(q, k, v, 1.05, 3.0, norm=norm, x=torch.randn(1, 6, 9)).shape))
"""


@pytest.fixture(scope="module")
def lines() -> list[str]:
    """Return the output of a fresh interpreter without the host and all other packages."""
    done = subprocess.run([sys.executable, "-c", CODE], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_core_works_without_the_host_or_any_other_package(lines):
    assert lines[1:] == ["(1, 2, 6, 4)"] * 4


def test_the_core_brings_in_nothing_but_torch_and_the_standard_library(lines):
    assert set(lines[0].split()) - set(sys.stdlib_module_names) - {"torch"} == {"sad_core"}


def test_the_example_in_the_package_docstring_runs():
    failed, tried = doctest.testmod(sad_core)
    assert tried > 0
    assert failed == 0


def test_every_public_name_is_there_and_documented():
    promised = {"decompose", "skew_attention", "joint_skew_attention", "symmetricity", "adapt", "GammaSchedule"}
    assert promised <= set(sad_core.__all__)
    for name in sad_core.__all__:
        assert getattr(sad_core, name).__doc__
