"""The user's view: shared workflows open and run, and the report of a run appears on the node."""

from __future__ import annotations

import json

import pytest

from lab.demo.gamma_sweep import workflow
from lab.folders import ROOT
from lab.testing.checkpoint_substitutes import SITES, family_of, with_stand_ins
from lab.testing.editor import RENDERERS, render
from lab.testing.editor_graphs import BOXES, HANGING, LONGEST_TEXTS, numbered, overlapping, queue_as_page

WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))
SAVE = "() => JSON.stringify(window.app.graph.serialize())"
LOAD = "graph => window.app.loadGraphData(graph, true, true)"
# What does not show yet what it shows after a run: pictures and texts of nodes.
WAITING = """() => window.app.graph._nodes.filter(node => {
    const shown = name => node.widgets?.find(w => w.name === name)?.value;
    if (['PreviewImage', 'SaveImage'].includes(node.type))
        return !window.app.nodeOutputs[node.id]?.images?.length || !(LiteGraph.vueNodesMode || node.imgs?.length);
    const chart = node.widgets?.find(w => w.name === 'chart')?.element.querySelector('.sad-chart-note').textContent;
    if (['SADStabilityProbe', 'SADStabilityFeedback'].includes(node.type))
        return !shown('last_run') || !chart?.startsWith('finished');
    const tells = ['SADSkewAttention', 'SADReport', 'SADCreativity', 'SADCalibrate', 'SADBestOfSampler'];
    return tells.includes(node.type) && !shown('last_run');
}).map(node => node.type).concat([...document.querySelectorAll('.lg-node img')].filter(each => !each.complete))"""


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_shared_workflow_opens_keeps_its_values_and_runs(page, server, tmp_path, path):
    """In both renderers it opens, is saved and opens again, with one prompt. It runs, and no node covers another."""
    graph = json.loads(path.read_text(encoding="utf-8"))
    prompts = []
    for renderer in RENDERERS:
        render(page, renderer)
        check_opened_and_saved(page, graph, renderer)
        prompts.append(
            json.loads(page.evaluate("async () => JSON.stringify((await window.app.graphToPrompt()).output)"))
        )
    assert prompts[0] == prompts[1]
    told_before = len(server.log)
    outputs = queue_as_page(page, server, with_stand_ins(prompts[0], seed=WORKFLOWS.index(path)))
    sites = SITES[family_of(prompts[0])]
    assert f"{sites} of {sites} chosen sites reached" in server.log[told_before:]
    assert outputs
    for renderer in reversed(RENDERERS):  # from the one that it is in
        render(page, renderer)
        in_html = len(graph["nodes"]) if RENDERERS[renderer] else 0
        page.wait_for_function(f"document.querySelectorAll('.lg-node[data-node-id]').length === {in_html}")
        page.wait_for_function(f"({WAITING})().length === 0 && ({HANGING})().length === 0")
        assert overlapping(page.evaluate(BOXES)) == [], renderer
        page.screenshot(path=tmp_path / f"{path.stem} {renderer}.png")
        page.evaluate(LONGEST_TEXTS)
        page.wait_for_function(f"({HANGING})().length === 0")
        assert overlapping(page.evaluate(BOXES)) == [], f"{renderer}, with the longest texts"
    assert page.problems == []


def check_opened_and_saved(page, graph: dict, renderer: str) -> None:
    """Open a graph, save it and open it again; a newer version may only add widgets after those that were saved."""
    opened(page, graph)
    in_html = len(graph["nodes"]) if renderer == "nodes 2.0" else 0
    page.wait_for_function(f"document.querySelectorAll('.lg-node[data-node-id]').length === {in_html}")
    assert page.locator(".node-error").count() == 0  # what Nodes 2.0 draws in the place of a node it cannot
    missing = "window.app.graph._nodes.filter(n => !n.isVirtualNode && !LiteGraph.registered_node_types[n.type])"
    assert page.evaluate(f"{missing}.map(n => n.type)") == []
    again = json.loads(page.evaluate(SAVE))
    opened(page, again)
    for saved in (again, json.loads(page.evaluate(SAVE))):
        values = {node["id"]: node.get("widgets_values") or [] for node in saved["nodes"]}
        for node in graph["nodes"]:
            kept = node.get("widgets_values") or []
            assert values[node["id"]][: len(kept)] == kept, node["type"]
        links = {tuple(link) for link in saved["links"]}
        assert links == {tuple(link) for link in graph["links"]}


def opened(page, graph: dict) -> None:
    """Open a workflow in the editor, from an empty graph."""
    page.evaluate("() => window.app.graph.clear()")
    page.evaluate(LOAD, graph)
    page.wait_for_function(f"window.app.graph._nodes.length === {len(graph['nodes'])}")


def test_every_workflow_names_the_pack_and_the_version_of_its_nodes():
    """ComfyUI-Manager finds a missing pack by these two."""
    for path in WORKFLOWS:
        nodes = json.loads(path.read_text(encoding="utf-8"))["nodes"]
        assert any(node["type"].startswith("SAD") for node in nodes), path.name
        for node in nodes:
            if node["type"] != "MarkdownNote":
                pack = "symmetric-attention" if node["type"].startswith("SAD") else "comfy-core"
                assert node["properties"]["cnr_id"] == pack
                assert node["properties"]["ver"].count(".") == 2
        (note,) = (node for node in nodes if node["type"] == "MarkdownNote")
        assert len(note["widgets_values"][0]) > 100


def test_the_report_of_a_run_appears_on_the_node_in_the_browser(page, server):
    page.evaluate("prompt => window.app.loadApiJson(prompt, 'report')", numbered(workflow(1.5, "food", 2, steps=5)))
    page.wait_for_function("window.app.graph._nodes.some(n => n.type === 'SADSkewAttention')")
    page.evaluate("() => window.app.queuePrompt(0)")
    shown = """() => window.app.graph._nodes.find(n => n.type === 'SADSkewAttention').widgets
        .some(w => typeof w.value === 'string' && w.value.includes('50 attention calls changed in 5 model calls'))"""
    page.wait_for_function(shown, timeout=120_000)
    assert page.problems == []
