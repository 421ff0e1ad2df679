"""A real ComfyUI server with the pack in it, and the nodes that tests need."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.campaign.servers import NODES
from lab.demo.comfyui_server import PACKS, ComfyUIServer
from lab.testing.checkpoint_substitutes import FIXTURES
from lab.testing.hosts import find_host


@pytest.fixture(scope="session")
def comfyui() -> Path:
    host = find_host()
    if host is None:
        pytest.skip("NO COMFYUI HOST: the server was not tested; set COMFYUI_PATH")
    return host


@pytest.fixture(scope="session")
def server(comfyui: Path) -> Iterator[ComfyUIServer]:
    with ComfyUIServer(comfyui, sys.executable, packs={**PACKS, **FIXTURES, **NODES}) as running:
        yield running
