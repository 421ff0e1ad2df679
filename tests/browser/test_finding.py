"""A user who has never heard of the method: finds the nodes by what they want, a template, and the help page."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from lab.folders import ROOT
from lab.testing.editor import RENDERERS, render

COMMAND = "id => { window.app.extensionManager.command.execute(id) }"
# Asked again and again, because the editor loads a first graph of its own at a time of its own.
SELECTED = """
() => {
    const { graph, canvas } = window.app;
    let node = graph._nodes.find(each => each.type === 'SADReport');
    if (!node) {
        graph.clear();
        node = LiteGraph.createNode('SADReport');
        graph.add(node);
        node.pos = [600, 300];
        canvas.ds.scale = 1;
        canvas.ds.offset = [0, 0];
    }
    canvas.deselectAll();
    canvas.selectNode(node);
    canvas.setDirty(true, true);
    return document.querySelector('[data-testid="info-button"]') !== null;
}
"""

# Whether pictures of these widths are shown, as many of each as are given.
SHOWN = "([image, width]) => image.complete && image.naturalWidth === width"
PICTURE_OF_THE_HELP = "() => [...document.images].some(i => i.src.includes('SADReport.jpg') && i.naturalWidth > 0)"

# What a user types, and the node that has to be among what is found.
WORDS = {
    "diversity": "Skew Attention (SAD)",
    "fidelity": "Skew Attention (SAD)",
    "hopfield": "Stability Probe (SAD)",
    "sweep": "Gamma Sweep (SAD)",
    "vendi": "Diversity and Fidelity Report (SAD)",
    "skew attention": "Skew Attention (SAD)",
}


# The name of the pack, each of its words, and what users want: of our nodes the one that does it comes first.
TO_SKEW_ATTENTION = [
    *("symmetric", "symmetric attention", "Symmetric Attention (SAD)", "attention", "skew", "skew attention"),
    *("variety", "variation", "same face", "seed", "seed variance", "guidance", "detail", "composition"),
    "circulation",
]
BESIDE_THE_REPORT = ["diversity", "fidelity"]  # words of the name of another node, which the editor puts first
# What the editor's own search finds, in its order.
FOUND = """words => {
    const stores = document.querySelector('#vue-app').__vue_app__.config.globalProperties.$pinia._s;
    return stores.get('nodeDef').nodeSearchService.searchNode(words).map(node => node.name);
}"""


def test_nodes_are_found_by_what_users_type(page, server):
    nodes = server.get("/object_info")
    ours = {name: node for name, node in nodes.items() if node["python_module"] == "custom_nodes.symmetric-attention"}
    for words in TO_SKEW_ATTENTION:
        found = [name for name in page.evaluate(FOUND, words) if name in ours]
        assert found[:1] == ["SADSkewAttention"], words
    for words in BESIDE_THE_REPORT:
        found = [name for name in page.evaluate(FOUND, words) if name in ours]
        assert found[:2] == ["SADDiversityReport", "SADSkewAttention"], words
    found = page.evaluate(FOUND, "creativity")  # since there is a node of this name
    assert found[0] == "SADCreativity"
    assert "SADSkewAttention" in found
    for name, node in ours.items():
        title = node["display_name"]
        assert page.evaluate(FOUND, title)[:1] == [name], title
    for words, name in WORDS.items():
        page.evaluate("() => window.app.graph.clear()")
        page.evaluate(COMMAND, "Workspace.SearchBox.Toggle")
        box = page.locator("input:focus")
        box.wait_for()
        box.fill(words)
        page.get_by_text(name).first.wait_for(timeout=20_000)
        if words in ("diversity", "fidelity"):  # only the nodes that change or measure it
            assert page.get_by_text("Report (SAD)", exact=True).count() == 0
        page.keyboard.press("Escape")
        box.wait_for(state="detached")
    assert page.problems == []


def test_every_template_is_in_the_template_browser_with_its_picture(page, server):
    names = {path.stem for path in (ROOT / "workflows").glob("*.json")}
    assert set(server.get("/api/workflow_templates")["symmetric-attention"]) == names
    page.evaluate(COMMAND, "Comfy.BrowseTemplates")
    page.get_by_text("symmetric-attention", exact=True).first.click()
    for name in sorted(names):
        card = page.get_by_text(name, exact=True).first
        card.wait_for(timeout=20_000)
        card.scroll_into_view_if_needed()  # the pictures of those out of sight are not loaded
        # Shown under an address that says nothing, so it is known by how wide the file is.
        picture = card.locator("xpath=ancestor::*[.//img][1]").locator("img").first
        width = Image.open(ROOT / "workflows" / f"{name}.jpg").width
        page.wait_for_function(SHOWN, arg=[picture.element_handle(timeout=20_000), width], timeout=20_000)
    page.keyboard.press("Escape")
    page.get_by_text("symmetric-attention", exact=True).first.wait_for(state="hidden")
    assert page.problems == []


def test_the_help_page_opens_and_shows_its_picture(fresh_page):
    page = fresh_page  # the help stays open
    page.wait_for_function(SELECTED, polling=2000, timeout=40_000)
    page.get_by_test_id("info-button").click()
    page.get_by_text("node planned, and what really happened in the run").wait_for(timeout=20_000)
    page.wait_for_function(PICTURE_OF_THE_HELP, timeout=20_000)
    assert page.problems == []


@pytest.fixture
def _in_chinese(server):
    """Pages that are opened from now on are in Chinese."""
    server.post("/settings", {"Comfy.Locale": "zh"})
    yield
    server.post("/settings", {"Comfy.Locale": "en"})


@pytest.mark.usefixtures("_in_chinese")  # first, so that the page is opened in it
def test_nodes_charts_and_help_speak_the_language_of_the_editor(fresh_page, server):
    page = fresh_page
    texts = json.loads((ROOT / "locales" / "zh" / "nodeDefs.json").read_text(encoding="utf-8"))
    assert server.get("/api/i18n")["zh"]["nodeDefs"]["SADSkewAttention"] == texts["SADSkewAttention"]
    title = "() => LiteGraph.createNode('SADSkewAttention').title"
    assert page.evaluate(title) == texts["SADSkewAttention"]["display_name"]
    widget = "() => LiteGraph.createNode('SADSkewAttention').widgets.find(w => w.name === 'gamma').label"
    assert page.evaluate(widget) == texts["SADSkewAttention"]["inputs"]["gamma"]["name"]
    page.wait_for_function(SELECTED, polling=2000, timeout=40_000)
    page.get_by_test_id("info-button").click()
    page.get_by_text("实际发生了什么").first.wait_for(timeout=20_000)
    page.wait_for_function(PICTURE_OF_THE_HELP, timeout=20_000)
    page.evaluate("() => { window.app.graph.add(LiteGraph.createNode('SADStabilityProbe')); }")
    note = "[...document.querySelectorAll('.sad-chart-note')].map(each => each.textContent)"
    for renderer in RENDERERS:
        render(page, renderer)
        page.wait_for_function(f"() => {note}.includes('模型采样时，每一步的度量会显示在这里。')", timeout=20_000)
    assert page.problems == []
