"""Takes the pictures of docs/tour.md and of the help pages, from a real ComfyUI in a real browser with the demo model.

    python -m lab.figures.tour

Needs what lab/generate/workflows.py needs.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

from lab.demo.comfyui_server import ComfyUIServer
from lab.demo.gamma_sweep import enlarged, workflow
from lab.figures.makers import NODES
from lab.folders import IMAGES, ROOT
from lab.generate.workflows import SHOW, put_empty_models
from lab.testing.editor import FLAGS, find_chromium, open_page, render
from lab.testing.editor_graphs import OPEN, numbered
from lab.testing.hosts import find_host

FOLDER, HELP = IMAGES, ROOT / "web" / "docs" / "images"
PICTURED_AT_WORK = {"SADStabilityProbe", "SADGammaSchedule"}  # with their charts, on their help pages
MOST_BYTES = 40_000  # of a picture that ships
PATIENCE = 300_000  # milliseconds
NODE_ID = "kind => window.app.rootGraph._nodes.find(node => node.type === kind).id"
NOTES = "[...document.querySelectorAll('.sad-chart-note')].map(note => note.textContent)"
SEARCH = "() => { window.app.extensionManager.command.execute('Workspace.SearchBox.Toggle') }"
FIXED_SEED = """
() => window.app.graph._nodes.flatMap(n => n.widgets ?? []).filter(w => w.name === 'control_after_generate')
    .forEach(w => w.value = 'fixed')
