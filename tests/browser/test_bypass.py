"""Skew Attention and the probe bypassed, as people compare with the plain model: the graph runs, and old texts go."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from lab.demo.gamma_sweep import workflow
from lab.testing.editor import RENDERERS, render
from lab.testing.editor_graphs import HANGING, OPEN, numbered, put_probe

fresh = itertools.count(70_000)
PATIENCE, OFTEN = 200_000, 200  # milliseconds
BYPASSED, ACTIVE = 4, 0
# The texts of the nodes of a class, the note of its chart among them, in the order of their widgets.
SHOWN = """kind => {
    const node = window.app.rootGraph._nodes.find(n => n.comfyClass === kind);
    const chart = node.widgets.find(w => w.name === 'chart')?.element.querySelector('.sad-chart-note').textContent;
    const text = node.widgets.find(w => w.name === 'last_run')?.value;
    return {text: text ?? '', chart: chart ?? ''};
}"""
# The labels of all texts on the nodes of some classes.
TEXTS = """kinds => Object.fromEntries(kinds.map(kind => [kind, window.app.rootGraph._nodes
    .find(n => n.comfyClass === kind).widgets.filter(w => ['last_run', '$$node-text-preview'].includes(w.name))
    .map(w => w.label)]))"""
SET_MODE = """([kinds, mode]) => {
    for (const node of window.app.rootGraph._nodes) if (kinds.includes(node.comfyClass)) node.mode = mode;
    window.app.canvas.setDirty(true, true);
}"""
# The event that ComfyUI sends as a prompt starts, and an answer of the server after what it made the page ask.
STARTS = """async id => {
    window.app.api.dispatchCustomEvent('execution_start', {prompt_id: id, timestamp: 0});
    await window.app.api.fetchApi('/symmetric_attention/prompt', {method: 'POST', body: '{}'});
    await new Promise(requestAnimationFrame);
}"""
LAY_OUT = """kinds => {
    const nodes = window.app.rootGraph._nodes.filter(n => kinds.includes(n.comfyClass));
    nodes.sort((one, other) => kinds.indexOf(one.comfyClass) - kinds.indexOf(other.comfyClass));
    nodes.forEach((node, place) => {
        node.pos = [90 + 490 * (place % 3), 90 + 500 * Math.floor(place / 3)];
        node.size = [420, node.comfyClass.includes('Probe') ? 100 : 200];
    });
    window.app.canvas.setDirty(true, true);
}"""
READERS = ("SADReport", "SADSaveStabilityTrace")
PATCHES = ("SADSkewAttention", "SADStabilityProbe")


def prompt(steps: int) -> dict[str, Any]:
    nodes = workflow(1.5, "food", next(fresh), steps=steps)
    put_probe(nodes)
    wired = {"after": ["decode", 0]}
    nodes["report"] = {"class_type": "SADReport", "inputs": {"report": ["skew", 2], **wired}}
    nodes["plot"] = {
        "class_type": "SADStabilityPlot",
        "inputs": {"trace": ["probe", 1], "layout": "heat map", "passes": "both", "site": "", **wired},
    }
    nodes["kept"] = {
        "class_type": "SADSaveStabilityTrace",
        "inputs": {"trace": ["probe", 1], **wired, "filename_prefix": "bypass", "format": "trace"},
    }
    nodes["picture"] = {"class_type": "PreviewImage", "inputs": {"images": ["plot", 0]}}
    return numbered(nodes)


def queue(page, server) -> None:
    """Run the graph and wait until the server has finished it without an error."""
    before = known(server)
    page.evaluate("async () => { await window.app.queuePrompt(0); }")
    (new,) = known(server) - before
    server.wait(new)


def known(server) -> set[str]:
    """The ids of all prompts that the server has got."""
    waiting = server.get("/queue")
    return {*server.get("/history"), *(each[1] for part in waiting.values() for each in part)}


def wait_for(page, kind: str, what: str, words: str) -> None:
    """Wait until the text or the chart of a node has some words."""
    asked = f"([kind, words]) => ({SHOWN})(kind).{what}.includes(words)"
    page.wait_for_function(asked, arg=[kind, words], timeout=PATIENCE, polling=OFTEN)


@pytest.mark.parametrize("renderer", RENDERERS)
def test_bypassed_nodes_let_the_graph_run_and_show_no_old_text(page, server, tmp_path, renderer):
    render(page, renderer)
    page.evaluate(OPEN, prompt(3))
    page.evaluate(LAY_OUT, [*PATCHES, *READERS, "SADStabilityPlot"])
    queue(page, server)
    wait_for(page, "SADSkewAttention", "text", "attention calls changed in 3 model calls")
    wait_for(page, "SADReport", "text", "attention calls changed in 3 model calls")
    wait_for(page, "SADStabilityProbe", "text", "10 of 10 sites × 3 steps")
    wait_for(page, "SADStabilityProbe", "chart", "finished · step 3")
    wait_for(page, "SADSaveStabilityTrace", "text", "Saved as bypass_00")
    page.wait_for_function(f"() => ({HANGING})().length === 0", timeout=PATIENCE, polling=OFTEN)
    for kind, count in page.evaluate(TEXTS, [*PATCHES, *READERS]).items():
        assert count == ["last run"], kind  # and none of the editor's own beside it
    page.screenshot(path=tmp_path / "active.png")

    page.evaluate(SET_MODE, [PATCHES, BYPASSED])
    queue(page, server)
    wait_for(page, "SADReport", "text", "Nothing is patched here")
    wait_for(page, "SADSaveStabilityTrace", "text", "Nothing was saved.")
    for kind in PATCHES:
        wait_for(page, kind, "text", "Bypassed or muted")
    wait_for(page, "SADStabilityProbe", "chart", "Bypassed or muted")
    assert page.locator(".sad-chart-line").count() == 0
    page.screenshot(path=tmp_path / "bypassed.png")

    page.evaluate(SET_MODE, [PATCHES, ACTIVE])
    page.evaluate(
        "() => { const find = (kind, name) => window.app.rootGraph._nodes.find(n => n.comfyClass === kind)"
        ".widgets.find(w => w.name === name); find('KSampler', 'steps').value = 4; }"
    )
    queue(page, server)
    for kind in ("SADSkewAttention", "SADReport"):
        wait_for(page, kind, "text", "attention calls changed in 4 model calls")
        assert "Earlier" not in page.evaluate(SHOWN, kind)["text"]
    wait_for(page, "SADStabilityProbe", "chart", "finished · step 4")
    assert page.problems == []


def test_a_chart_of_an_earlier_run_says_so_when_the_probe_is_left_out(page, server):
    page.evaluate(OPEN, prompt(3))
    before = known(server)
    queue(page, server)
    (ran,) = known(server) - before
    wait_for(page, "SADStabilityProbe", "chart", "finished · step 3")
    page.evaluate(STARTS, "of another page")
    assert not page.evaluate(SHOWN, "SADStabilityProbe")["chart"].startswith("earlier")
    page.evaluate(SET_MODE, [PATCHES, BYPASSED])
    page.evaluate(STARTS, ran)  # it was queued before the nodes were bypassed
    wait_for(page, "SADStabilityProbe", "chart", "earlier run, finished · step 3")
    wait_for(page, "SADSkewAttention", "text", "Earlier run.")
    page.evaluate(SET_MODE, [PATCHES, ACTIVE])
    page.evaluate("""() => {
        const find = kind => window.app.rootGraph._nodes.find(n => n.comfyClass === kind);
        find('SADDemoModel').connect(0, find('KSampler'), 'model');
    }""")
    queue(page, server)
    wait_for(page, "SADStabilityProbe", "chart", "earlier run, finished · step 3")
    for kind in PATCHES:
        wait_for(page, kind, "text", "Earlier run.")
    wait_for(page, "SADReport", "text", 'The input "after" did not come from a run through this Skew Attention (SAD).')
    wait_for(page, "SADSaveStabilityTrace", "text", "Nothing was saved.")
    assert page.problems == []
