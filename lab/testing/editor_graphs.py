"""API prompts in the form the editor opens."""

from __future__ import annotations

from typing import Any

# A graph with an id, as people have it, made of a prompt; everything but the nodes with a chart out of the way.
OPEN = """async prompt => {
    window.app.loadApiJson(prompt, 'charts');
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
