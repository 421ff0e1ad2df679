"""What a user sees: shared workflows open and run, and the report of a run appears on the node."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from demo.gamma_sweep import workflow

WORKFLOWS = sorted((Path(__file__).resolve().parents[2] / "workflows").glob("*.json"))
LOAD = "graph => window.app.loadGraphData(graph, true, true)"
# What stands in for the parts of a checkpoint: class and inputs by the class that is replaced.
STAND_INS = {
    "CheckpointLoaderSimple": ("SADDemoModel", {}),
    "CLIPTextEncode": ("SADDemoConditioning", {"category": "animals"}),
    "EmptyLatentImage": ("SADDemoLatent", {"count": 1, "nonce": 0}),
    "VAEDecode": ("SADDemoDecode", {"enlarge": 1}),
}


def numbered(prompt: dict) -> dict:
    """An API prompt with numbers for node ids, as the editor wants them."""
    number = {name: str(index + 1) for index, name in enumerate(prompt)}

    def renamed(value):
        return [number[value[0]], value[1]] if isinstance(value, list) else value

    return {
        number[name]: {**node, "inputs": {key: renamed(value) for key, value in node["inputs"].items()}}
        for name, node in prompt.items()
    }


def with_stand_ins(prompt: dict) -> dict:
    """The prompt with the checkpoint swapped for the demo model; everything of ours stays as it is."""
    swapped = {}
    for name, node in prompt.items():
        kind, inputs = STAND_INS.get(node["class_type"], (node["class_type"], None))
        if inputs is not None:
            kept = {key: value for key, value in node["inputs"].items() if kind == "SADDemoDecode" and key == "samples"}
            node = {"class_type": kind, "inputs": {**inputs, **kept}}
        swapped[name] = node
    return swapped


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_shared_workflow_opens_keeps_its_values_and_runs(page, server, path):
    graph = json.loads(path.read_text(encoding="utf-8"))
    assert path.with_suffix(".jpg").exists()
    page.evaluate(LOAD, graph)
    page.wait_for_function(f"window.app.graph._nodes.length === {len(graph['nodes'])}")
    missing = "window.app.graph._nodes.filter(n => !LiteGraph.registered_node_types[n.type]).map(n => n.type)"
    assert page.evaluate(missing) == []
    again = json.loads(page.evaluate("() => JSON.stringify(window.app.graph.serialize())"))
    values = {node["id"]: node.get("widgets_values") or [] for node in graph["nodes"]}
    assert {node["id"]: node.get("widgets_values") or [] for node in again["nodes"]} == values
    prompt = json.loads(page.evaluate("async () => JSON.stringify((await window.app.graphToPrompt()).output)"))
    outputs = server.run(with_stand_ins(prompt))
    (report,) = next(output["text"] for output in outputs.values() if "text" in output)
    assert "10 of 10 chosen sites reached" in report
    assert page.problems == []


def test_the_report_of_a_run_appears_on_the_node_in_the_browser(page, server):
    page.evaluate("prompt => window.app.loadApiJson(prompt, 'report')", numbered(workflow(1.5, "food", 2, steps=5)))
    page.wait_for_function("window.app.graph._nodes.some(n => n.type === 'SADSkewAttention')")
    page.evaluate("() => window.app.queuePrompt(0)")
    shown = """() => window.app.graph._nodes.find(n => n.type === 'SADSkewAttention').widgets
        .some(w => typeof w.value === 'string' && w.value.includes('50 attention calls skewed in 5 model calls'))"""
    page.wait_for_function(shown, timeout=120_000)
    assert page.problems == []
