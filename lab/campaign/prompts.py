"""Prompts of the demo model that a server has not seen before, with the nodes of the pack on request."""

from __future__ import annotations

import itertools
from typing import Any

from lab.demo.gamma_sweep import workflow

Prompt = dict[str, dict[str, Any]]
fresh = itertools.count(700_000)
GAMMA = 1.5
SKEW = {"model": ["model", 0], "gamma": GAMMA, "beta": 3.0, "adaptive": "off", "norm": "value"}
SKEW |= {"blocks": "", "start_percent": 0.0, "end_percent": 1.0, "apply_to": "both"}
PROBE = {"model": ["model", 0], "blocks": "", "every_nth_step": 1, "depth_and_curvature": False, "patterns": "value"}
PROBE |= {"map_site": ""}
SCHEDULE = {"shape": "linear", "start_gamma": 1.2, "end_gamma": 1.0, "start": 0.0, "end": 1.0, "values": "1, 1.05"}
SCHEDULE |= {"keyframes": "0:1, 1:1.2", "curve_min": 0.5, "curve_max": 1.5}


def plain(steps: int = 1) -> Prompt:
    """The demo model without the pack."""
    return workflow(None, "animals", 4, steps=steps, nonce=next(fresh))


def patched(steps: int = 1, **widgets: Any) -> Prompt:
    """The demo model through Skew Attention."""
    nodes = plain(steps)
    nodes["skew"] = node("SADSkewAttention", SKEW, **widgets)
    nodes["sampler"]["inputs"]["model"] = ["skew", 0]
    return nodes


def measured(steps: int = 1, **widgets: Any) -> Prompt:
    """The demo model through Skew Attention and Stability Probe, and the trace saved."""
    nodes = patched(steps)
    nodes["probe"] = node("SADStabilityProbe", PROBE, **{"model": ["skew", 0], **widgets})
    nodes["sampler"]["inputs"]["model"] = ["probe", 0]
    nodes["kept"] = node("SADSaveStabilityTrace", {"trace": ["probe", 1], "after": ["sampler", 0]})
    return nodes


def with_node(kind: str, **inputs: Any) -> Prompt:
    """The smallest prompt in which a node of the pack has these inputs beside what it needs."""
    if kind == "SADSkewAttention":
        return patched(**inputs)
    if kind == "SADStabilityProbe":
        return measured(**inputs)
    if kind == "SADSaveStabilityTrace":
        nodes = measured()
        nodes["kept"]["inputs"] |= inputs
        return nodes
    if kind == "SADStabilityPlot":
        nodes = measured()
        nodes["plot"] = node(kind, {"trace": ["probe", 1], "after": ["sampler", 0]}, **inputs)
        return shown(nodes, ["plot", 1])
    if kind == "SADGammaSchedule":
        return shown({"schedule": node(kind, SCHEDULE, **inputs)}, ["schedule", 0])
    if kind == "SADGammaSweep":
        return shown({"sweep": node(kind, {"values": "0, 1"}, **inputs)}, ["sweep", 1])
    if kind == "SADLoadStabilityTrace":
        return shown({"load": node(kind, {"file": "trace.safetensors"}, **inputs)}, ["load", 1])
    # Those that gather a sweep: one image, and as many γ as `values` has.
    nodes = plain()
    nodes["sweep"] = node("SADGammaSweep", {"values": inputs.pop("values", "1")})
    nodes["gathered"] = node(kind, {"images": ["decode", 0], "gamma": ["sweep", 0]}, **inputs)
    return shown(nodes, ["gathered", 1])


def node(kind: str, inputs: dict[str, Any], **changed: Any) -> dict[str, Any]:
    """A node; an input that is changed to `...` is left out."""
    given = {name: value for name, value in {**inputs, **changed}.items() if value is not ...}
    return {"class_type": kind, "inputs": given}


def shown(nodes: Prompt, link: list[Any]) -> Prompt:
    """The prompt with a node that shows what `link` gives, so that it is asked for."""
    return {**nodes, "shown": {"class_type": "PreviewAny", "inputs": {"source": link}}}