"""
ONE_NODE = """
([type, number]) => {
    window.app.graph.clear();
    window.app.graph.last_node_id = number;  // the editor keeps the values of a widget by its node's id
    const node = LiteGraph.createNode(type);
    window.app.graph.add(node);
    node.pos = [600, 300];
    node.setSize([Math.max(node.size[0], 240), node.size[1]]);
    window.app.canvas.ds.scale = 1;
    window.app.canvas.ds.offset = [0, 0];
    window.app.canvas.selectNode(node);
    window.app.canvas.setDirty(true, true);
}
"""
PLACE = """
places => {
    for (const node of window.app.graph._nodes) {
        const [x, y, width, height] = places[node.type] ?? [0, 0, 0, 0];
        node.pos = [x, y];
        const least = node.computeSize();
        node.setSize([width || least[0], Math.max(height, least[1])]);
    }
}
"""


def run_of_a_sweep() -> tuple[dict[str, Any], dict[str, tuple[int, int, int, int]]]:
    """The demo model, five gammas and their grid as a prompt, and the places of its nodes."""
    prompt = workflow(1.0, "smileys", 3, steps=12)
    del prompt["numbers"]
    prompt["model"]["inputs"]["count"] = 4
    prompt["sweep"] = {"class_type": "SADGammaSweep", "inputs": {"values": "0, 0.5, 1, 1.5, 2"}}
    prompt["skew"]["inputs"]["gamma"] = ["sweep", 0]
    prompt["large"] = enlarged(["decode", 0], 4)
    prompt["grid"] = {"class_type": "SADGammaGrid", "inputs": {"images": ["large", 0], "gamma": ["sweep", 0]}}
    prompt["shown"] = {"class_type": "PreviewImage", "inputs": {"images": ["grid", 0]}}
    places = {
        "SADDemoModel": (0, 0, 200, 0),
        "SADGammaSweep": (250, 0, 300, 0),
        "SADSkewAttention": (250, 195, 300, 400),
        "KSampler": (600, 0, 270, 0),
        "VAEDecode": (600, 320, 270, 0),
        "ImageScale": (600, 420, 270, 0),
        "SADGammaGrid": (920, 0, 240, 0),
        "PreviewImage": (920, 120, 560, 560),
    }
    return prompt, places


def run_with_charts() -> dict[str, Any]:
    """The demo model between a schedule and a probe as a prompt."""
    prompt = workflow(1.0, "food", 2, steps=20)
    prompt["schedule"] = {
        "class_type": "SADGammaSchedule",
        "inputs": {"shape": "cosine", "start_gamma": 1.3, "end_gamma": 0.9, "start": 0.1, "end": 0.8}
        | {"keyframes": "0:1, 0.3:1.05, 1:1", "curve_min": 0.5, "curve_max": 1.5, "values": "1, 1.05, 1"},
    }
    prompt["probe"] = {
        "class_type": "SADStabilityProbe",
        "inputs": {"model": ["skew", 0], "blocks": "", "every_nth_step": 1, "depth_and_curvature": False}
        | {"patterns": "value", "map_site": ""},
    }
    prompt["skew"]["inputs"]["schedule"] = ["schedule", 0]
    prompt["sampler"]["inputs"]["model"] = ["probe", 0]
    return prompt


def plot_of_a_report(server: ComfyUIServer) -> bytes:
    """The plot of Diversity and Fidelity Report for eight seeds of the demo model at five gammas."""
    prompt = workflow(1.0, "smileys", 3)
    prompt["model"]["inputs"]["count"] = 8
    prompt["sweep"] = {"class_type": "SADGammaSweep", "inputs": {"values": "0, 0.5, 1, 1.5, 2"}}
    prompt["skew"]["inputs"]["gamma"] = ["sweep", 0]
    images = {"images": ["decode", 0], "gamma": ["sweep", 0]}
    prompt["measured"] = {"class_type": "SADDiversityReport", "inputs": images}
    prompt["summary"] = {"class_type": "PreviewAny", "inputs": {"source": ["measured", 2]}}
    prompt["plot"] = {"class_type": "SaveImage", "inputs": {"images": ["measured", 0], "filename_prefix": "report"}}
    outputs = server.run(prompt)
    print(*outputs["summary"]["text"])
    filename: str = outputs["plot"]["images"][0]["filename"]
    return server.download(filename)


def write(picture: bytes, path: Path, width: int) -> None:
    """Write a screenshot as a JPG at most `width` wide."""
    from PIL import Image

    image = Image.open(io.BytesIO(picture)).convert("RGB")
    image.thumbnail((width, 10_000))
    path.parent.mkdir(parents=True, exist_ok=True)
    for quality in (82, 74, 66, 58, 50):
        image.save(path, quality=quality, optimize=True)
        if path.parent != HELP or path.stat().st_size <= MOST_BYTES:
            break
    print(path.relative_to(ROOT), image.size, path.stat().st_size)


def write_chart(picture: bytes, path: Path, width: int) -> None:
    """Write a chart as a PNG at most `width` wide, of few colours so that it stays small."""
    from PIL import Image

    image = Image.open(io.BytesIO(picture)).convert("RGB")
    image.thumbnail((width, 10_000), Image.Resampling.LANCZOS)
    image.quantize(24, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(path, optimize=True)
    print(path.relative_to(ROOT), image.size, path.stat().st_size)


def box(page: Any) -> dict[str, float]:
    """The rectangle of the only node on the page, with its title and a margin."""
    x, y, width, height = page.evaluate(
        "() => { const n = window.app.graph._nodes[0]; return [...n.pos, ...n.size].map(Number) }"
    )
    left, top = page.evaluate("() => { const r = window.app.canvas.canvas.getBoundingClientRect(); return [r.x, r.y] }")
    return {"x": left + x - 16, "y": top + y - 52, "width": width + 32, "height": height + 68}


def take_charts(page: Any) -> None:
    """Write the help pictures of the nodes with a chart, after a run of the demo model, in the Nodes 2.0 rendering."""
    render(page, "nodes 2.0")
    page.evaluate(OPEN, numbered(run_with_charts()))
    page.evaluate("() => window.app.queuePrompt(0)")
    for beginning in ("finished", "γ 0.9 …"):
        shown = f"text => {NOTES}.some(note => note.startsWith(text))"
        page.wait_for_function(shown, arg=beginning, timeout=PATIENCE)
    for kind in PICTURED_AT_WORK:
        node = page.locator(f'[data-node-id="{page.evaluate(NODE_ID, kind)}"]')
        write(node.screenshot(), HELP / f"{kind}.jpg", 420)


def main() -> int:
    from playwright.sync_api import sync_playwright

    host, chromium = find_host(), find_chromium()
    if host is None or chromium is None:
        sys.exit("No ComfyUI or no chromium on this machine; both are needed.")
    with ComfyUIServer(host, sys.executable) as server, sync_playwright() as playwright:
        put_empty_models(server.output.parent)
        server.post("/settings", {"Comfy.TutorialCompleted": True, "Comfy.Minimap.Visible": False})
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        page = open_page(browser, server)
        page.evaluate("() => window.app.graph.clear()")
        write_chart(plot_of_a_report(server), HELP / "diversity_report.png", 800)

        page.evaluate(SEARCH)
        page.wait_for_timeout(800)
        page.keyboard.type("diversity")
        page.wait_for_timeout(1500)
        write(page.screenshot(), FOLDER / "tour_search.jpg", 1100)
        page.keyboard.press("Escape")
        page.keyboard.press("Escape")

        page.evaluate("() => window.app.extensionManager.command.execute('Workspace.ToggleFocusMode')")
        prompt, places = run_of_a_sweep()
        page.evaluate("prompt => window.app.loadApiJson(prompt, 'sweep')", numbered(prompt))
        page.wait_for_function(f"window.app.graph._nodes.length === {len(prompt)}")
        page.evaluate(PLACE, places)
        page.evaluate(FIXED_SEED)
        page.evaluate("() => window.app.queuePrompt(0)")
        page.wait_for_function("() => window.app.graph._nodes.some(n => n.imgs && n.imgs.length)", timeout=PATIENCE)
        page.evaluate(PLACE, places)
        right, bottom = page.evaluate(SHOW, [20, 50])
        page.wait_for_timeout(1500)
        clip = {"x": 0, "y": 0, "width": min(1600, right + 40), "height": min(1000, bottom + 70)}
        write(page.screenshot(clip=clip), FOLDER / "tour_sweep.jpg", 1300)

        for number, kind in enumerate(NODES):
            if kind in PICTURED_AT_WORK:
                continue
            page.evaluate(ONE_NODE, [kind, 2000 + number])
            page.evaluate("() => { window.app.canvas.deselectAll(); window.app.canvas.setDirty(true, true) }")
            page.wait_for_timeout(400)
            write(page.screenshot(clip=box(page)), HELP / f"{kind}.jpg", 420)

        take_charts(page)
        render(page, "classic")
        page = open_page(browser, server)  # with the pictures that were just taken in the help page
        page.evaluate(ONE_NODE, ["SADSkewAttention", 1000])
        page.get_by_test_id("info-button").click()
        page.wait_for_timeout(2000)
        write(page.screenshot(), FOLDER / "tour_help.jpg", 1100)
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
