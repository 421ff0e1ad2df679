"""The list of saved files on a node: it follows the editor's refresh, and a file of the user's computer joins it."""

from __future__ import annotations

import pytest
from safetensors.numpy import save_file

from lab.testing.editor import RENDERERS, render

LOADERS = {"SADLoadStabilityTrace": "stability_trace", "SADLoadStabilityBaseline": "stability_baseline"}
# Both nodes at once: Nodes 2.0 keeps the widgets of an id, and a graph that was cleared begins with the same ids.
ADD = """kinds => {
    const {graph, canvas} = window.app;
    graph.clear();
    kinds.forEach((kind, place) => {
        const node = LiteGraph.createNode(kind);
        graph.add(node);
        node.pos = [400 + 500 * place, 300];
    });
    Object.assign(canvas.ds, {scale: 1, offset: [0, 0]});
    canvas.setDirty(true, true);
}"""
NODE = "window.app.graph._nodes.find(n => n.comfyClass === kind)"
LIST = f"{NODE}.widgets.find(w => w.name === 'file')"
# Where the button of the classic rendering is on the page, once it is drawn.
BUTTON = """kind => {
    const {canvas} = window.app, node = NODE;
    const button = node.widgets.find(w => w.name === 'upload');
    const {left, top} = canvas.canvas.getBoundingClientRect();
    return button.last_y ? [left + node.pos[0] + node.size[0] / 2, top + node.pos[1] + button.last_y + 10] : null;
}""".replace("NODE", NODE)


@pytest.fixture
def page(fresh_page):
    """A page of its own for each test: Nodes 2.0 keeps the widgets of an id."""
    return fresh_page


@pytest.mark.parametrize("renderer", RENDERERS)
def test_saved_files_are_listed_after_a_refresh_and_can_be_uploaded(page, server, tmp_path, renderer):
    render(page, renderer)
    page.evaluate(ADD, list(LOADERS))
    for number, (kind, header) in enumerate(LOADERS.items()):
        name = f"{header}_{renderer.replace(' ', '')}.safetensors"
        (server.output / "stability").mkdir(exist_ok=True)
        save_file({}, server.output / "stability" / f"saved_{name}", metadata={header: "{}"})
        page.evaluate("() => window.app.refreshComboInNodes()")  # what the key R does
        listed = f"([kind, name]) => {LIST}.options.values.includes(name)"
        page.wait_for_function(listed, arg=[kind, f"stability/saved_{name}"])

        save_file({}, tmp_path / name, metadata={header: "{}"})
        with page.expect_file_chooser() as chosen:
            if renderer == "classic":
                page.mouse.click(*page.wait_for_function(BUTTON, arg=kind).json_value())
            else:
                page.get_by_text(["upload a trace", "upload a baseline"][number]).click()
        chosen.value.set_files(tmp_path / name)
        page.wait_for_function(f"([kind, name]) => {LIST}.value === name", arg=[kind, f"stability/{name}"])
        assert (server.output / "stability" / name).read_bytes() == (tmp_path / name).read_bytes()
        queued = page.evaluate("async () => Object.values((await window.app.graphToPrompt()).output)")
        assert [each["inputs"] for each in queued if each["class_type"] == kind] == [{"file": f"stability/{name}"}]
        assert page.evaluate(f"kind => {NODE}.serialize().widgets_values", kind) == [f"stability/{name}"]
    assert page.problems == []
