"""What all nodes of the pack share: category, search words and the types of their links."""

from __future__ import annotations

from comfy_api.latest import io

CATEGORY = "model/patch/symmetric attention"
SEARCH_ALIASES = [
    "SAD",
    "skew",
    "circulation",
    "hopfield",
    "diversity",
    "variety",
    "fidelity",
    "seed variance",
    "attention guidance",
]

Report = io.Custom("SAD_REPORT")
Schedule = io.Custom("SAD_SCHEDULE")
Trace = io.Custom("SAD_TRACE")
