"""ComfyUI's editor in a real browser: for the tests of tests/browser and for whoever takes pictures of it."""

from __future__ import annotations

import shutil
from typing import Any

from lab.demo.comfyui_server import ComfyUIServer

FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]
# The editor has loaded its first graph; before that it would take the place of one that is opened.
READY = "window.app?.extensionManager?.workflow?.activeWorkflow && window.app.canvas"
WITH_OUR_NODES = "LiteGraph.registered_node_types['SADSkewAttention'] !== undefined"
PATIENCE = 200_000  # milliseconds; a limit, which a busy machine comes near to
# What ComfyUI says about its own packages would lie over a button.
NOTICES_LET_CLICKS_THROUGH = "[aria-label^=Notifications] * { pointer-events: none !important }"
NODES_2 = "Comfy.VueNodes.Enabled"  # the setting
RENDERERS = {"classic": False, "nodes 2.0": True}
# What the editor of ComfyUI itself logs as an error on a plain start: files that are optional, and its own start.
NOT_OURS = ("Failed to load resource", "ComfyApp graph accessed before initialization")


def find_chromium() -> str | None:
    """The program of a Chromium on this machine, or None."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def render(page: Any, renderer: str) -> None:
    """Have the editor draw nodes the one way or the other."""
    page.evaluate("([id, is]) => window.app.extensionManager.setting.set(id, is)", [NODES_2, RENDERERS[renderer]])


def is_error(message: Any) -> bool:
    """Return whether a line of the browser's console is an error that a workflow or this pack could cause."""
    return message.type == "error" and not message.text.startswith(NOT_OURS)


def open_page(browser: Any, server: ComfyUIServer, width: int = 1600, height: int = 1000) -> Any:
    """A page of its own, as another user has it, with ComfyUI loaded; `page.problems` collects its errors."""
    return load_editor(browser.new_page(viewport={"width": width, "height": height}), server)


def open_page_again(context: Any, server: ComfyUIServer) -> Any:
    """A page as `open_page` gives, in a context that has loaded ComfyUI before: its scripts come from the cache.

    What the editor has stored in this context is forgotten.
    """
    page = context.new_page()
    page.goto(f"{server.address}/system_stats", timeout=PATIENCE)
    page.evaluate("() => { localStorage.clear(); sessionStorage.clear(); }")
    return load_editor(page, server)


def load_editor(page: Any, server: ComfyUIServer) -> Any:
    """The page with ComfyUI loaded and our nodes registered; `page.problems` collects its errors from now on."""
    page.problems = []
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("console", lambda message: page.problems.append(message.text) if is_error(message) else None)
    page.goto(server.address, timeout=PATIENCE)
    page.wait_for_function(READY, timeout=PATIENCE)
    page.wait_for_function(WITH_OUR_NODES, timeout=PATIENCE)
    page.add_style_tag(content=NOTICES_LET_CLICKS_THROUGH)
    return page
