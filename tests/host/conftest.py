"""Tests inside a ComfyUI: one pytest process serves one host and one attention backend.

$COMFYUI_PATH chooses the host (see lab/testing/hosts.py) and SAD_ATTENTION=pytorch|sub_quad its attention. Where no
host can be had every test here is skipped, and the summary says how many and why.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch

from lab.testing.hosts import find_host
from lab.testing.in_process_host import pack_in_host, without_host

NO_HOST = "NO COMFYUI HOST for tests/host (set COMFYUI_PATH to a ComfyUI folder)"
HOST = find_host()
ATTENTION = os.environ.get("SAD_ATTENTION", "pytorch")

if HOST is None:
    without_host()
else:
    pack_in_host(HOST, ATTENTION)

from lab.testing.families.building import build  # noqa: E402
from lab.testing.families.configs import FLUX  # noqa: E402
from lab.testing.families.family import Family  # noqa: E402
from lab.testing.families.rows import FAMILIES, HOSTED, ONE_DOUBLE_ONE_SINGLE, STAND_INS  # noqa: E402
from lab.testing.families.runs import Runs, in_this_host  # noqa: E402
from lab.testing.run_nodes import forget_dead_models, little_memory  # noqa: E402

ROWS = {**HOSTED, **STAND_INS}


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    if HOST is None and getattr(item.module, "NEEDS_A_HOST", True):
        pytest.skip(NO_HOST)


def pytest_terminal_summary(terminalreporter):
    if HOST is None:
        skipped = [report for report in terminalreporter.stats.get("skipped", ()) if NO_HOST in str(report.longrepr)]
        terminalreporter.write_line(f"{NO_HOST}: {len(skipped)} tests were skipped", red=True, bold=True)
        return
    from comfy.ldm.modules.attention import optimized_attention
    from comfyui_version import __version__

    attention = optimized_attention.__name__
    terminalreporter.write_line(f"tests/host ran inside ComfyUI {__version__} ({HOST}) with {attention}")
    missing = [name for name, row in HOSTED.items() if not in_this_host([row.config_class])]
    if missing:
        terminalreporter.write_line(f"families that this ComfyUI does not have: {', '.join(missing)}")


@pytest.fixture(autouse=True)
def _without_dead_models() -> None:
    """The host's garbage collections took more than half of the time of these tests."""
    if HOST is not None:
        forget_dead_models()


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """Threads cost more than they bring at these sizes, above all beside other work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def pytest_generate_tests(metafunc):
    """Run a test that asks for `runs` on every family of this host, or on those its mark `rows` chooses."""
    if "runs" in metafunc.fixturenames:
        mark = metafunc.definition.get_closest_marker("rows")
        chosen = {name: row for name, row in ROWS.items() if mark is None or mark.args[0](row)}
        names = [name for name, row in chosen.items() if not row.stands_in_for and in_this_host([row.config_class])]
        # Of newer versions than any host at hand, so one host is enough to ask.
        names += [pytest.param(name, marks=pytest.mark.newest) for name, row in chosen.items() if row.stands_in_for]
        metafunc.parametrize("runs", names, indirect=True, scope="session")


@pytest.fixture(scope="session")
def runs(request) -> Iterator[Runs]:
    """A hosted family; the tests of all files that ask for the same one are run together."""
    row = ROWS[request.param]
    yield Runs(row)
    row.forget()  # all of them together would fill the memory


@pytest.fixture
def families() -> dict[str, Family]:
    return FAMILIES


@pytest.fixture(params=list(FAMILIES))
def family(request) -> Family:
    return FAMILIES[request.param]


@pytest.fixture
def sd15() -> Family:
    return FAMILIES["SD15"]


@pytest.fixture
def sd3() -> Family:
    return FAMILIES["SD3"]


@pytest.fixture
def flux() -> Family:
    return FAMILIES["Flux"]


@pytest.fixture(scope="session")
def small_flux() -> Family:
    """A Flux of one block of each class, which is enough wherever a model is compiled."""
    config = {**FLUX, "depth": 1, "depth_single_blocks": 1}
    return replace(FAMILIES["Flux"], build=lambda: build("Flux", config), paths=ONE_DOUBLE_ONE_SINGLE, calls=2)


@pytest.fixture(params=["joined", "split"])
def memory(request, sd15) -> Iterator[None]:
    """Prompts of the SD1.5 in one model call, or each in a call of its own."""
    with little_memory(sd15.model) if request.param == "split" else nullcontext():
        yield
