"""Chromium in front of a real ComfyUI server."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.demo.comfyui_server import PACKS, ComfyUIServer
from lab.testing.checkpoint_substitutes import FIXTURES
from lab.testing.hosts import find_host

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]
# The editor has loaded its first graph; before that it would take the place of one that a test opens.
READY = "window.app?.extensionManager?.workflow?.activeWorkflow && window.app.canvas"
# So that workflows find the names of their models in the lists.
MODELS = {
    "checkpoints": (
        "sd_xl_base_1.0.safetensors",
        "v1-5-pruned-emaonly-fp16.safetensors",
        "stable-audio-open-1.0.safetensors",
    ),
    "diffusion_models": ("z_image_turbo_bf16.safetensors",),
    "text_encoders": ("qwen_3_4b.safetensors", "t5-base.safetensors"),
    "vae": ("ae.safetensors",),
    "clip_vision": ("clip_vision_g.safetensors",),
}


@pytest.fixture(scope="session")
def server() -> Iterator[ComfyUIServer]:
    host = find_host()
    if host is None:
        pytest.skip("NO COMFYUI HOST: the browser was not tested; set COMFYUI_PATH")
    with ComfyUIServer(host, sys.executable, packs={**PACKS, **FIXTURES}) as running:
        base = running.output.parent
        shutil.copy(host / "input" / "example.png", base / "input")
        for folder, names in MODELS.items():
            (base / "models" / folder).mkdir(exist_ok=True)
            for name in names:
                (base / "models" / folder / name).touch()
        # No greeting and no map over the graph.
        running.post("/settings", {"Comfy.TutorialCompleted": True, "Comfy.Minimap.Visible": False})
        yield running


NODES_2 = "Comfy.VueNodes.Enabled"  # the setting
RENDERERS = {"classic": False, "nodes 2.0": True}


def render(page, renderer: str) -> None:
    """Have the editor draw nodes the one way or the other."""
    page.evaluate("([id, is]) => window.app.extensionManager.setting.set(id, is)", [NODES_2, RENDERERS[renderer]])


# What the editor of ComfyUI itself logs as an error on a plain start: files that are optional, and its own start.
NOT_OURS = ("Failed to load resource", "ComfyApp graph accessed before initialization")


def is_error(message) -> bool:
    """Whether a line of the browser's console is an error that a workflow or this pack could have caused."""
    return message.type == "error" and not message.text.startswith(NOT_OURS)


def open_page(browser, server: ComfyUIServer):
    """A page of its own, as another user has it, with ComfyUI loaded; `page.problems` collects its errors."""
    page = browser.new_page(viewport={"width": 1600, "height": 1000})
    page.problems = []
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("console", lambda message: page.problems.append(message.text) if is_error(message) else None)
    page.goto(server.address)
    page.wait_for_function(READY, timeout=60_000)
    page.wait_for_function("LiteGraph.registered_node_types['SADSkewAttention'] !== undefined", timeout=60_000)
    return page


@pytest.fixture
def page(server: ComfyUIServer, tmp_path: Path) -> Iterator:
    """`open_page`, in the classic rendering. Leaves a screenshot in its folder."""
    if CHROMIUM is None:
        pytest.skip("NO CHROMIUM: the browser was not tested; install Debian's chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        server.post("/settings", {NODES_2: False})
        page = open_page(browser, server)
        yield page
        page.screenshot(path=tmp_path / "page.png")
        browser.close()
