"""A real ComfyUI server with the pack and the demo nodes in it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.comfyui_server import PACKS, ComfyUIServer
from tests.hosts import find_host
from tests.stand_ins import FIXTURES


@pytest.fixture(scope="session")
def comfyui() -> Path:
    host = find_host()
    if host is None:
        pytest.skip("NO COMFYUI HOST: the server was not tested; set COMFYUI_PATH")
    return host


@pytest.fixture(scope="session")
def server(comfyui: Path) -> Iterator[ComfyUIServer]:
    with ComfyUIServer(comfyui, sys.executable, packs={**PACKS, **FIXTURES}) as running:
        yield running
