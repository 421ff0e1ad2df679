"""API prompts in the form the editor opens."""

from __future__ import annotations

from itertools import combinations
from typing import Any

from lab.demo.comfyui_server import ComfyUIServer

# A graph with an id, as people have it, made of a prompt; everything but the nodes with a chart out of the way.
OPEN = """async prompt => {
    await window.app.loadApiJson(prompt, 'charts');
    const graph = JSON.parse(JSON.stringify(window.app.rootGraph.serialize()));
    graph.id = crypto.randomUUID();
    const charted = graph.nodes.filter(n => ['SADStabilityProbe', 'SADGammaSchedule'].includes(n.type));
    graph.nodes.forEach((node, place) => { node.pos = [-3000, 300 * place]; });
    charted.forEach((node, place) => { node.pos = [120 + 560 * place, 120]; node.size = [420, 100]; });
    await window.app.loadGraphData(graph, true, true);
    Object.assign(window.app.canvas.ds, {scale: 1, offset: [0, 0]});
    window.app.canvas.setDirty(true, true);
    return graph.id;
}"""

# The boxes of all nodes of the graph that is looked at, as [left, top, right, bottom] on the page, by "class id".
BOXES = """() => {
    const {canvas} = window.app, {scale, offset} = canvas.ds, origin = canvas.canvas.getBoundingClientRect();
    const title = LiteGraph.NODE_TITLE_HEIGHT;
    return Object.fromEntries(canvas.graph._nodes.map(node => {
        const drawn = document.querySelector(`.lg-node[data-node-id="${node.id}"]`)?.getBoundingClientRect();
        const at = (x, y) => [origin.x + scale * (x + offset[0]), origin.y + scale * (y + offset[1])];
        const box = drawn ? [drawn.left, drawn.top, drawn.right, drawn.bottom]
            : [...at(node.pos[0], node.pos[1] - title), ...at(node.pos[0] + node.size[0], node.pos[1] + node.size[1])];
        return [`${node.comfyClass ?? node.type} ${node.id}`, box];
    }));
}"""
# The elements of our widgets that reach over an edge of their node, or show less of a text than there is room for.
HANGING = """() => {
    const boxes = (BOXES)();
    return window.app.canvas.graph._nodes.flatMap(node => (node.widgets ?? []).filter(w => w.type === 'sad_element')
        .flatMap(widget => {
            const shown = widget.element.getBoundingClientRect();
            if (!widget.element.isConnected || !shown.width) return [];
            const [left, top, right, bottom] = boxes[`${node.comfyClass} ${node.id}`];
            const over = Math.max(left - shown.left, top - shown.top, shown.right - right, shown.bottom - bottom);
            const text = widget.element.classList.contains('sad-text') ? widget.element.firstChild.offsetHeight : 0;
            const cut = Math.min(text, 240) - widget.element.clientHeight;
            return over > 1 || cut > 1 ? [`${node.comfyClass} ${widget.name}: over ${over}, cut ${cut}`] : [];
        }));
}""".replace("(BOXES)", f"({BOXES})")

# Give every text of a run its greatest height: other models have more sites, steps or images than the demo model.
LONGEST_TEXTS = """() => {
    for (const node of window.app.canvas.graph._nodes)
        for (const widget of node.widgets ?? [])
            if (widget.name === 'last_run') widget.value = Array(40).fill('What happened.').join('\\n');
}"""


def overlapping(boxes: dict[str, list[float]]) -> list[tuple[str, str]]:
    """Return the pairs of `BOXES` that share more than a pixel."""
    return [
        (one, other)
        for (one, a), (other, b) in combinations(boxes.items(), 2)
        if min(a[2], b[2]) - max(a[0], b[0]) > 1 and min(a[3], b[3]) - max(a[1], b[1]) > 1
    ]


def queue_as_page(page: Any, server: ComfyUIServer, prompt: dict[str, Any]) -> dict[str, Any]:
    """Run a prompt in the name of the page, so that texts, charts and pictures appear on its nodes; the outputs.

    The ids of the prompt are those of the graph that is open in the page, but its nodes need not be.
    """
    client, graph = page.evaluate("() => [window.app.api.clientId, window.app.rootGraph.id]")
    told = {"extra_pnginfo": {"workflow": {"id": graph}}}  # by which the charts of the page know their run
    prompt_id = server.post("/prompt", {"prompt": prompt, "client_id": client, "extra_data": told})["prompt_id"]
    outputs: dict[str, Any] = server.wait(prompt_id)["outputs"]
    return outputs


def numbered(prompt: dict[str, Any]) -> dict[str, Any]:
    """An API prompt with numbers for node ids, as the editor wants them."""
    number = {name: str(index + 1) for index, name in enumerate(prompt)}

    def renamed(value: Any) -> Any:
        return [number[value[0]], value[1]] if isinstance(value, list) else value

    return {
        number[name]: {**node, "inputs": {key: renamed(value) for key, value in node["inputs"].items()}}
        for name, node in prompt.items()
    }


def put_probe(prompt: dict[str, Any]) -> None:
    """Put a Stability Probe between `skew` and `sampler` of an API prompt of `lab.demo.gamma_sweep.workflow`."""
    prompt["probe"] = {
        "class_type": "SADStabilityProbe",
        "inputs": {"model": ["skew", 0], "blocks": "", "every_nth_step": 1, "depth_and_curvature": False}
        | {"patterns": "value", "map_site": ""},
    }
    prompt["sampler"]["inputs"]["model"] = ["probe", 0]
