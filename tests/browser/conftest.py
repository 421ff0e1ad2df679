"""Chromium in front of a real ComfyUI server, with its own front end or with that of $COMFYUI_FRONT_END_PATH."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.demo.comfyui_server import PACKS, ComfyUIServer
from lab.generate.workflows import put_empty_models
from lab.testing.checkpoint_substitutes import FIXTURES
from lab.testing.editor import FLAGS, NODES_2, find_chromium, open_page_again, render
from lab.testing.hosts import find_front_end, find_host

sync_api = pytest.importorskip("playwright.sync_api")

EMPTY = """() => {
    window.app.canvas.setGraph(window.app.rootGraph);
    window.app.rootGraph.clear();
}"""


@pytest.fixture(scope="session")
def server() -> Iterator[ComfyUIServer]:
    host = find_host()
    if host is None:
        pytest.skip("NO COMFYUI HOST: the browser was not tested; set COMFYUI_PATH")
    arguments = ["--cpu", "--use-pytorch-cross-attention"]
    if os.environ.get("COMFYUI_FRONT_END_PATH"):
        front_end = find_front_end()
        if front_end is None:
            pytest.skip("NO FRONT END: the browser was not tested; set COMFYUI_FRONT_END_PATH")
        arguments += ["--front-end-root", str(front_end)]
    with ComfyUIServer(host, sys.executable, arguments, packs={**PACKS, **FIXTURES}) as running:
        base = running.output.parent
        shutil.copy(host / "input" / "example.png", base / "input")
        put_empty_models(base)  # so that workflows find the names of their models in the lists
        # No greeting and no map over the graph.
        running.post("/settings", {"Comfy.TutorialCompleted": True, "Comfy.Minimap.Visible": False})
        yield running


@pytest.fixture(scope="session")
def browser() -> Iterator:
    """One Chromium for all tests."""
    chromium = find_chromium()
    if chromium is None:
        pytest.skip("NO CHROMIUM: the browser was not tested; install Debian's chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def context(browser) -> Iterator:
    """A user's browser, which keeps the editor's scripts from test to test."""
    context = browser.new_context(viewport={"width": 1600, "height": 1000})
    yield context
    context.close()


@pytest.fixture(scope="session")
def opened() -> list:
    """The page that tests share, once one has opened it."""
    return []


@pytest.fixture
def page(request, server: ComfyUIServer, browser, context, opened: list, tmp_path: Path) -> Iterator:
    """The editor with no graph, in the classic rendering. Leaves a screenshot.

    Opening it takes longer than most tests, so they share it, until one fails.
    """
    if not opened:
        opened.append(open_page_again(context, server))
    page = opened.pop()  # kept for the next test only if this one passes
    render(page, "classic")
    page.evaluate(EMPTY)
    page.problems.clear()
    failed = request.session.testsfailed
    yield page
    page.screenshot(path=tmp_path / "page.png")
    if request.session.testsfailed > failed:
        page.close()
    else:
        opened.append(page)
    leave_other_users(browser, context)


@pytest.fixture
def fresh_page(server: ComfyUIServer, browser, context, tmp_path: Path) -> Iterator:
    """The editor as it is when opened for the first time, in the classic rendering. Leaves a screenshot."""
    server.post("/settings", {NODES_2: False})
    page = open_page_again(context, server)
    yield page
    page.screenshot(path=tmp_path / "page.png")
    page.close()
    leave_other_users(browser, context)


def leave_other_users(browser, context) -> None:
    """Close the pages that a test opened as another user."""
    for other in browser.contexts:
        if other is not context:
            other.close()
