"""The shared workflows fit every host: its nodes have the inputs and outputs that the graphs wire."""

from __future__ import annotations

import json

import pytest

from lab.folders import ROOT
from lab.generate.node_schemas import is_widget

WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))
ONLY_IN_THE_EDITOR = {"MarkdownNote"}


@pytest.fixture(scope="session")
def known(server) -> dict:
    return server.get("/object_info")


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_shared_workflow_asks_for_nothing_this_host_lacks(known, comfyui, path):
    graph = json.loads(path.read_text(encoding="utf-8"))
    nodes = {node["id"]: node for node in graph["nodes"]}
    for node in nodes.values():
        if node["type"] in ONLY_IN_THE_EDITOR:
            continue
        assert node["type"] in known, node["type"]
        groups = known[node["type"]]["input"]
        inputs = groups.get("required", {}) | groups.get("optional", {})
        names = set(inputs)
        wired = {each["name"] for each in node.get("inputs", []) if each.get("link") is not None}
        assert wired <= names, node["type"]
        if node["type"].startswith("SAD"):  # all of them: a graph made before an input was added is to be made anew
            assert {each["name"] for each in node.get("inputs", [])} == names, node["type"]
            widgets = [name for name, (kind, *options) in inputs.items() if is_widget(kind, *options)]
            assert len(node.get("widgets_values") or []) == len(widgets), node["type"]
        if node["type"] == "LoadImage":
            assert (comfyui / "input" / node["widgets_values"][0]).is_file(), "a picture that comes with every ComfyUI"
    for _, source, output, _, _, kind in graph["links"]:
        outputs = known[nodes[source]["type"]]["output"]
        assert outputs[output] == kind, nodes[source]["type"]
