"""What all nodes of the pack share: category, search words and the types of their links."""

from __future__ import annotations

from comfy_api.latest import io

CATEGORY = "model/patch/symmetric attention"
SEARCH_ALIASES = ["SAD", "skew", "circulation", "hopfield", "attention guidance"]
# What users want rather than what a node is called: these words lead to the one node that does it.
GOAL_ALIASES = ["diversity", "variety", "fidelity", "seed variance"]

GAMMA = {"min": -2.0, "max": 3.0, "step": 0.01, "round": 0.001}  # the widget of every gamma
PERCENT = {"min": 0.0, "max": 1.0, "step": 0.01, "round": 0.001}  # of every place in the run

Report = io.Custom("SAD_REPORT")
Schedule = io.Custom("SAD_SCHEDULE")
Trace = io.Custom("SAD_TRACE")
