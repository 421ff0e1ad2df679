"""Chromium in front of a real ComfyUI server."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.comfyui_server import ComfyUIServer
from tests.hosts import find_host

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]
READY = "window.app && window.app.extensionManager && window.app.canvas && window.app.graph"
CHECKPOINT = "sd_xl_base_1.0.safetensors"


@pytest.fixture(scope="session")
def server() -> Iterator[ComfyUIServer]:
    host = find_host()
    if host is None:
        pytest.skip("NO COMFYUI HOST: the browser was not tested; set COMFYUI_PATH")
    with ComfyUIServer(host, sys.executable) as running:
        checkpoints = running.output.parent / "models" / "checkpoints"
        checkpoints.mkdir()
        (checkpoints / CHECKPOINT).touch()  # so that workflows find their checkpoint's name in the list
        yield running


@pytest.fixture
def page(server: ComfyUIServer, tmp_path: Path) -> Iterator:
    """A page with ComfyUI loaded; `page.problems` collects uncaught errors. Leaves a screenshot in its folder."""
    if CHROMIUM is None:
        pytest.skip("NO CHROMIUM: the browser was not tested; install Debian's chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1600, "height": 1000})
        page.problems = []
        page.on("pageerror", lambda error: page.problems.append(str(error)))
        page.goto(server.address)
        page.wait_for_function(READY, timeout=60_000)
        page.wait_for_function("LiteGraph.registered_node_types['SADSkewAttention'] !== undefined", timeout=60_000)
        yield page
        page.screenshot(path=tmp_path / "page.png")
        browser.close()
