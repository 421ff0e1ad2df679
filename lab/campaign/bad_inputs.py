"""Bad inputs of the nodes over POST /prompt, each answered with a sentence, and texts of any characters in every field.

What ComfyUI refuses by itself, by the ranges and choices of the schemas, has to name the input and what is allowed.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from typing import Any

import torch

from lab.campaign.hostile_files import is_one_sentence
from lab.campaign.ledger import Budget, Ledger
from lab.campaign.prompts import plain, with_node
from lab.demo.comfyui_server import ComfyUIServer, ServerError
from lab.demo.gamma_sweep import pictures_of


@dataclass(frozen=True)
class Bad:
    """A node with inputs that are wrong, and words that the answer has to have.

    Attributes:
        node: id of the node.
        inputs: the wrong ones; `...` leaves one out.
        words: of the answer.
        by_host: whether ComfyUI refuses it before the node is asked.
    """

    node: str
    inputs: dict[str, Any]
    words: str
    by_host: bool = False


BAD = (
    Bad("SADSkewAttention", {"gamma": 3.5}, "bigger than max of 3.0", by_host=True),
    Bad("SADSkewAttention", {"gamma": -9}, "smaller than min of -2.0", by_host=True),
    Bad("SADSkewAttention", {"gamma": "much"}, "gamma", by_host=True),
    Bad("SADSkewAttention", {"gamma": None}, "gamma", by_host=True),
    Bad("SADSkewAttention", {"gamma": float("nan")}, "γ is nan at progress 0, but it must be a finite number"),
    Bad("SADSkewAttention", {"gamma": ...}, "Required input is missing: gamma", by_host=True),
    Bad("SADSkewAttention", {"model": ...}, "Required input is missing: model", by_host=True),
    Bad("SADSkewAttention", {"model": ["model", 4]}, "mismatch input_type(MODEL)", by_host=True),
    Bad("SADSkewAttention", {"beta": 99}, "bigger than max of 10.0", by_host=True),
    Bad("SADSkewAttention", {"beta": float("nan")}, "beta is nan, but it must be a finite number"),
    Bad("SADSkewAttention", {"norm": "lenght"}, "not in ['value', 'projected', 'input', 'none']", by_host=True),
    Bad("SADSkewAttention", {"adaptive": 1}, "not in ['off', 'gamma', 'gamma and beta']", by_host=True),
    Bad("SADSkewAttention", {"apply_to": "all"}, "not in ['both', 'cond', 'uncond']", by_host=True),
    Bad(
        "SADSkewAttention", {"start_percent": 0.8, "end_percent": 0.2}, "start_percent must be smaller than end_percent"
    ),
    Bad("SADSkewAttention", {"end_percent": 0.0}, "start_percent must be smaller than end_percent"),
    Bad("SADSkewAttention", {"blocks": "input.99"}, 'this model has no attention site "input.99"'),
    Bad("SADSkewAttention", {"blocks": "input.0-²"}, "this model has no attention site"),
    Bad("SADSkewAttention", {"blocks": "input.0-" + "9" * 5000}, "this model has no attention site"),
    Bad("SADSkewAttention", {"schedule": ["model", 4]}, "mismatch input_type(SAD_SCHEDULE)", by_host=True),
    Bad("SADSkewAttention", {"gamma_text": float("inf")}, "gamma_text", by_host=True),
    Bad("SADGammaSchedule", {"shape": "wave"}, "Value not in list: shape", by_host=True),
    Bad("SADGammaSchedule", {"start": 0.7, "end": 0.2}, "start must be smaller than end"),
    Bad("SADGammaSchedule", {"shape": "keyframes", "keyframes": ""}, "keyframes is empty"),
    Bad("SADGammaSchedule", {"shape": "keyframes", "keyframes": "soon:2"}, 'The keyframe "soon:2" is not understood'),
    Bad("SADGammaSchedule", {"shape": "keyframes", "keyframes": "0:1, 0:2"}, "rising order"),
    Bad("SADGammaSchedule", {"shape": "keyframes", "keyframes": "0:1e999"}, "finite"),
    Bad("SADGammaSchedule", {"shape": "values", "values": "1, much"}, "is not a list of numbers"),
    Bad("SADGammaSchedule", {"shape": "values", "values": 10**400}, "is not a list of numbers"),
    Bad("SADGammaSchedule", {"shape": "curve", "curve": "a curve"}, "is not a drawn curve"),
    Bad("SADGammaSchedule", {"shape": "curve", "curve": {"points": [["a", 1]]}}, "is not a drawn curve"),
    Bad("SADGammaSweep", {"values": ""}, "values has 0 gammas"),
    Bad("SADGammaSweep", {"values": "1, x"}, "is not a list of numbers"),
    Bad("SADGammaSweep", {"values": "1, nan"}, "γ is nan, but it must be a finite number"),
    Bad("SADGammaSweep", {"values": ",".join(["1"] * 5000)}, "values has 5000 gammas"),
    Bad("SADGammaSweep", {"seeds": 0}, "smaller than min of 1", by_host=True),
    Bad("SADGammaGrid", {"values": "0, 1, 2"}, "gamma"),
    Bad("SADDiversityReport", {"values": "0, 1, 2"}, "gamma"),
    Bad("SADStabilityProbe", {"every_nth_step": 0}, "smaller than min of 1", by_host=True),
    Bad("SADStabilityProbe", {"patterns": "keys"}, "not in ['value', 'input']", by_host=True),
    Bad("SADStabilityProbe", {"map_site": "output"}, "but at most 4 can be mapped"),
    Bad("SADStabilityProbe", {"blocks": "input", "map_site": "middle"}, "among the measured sites there is no"),
    Bad("SADStabilityPlot", {"layout": "map"}, "The trace has no map"),
    Bad("SADStabilityPlot", {"layout": "heads", "site": "nowhere"}, 'site is "nowhere", but it must be one of'),
    Bad("SADSaveStabilityTrace", {"filename_prefix": "../../etc/x"}, "must be a name inside ComfyUI's output folder"),
    Bad("SADSaveStabilityTrace", {"filename_prefix": "x" * 300}, "no part longer than 200 bytes"),
    Bad("SADSaveStabilityTrace", {"filename_prefix": "log.csv/trace"}, "its folder cannot be made"),
    Bad("SADLoadStabilityTrace", {"file": "../server.log"}, "must be a name inside ComfyUI's output folder"),
    Bad("SADLoadStabilityTrace", {"file": "nowhere.safetensors"}, "There is no file nowhere.safetensors"),
    Bad("SADLoadStabilityTrace", {"file": "log.csv"}, "is not a stability trace of this pack"),
)
TEXTS = (
    *("🦊" * 30, "שלום עולם", "\u202egnp.tnatsni\u202c", "a\0b", "x" * 200_000, "\ud800", "\udcff\udc80", "\ufeff"),
    *("e\u0301" * 60, "\r\n\t\v\f", "%s %d {0} {x!r} $\\frac{$ %year%", "<script>alert(1)</script>"),
    *("‚‘’„“”…", "\u2028\u2029", "İıſß", "٠:١", "NaN", "-", ".", "..", "0-", "-0", "1.2.3-4-5", ",,,", ":", "0:"),
    *("²³¼", "a" + "\u0300" * 500),
)
FIELDS: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("SADSkewAttention", {}, "blocks"),
    ("SADStabilityProbe", {}, "map_site"),
    ("SADGammaSchedule", {"shape": "keyframes"}, "keyframes"),
    ("SADGammaSchedule", {"shape": "values"}, "values"),
    ("SADGammaSweep", {}, "values"),
    ("SADStabilityPlot", {"layout": "heads"}, "site"),
    ("SADSaveStabilityTrace", {}, "filename_prefix"),
    ("SADLoadStabilityTrace", {}, "file"),
)


def run(budget: Budget) -> Ledger:
    """Try all of them on a server, as often as the budget has rounds."""
    from lab.campaign.servers import start

    ledger = Ledger()
    with start() as server:
        before = picture(server)
        for _seed in budget.seeds():
            try_bad_inputs(server, ledger)
            try_texts(server, ledger, list(itertools.product(FIELDS, TEXTS)))
        if not torch.equal(picture(server), before):
            ledger.fault("the plain picture after all of it is another one")
        if "Logging error" in server.log or "RuntimeWarning" in server.log:
            ledger.fault("the log of the server has an error of logging or of a coroutine")
    return ledger


def try_bad_inputs(server: ComfyUIServer, ledger: Ledger) -> None:
    """Queue every bad input and judge the answer."""
    (server.output / "log.csv").write_text("a file in the way")
    for bad in BAD:
        answer = answer_to(server, with_node(bad.node, **bad.inputs))
        label = f"{bad.node} {str(bad.inputs)[:80]}"
        if answer is None:
            ledger.fault(f"{label}: accepted")
        elif bad.words not in answer:
            ledger.fault(f"{label}: {answer[:400]!r} has no {bad.words!r}")
        elif not bad.by_host and not is_answer(answer):
            ledger.fault(f"{label}: {answer[:400]!r} is no plain sentence")
        else:
            ledger.counts["bad inputs refused by ComfyUI" if bad.by_host else "bad inputs refused by the node"] += 1


def try_texts(server: ComfyUIServer, ledger: Ledger, cases: list[Any]) -> None:
    """Put texts into fields: each is accepted, or refused in a sentence."""
    for (kind, fixed, field), text in cases:
        answer = answer_to(server, with_node(kind, **fixed, **{field: text}))
        if answer is None:
            ledger.counts["texts accepted"] += 1
        elif is_answer(answer):
            ledger.counts["texts refused"] += 1
        else:
            ledger.fault(f"{kind}.{field} = {ascii(text)[:60]}: {answer[:400]!a} is no plain sentence")


def answer_to(server: ComfyUIServer, nodes: Any) -> str | None:
    """Return the words with which a prompt is refused or fails, None where it runs."""
    try:
        server.run(nodes)
    except ServerError as refusal:
        text = str(refusal)
        return sentences_of(json.loads(text)) if text.startswith("{") else text.partition(": ")[2]
    return None


def sentences_of(refusal: dict[str, Any]) -> str:
    """Return what ComfyUI's editor shows of a refused prompt."""
    errors = [error for each in refusal["node_errors"].values() for error in each["errors"]]
    return "; ".join(f"{error['message']}: {error['details']}" for error in errors or [refusal["error"]])


def is_answer(text: str) -> bool:
    """Return whether an answer is one plain sentence. It may be long if it lists all sites of a model."""
    return is_one_sentence(text) or (is_one_sentence(text[:200] + ".") and len(text) < 700 and text.endswith("."))


def picture(server: ComfyUIServer) -> torch.Tensor:
    """Return the picture of the plain model."""
    return pictures_of(server, server.run(plain()))[0]
