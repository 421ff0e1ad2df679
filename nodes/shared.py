"""The common parts of the nodes: category, search words, link types, and inputs that several nodes have."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from .host.settings import HIGHEST_GAMMA, LOWEST_GAMMA

CATEGORY = "model/patch/symmetric attention"
# The editor ranks nodes that it finds by these words by how near their names are in length to what was typed, so a word
# belongs to all nodes only where any of them may come first.
SEARCH_ALIASES = ["SAD", "skew"]
STABILITY_ALIASES = [*SEARCH_ALIASES, "hopfield"]
# The name of the pack, and what users want rather than what a node is called: these lead to the one node that does it.
GOAL_ALIASES = [
    *("symmetric", "symmetric attention", "Symmetric Attention (SAD)", "attention guidance", "circulation"),
    *("diversity", "variety", "variation", "same face", "seed variance", "creativity"),
    *("fidelity", "detail", "composition", "gamma", "beta"),
]
SWEEP_ALIASES = [*SEARCH_ALIASES, "sweep", "xy plot", "grid", "compare"]

PROBE = "this Stability Probe (SAD)"
# What the readers of a handle say where none is wired: the editor leaves the links of bypassed and muted nodes out.
NOTHING_PATCHED = (
    'Nothing is patched here: no Skew Attention (SAD) or Creativity (SAD) is wired to "report", or it is bypassed or '
    "muted."
)
NOTHING_MEASURED = (
    'Nothing is measured here: no node that gives a trace, such as Stability Probe (SAD), is wired to "trace", or it '
    "is bypassed or muted."
)

Report = io.Custom("SAD_REPORT")
Schedule = io.Custom("SAD_SCHEDULE")
Trace = io.Custom("SAD_TRACE")
Baseline = io.Custom("SAD_BASELINE")


def gamma_widget(name: str, *, default: float, tooltip: str, **options: Any) -> io.Input:
    """Return the widget of a γ; all of them have one range.

    Args:
        name: id of the input.
        default: its value on a new node.
        tooltip: text for the user.
        options: further arguments of `io.Float.Input`.
    """
    limits = {"min": LOWEST_GAMMA, "max": HIGHEST_GAMMA, "step": 0.01, "round": 0.001}
    return io.Float.Input(name, default=default, **limits, tooltip=tooltip, **options)


def progress_widget(name: str, *, default: float, tooltip: str, **options: Any) -> io.Input:
    """Return the widget of a point in the run, 0 for its start and 1 for its end; arguments as `gamma_widget`."""
    return io.Float.Input(name, default=default, min=0.0, max=1.0, step=0.01, round=0.001, tooltip=tooltip, **options)


def unverified_widget(tooltip: str) -> io.Input:
    """Return the switch for attention of which it is not verified that queries and keys are the same tokens."""
    return io.Boolean.Input("act_where_unverified", default=False, tooltip=tooltip, optional=True, advanced=True)


def after_input(tooltip: str) -> io.Input:
    """Return the input of a node that waits for the sampler: its LATENT, or an IMAGE made from it.

    It is optional, as the handle beside it, so that a graph with bypassed or muted nodes runs. ComfyUI lists required
    inputs before optional ones, so in these nodes all inputs are optional, which keeps their order.
    """
    return io.MultiType.Input("after", types=[io.Latent, io.Image], tooltip=tooltip, optional=True)


def sweep_inputs(images_tooltip: str) -> list[io.Input]:
    """Return the inputs of a node that gathers the runs of a sweep: their images, and the γ of each."""
    return [
        io.Image.Input("images", tooltip=images_tooltip),
        io.Float.Input("gamma", force_input=True, tooltip="The gamma output of Gamma Sweep (SAD)."),
    ]


def clip_vision_input() -> io.Input:
    """Return the input of a node that compares the images of a sweep: where they are compared."""
    return io.ClipVision.Input(
        "clip_vision",
        optional=True,
        tooltip=(
            "Compares images by their content, in the embeddings of this model (Load CLIP Vision). Without it they "
            "are compared as thumbnails, only by colour and layout."
        ),
    )
