"""The nodes that put stability to use, inside a subgraph: they run with their defaults and report it."""

from __future__ import annotations

from typing import Any

from lab.demo.gamma_sweep import GUIDANCE, workflow
from lab.testing.editor import RENDERERS, render
from lab.testing.editor_graphs import HANGING, OPEN, numbered

PATIENCE, OFTEN = 200_000, 200  # milliseconds
ACTING = ["SADStabilityBaseline", "SADStabilityFeedback", "SADBestOfSampler", "SADCalibrate", "SADCreativity"]
INTO_A_SUBGRAPH = """kinds => {
    const graph = window.app.rootGraph;
    const inner = graph._nodes.filter(n => kinds.includes(n.comfyClass));
    window.inner = graph.convertToSubgraph(new Set(inner)).subgraph;
    window.inner._nodes.filter(n => kinds.includes(n.comfyClass)).forEach((node, place) => {
        node.pos = [100 + 420 * (place % 3), 100 + 900 * Math.floor(place / 3)];
    });
}"""
# What the nodes of the subgraph show, the note of a chart among it.
SHOWN = """kinds => Object.fromEntries(window.inner._nodes.filter(n => kinds.includes(n.comfyClass)).map(node => {
    const note = node.widgets.find(w => w.name === 'chart')?.element.querySelector('.sad-chart-note').textContent;
    return [node.comfyClass, `${node.widgets.find(w => w.name === 'last_run')?.value ?? ''} ${note ?? ''}`];
}))"""
# The beginning or a part of what each is to say of the run below.
SAID = {
    "SADStabilityBaseline": "3 samples of 1 run",
    "SADStabilityFeedback": "finished · step 4",
    "SADBestOfSampler": "Kept from 2 candidates",
    "SADCalibrate": "Saved as calibration/own",
    "SADCreativity": "The calibration comes with the pack.",
}


def sampled(model: list[Any], latent: list[Any], **inputs: Any) -> dict[str, Any]:
    """A KSampler of four steps."""
    widgets = {"seed": 5, "steps": 4, "cfg": GUIDANCE, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}
    wired = {"model": model, "positive": ["model", 1], "negative": ["model", 2], "latent_image": latent}
    return {"class_type": "KSampler", "inputs": {**widgets, **wired, **inputs}}


def prompt() -> dict[str, Any]:
    """All five of them on the demo model. They get what they need, and no input that has a default."""
    nodes = workflow(1.5, "food", 5, steps=4)
    nodes = {name: nodes[name] for name in ("model", "skew")}
    nodes["model"]["inputs"]["count"] = 3

    def put(name: str, kind: str, **inputs: Any) -> None:
        nodes[name] = {"class_type": kind, "inputs": inputs}

    put("probe", "SADStabilityProbe", model=["model", 0])
    nodes["plain"] = sampled(["probe", 0], ["model", 4])
    put("baseline", "SADStabilityBaseline", trace=["probe", 1], after=["plain", 0])
    put("feedback", "SADStabilityFeedback", model=["skew", 0], baseline=["baseline", 0])
    nodes["followed"] = sampled(["feedback", 0], ["model", 4])
    put("sweep", "SADGammaSweep", values="1, 1.5")
    put("swept", "SADSkewAttention", model=["model", 0], gamma=["sweep", 0], beta=1.0)
    nodes["samples"] = sampled(["swept", 0], ["model", 4])
    put("decoded", "VAEDecode", samples=["samples", 0], vae=["model", 3])
    put("calibrate", "SADCalibrate", images=["decoded", 0], gamma=["sweep", 0], model=["swept", 0])
    put("creativity", "SADCreativity", model=["model", 0])
    put("one", "SADDemoModel", picture="food", count=1)
    put("noise", "RandomNoise", noise_seed=5)
    put("guider", "CFGGuider", model=["creativity", 0], positive=["model", 1], negative=["model", 2], cfg=GUIDANCE)
    put("solver", "KSamplerSelect", sampler_name="euler")
    put("sigmas", "BasicScheduler", model=["model", 0], scheduler="simple", steps=4, denoise=1.0)
    put("best", "SADBestOfSampler", noise=["noise", 0], guider=["guider", 0], sampler=["solver", 0])
    more = {"sigmas": ["sigmas", 0], "latent_image": ["one", 4], "choose": "most different"}
    nodes["best"]["inputs"] |= {**more, "candidates": 2, "keep": 2}
    for name, source in {"kept": ["best", 0], "steered": ["followed", 0]}.items():
        put(f"{name} image", "VAEDecode", samples=source, vae=["model", 3])
        put(name, "PreviewImage", images=[f"{name} image", 0])
    return numbered(nodes)


def test_in_a_subgraph_they_run_with_their_defaults_and_report_it(page, tmp_path):
    page.evaluate(OPEN, prompt())
    page.evaluate(INTO_A_SUBGRAPH, ACTING)
    page.evaluate("() => window.app.queuePrompt(0)")
    told = f"([kinds, said]) => kinds.every(kind => ({SHOWN})(kinds)[kind]?.includes(said[kind]))"
    page.wait_for_function(told, arg=[ACTING, SAID], timeout=PATIENCE, polling=OFTEN)
    page.evaluate("() => window.app.canvas.setGraph(window.inner)")
    for renderer in RENDERERS:
        render(page, renderer)
        in_html = len(ACTING) if RENDERERS[renderer] else 0
        page.wait_for_function(f"document.querySelectorAll('.lg-node[data-node-id]').length >= {in_html}")
        page.wait_for_function(f"() => ({HANGING})().length === 0", timeout=PATIENCE, polling=OFTEN)
        shown = page.evaluate(SHOWN, ACTING)
        assert {kind: SAID[kind] in text for kind, text in shown.items()} == dict.fromkeys(ACTING, True), shown
        page.screenshot(path=tmp_path / f"{renderer}.png")
    assert page.problems == []
