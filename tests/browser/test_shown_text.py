"""The text of a run on its node, after the editor has made the node anew: another tab and back, a reload."""

from __future__ import annotations

import pytest

from lab.testing.editor import READY, RENDERERS, render
from lab.testing.editor_graphs import HANGING, OPEN, numbered

PATIENCE, OFTEN = 200_000, 200  # milliseconds
NEAR = 24  # pixels: the editor shares out a few, more after a change of the rendering; the hole of a text has hundreds
TEXT = "\n".join(
    f"Line {number} of what the node found, in words that are as long as those of a run." for number in range(9)
)
PROMPT = numbered(
    {
        "model": {"class_type": "SADDemoModel", "inputs": {"picture": "smileys", "count": 1}},
        "measure": {
            "class_type": "SADMeasureCheckpoint",
            "inputs": {name: ["model", output] for name, output in {"model": 0, "vae": 3, "latent_image": 4}.items()},
        },
    }
)
MEASURE = "window.app.rootGraph._nodes.find(n => n.comfyClass === 'SADMeasureCheckpoint')"
# What the node shows and how high it is, drawn and saved; the prompts are the box that would swell.
STATE = f"""() => {{
    const node = {MEASURE};
    const find = name => node?.widgets.find(w => w.name === name);
    return node && {{
        text: find('last_run')?.value ?? '',
        prompts: Math.round(find('prompts').element.offsetHeight),
        saved: Math.round(node.serialize().size[1]),
    }};
}}"""
# In the classic rendering a box has a height only while it is drawn, which it is inside the view. The other one draws a
# box of its own.
DRAWN = f"""text => {{
    const canvas = window.app.canvas;
    Object.assign(canvas.ds, {{ scale: 1, offset: [0, 0] }});
    canvas.setDirty(true, true);
    const state = ({STATE})();
    return state?.text === text && (state.prompts > 0 || LiteGraph.vueNodesMode) ? state : null;
}}"""
TELL = f"""async text => (await import('/scripts/api.js')).api.dispatchEvent(
    new CustomEvent('progress_text', {{detail: {{nodeId: String({MEASURE}.id), text}}}}))"""
COMMAND = "id => window.app.extensionManager.command.execute(id)"


def settled(page, text: str) -> dict:
    """The state of the node, once it shows a text and has been drawn in the same way for a while."""
    states: list[dict] = []
    while len(states) < 3 or len({str(state) for state in states[-3:]}) > 1:
        found = page.wait_for_function(DRAWN, arg=text, timeout=PATIENCE, polling=OFTEN)
        states.append(found.json_value())
        page.wait_for_timeout(OFTEN)
    return states[-1]


@pytest.mark.parametrize("renderer", RENDERERS)
def test_a_text_outlives_another_tab_and_a_reload_and_leaves_no_hole(page, renderer):
    render(page, renderer)
    page.evaluate(OPEN, PROMPT)
    page.evaluate(f"() => {{ {MEASURE}.pos = [120, 120]; window.app.canvas.setDirty(true, true); }}")
    without = settled(page, "")
    page.evaluate(TELL, TEXT)
    shown = settled(page, TEXT)
    assert abs(shown["prompts"] - without["prompts"]) <= NEAR
    assert abs(shown["saved"] - without["saved"]) <= NEAR  # the text has no part in what is saved

    page.evaluate(COMMAND, "Comfy.NewBlankWorkflow")
    page.wait_for_function("() => window.app.rootGraph._nodes.length === 0", timeout=PATIENCE)
    page.evaluate(COMMAND, "Workspace.PreviousOpenedWorkflow")
    again = settled(page, TEXT)
    assert abs(again["prompts"] - without["prompts"]) <= NEAR
    assert abs(again["saved"] - without["saved"]) <= NEAR
    page.wait_for_function(f"() => ({HANGING})().length === 0", timeout=PATIENCE, polling=OFTEN)

    page.reload()
    page.wait_for_function(READY, timeout=PATIENCE)
    render(page, renderer)  # the saved setting may be that of another test
    assert abs(settled(page, TEXT)["prompts"] - without["prompts"]) <= NEAR

    page.evaluate("() => sessionStorage.removeItem('symmetric_attention.texts')")
    page.reload()
    page.wait_for_function(READY, timeout=PATIENCE)
    render(page, renderer)  # the saved setting may be that of another test
    page.wait_for_function(f"() => {MEASURE} !== undefined", timeout=PATIENCE)
    assert abs(settled(page, "")["prompts"] - without["prompts"]) <= NEAR  # nothing swells where the text is away
    assert page.problems == []


def test_the_text_of_a_run_goes_to_its_own_graph_whichever_tab_is_open(page, server):
    """Node ids are the same in both graphs."""
    first = page.evaluate(OPEN, PROMPT)
    page.evaluate(COMMAND, "Comfy.NewBlankWorkflow")
    page.wait_for_function("() => window.app.rootGraph._nodes.length === 0", timeout=PATIENCE)
    page.evaluate("""() => {
        const node = LiteGraph.createNode('SADMeasureCheckpoint');
        node.id = 2;
        window.app.rootGraph.add(node);
    }""")
    client = page.evaluate("() => window.app.api.clientId")
    creativity = {"class_type": "SADCreativity", "inputs": {"model": ["1", 0], "position": 0.0}}
    prompt = {"1": PROMPT["1"], "2": creativity, "3": {"class_type": "PreviewAny", "inputs": {"source": ["2", 1]}}}
    told = {"extra_pnginfo": {"workflow": {"id": first}}}
    server.wait(server.post("/prompt", {"prompt": prompt, "client_id": client, "extra_data": told})["prompt_id"])
    page.wait_for_function("() => sessionStorage.getItem('symmetric_attention.texts')", timeout=PATIENCE)
    assert page.evaluate(STATE)["text"] == ""
    page.evaluate(COMMAND, "Workspace.PreviousOpenedWorkflow")
    page.wait_for_function(f"() => ({STATE})()?.text.length > 0", timeout=PATIENCE, polling=OFTEN)
    assert page.problems == []
