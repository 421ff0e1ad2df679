"""The node that draws several seeds and finishes only the best of them: Best Of Sampler (SAD)."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..sad_core.evaluation.selection import CHOICES
from ..sad_core.stability.measures import TRACE_MEASURES
from ..sad_core.stability.score import StabilityScore
from .host.best_of.best_of import BestOfSettings, sample_best
from .host.browser import show_on_node
from .shared import CATEGORY, SEARCH_ALIASES, Trace, progress_widget

MOST_CANDIDATES = 64


class BestOfSamplerNode(io.ComfyNode):
    """The inputs of a sampler in, the LATENT of the best of several seeds out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Widgets, sockets and what they mean."""
        return io.Schema(
            node_id="SADBestOfSampler",
            display_name="Best Of Sampler (SAD)",
            category=CATEGORY,
            description=(
                "Starts several seeds, compares them early in the run, and finishes only the most stable or the most "
                "different ones. Each kept image is the same as if its seed were sampled without the others. With "
                "max_tries the node tries new seeds until the score is good enough. Wire it like SamplerCustomAdvanced."
            ),
            search_aliases=[*SEARCH_ALIASES, "best of n", "gate", "seed search", "retry", "rank"],
            not_idempotent=True,  # it shows its text on the node that ran
            inputs=[
                io.Noise.Input("noise", tooltip="RandomNoise. Its seed and the following ones are the candidates."),
                io.Guider.Input(
                    "guider",
                    tooltip=(
                        "CFGGuider, BasicGuider or another guider that is built on CFGGuider. To choose by stability, "
                        "put a Stability Probe (SAD) between the model and the guider."
                    ),
                ),
                io.Sampler.Input("sampler", tooltip="Any sampler except dpm_adaptive and ar_video."),
                io.Sigmas.Input("sigmas", tooltip="The noise levels of the run."),
                io.Latent.Input("latent_image", tooltip="The latent of one image. Every candidate starts from it."),
                io.Combo.Input(
                    "choose",
                    options=list(CHOICES),
                    default=CHOICES[0],
                    optional=True,
                    tooltip=(
                        "most stable: the highest scores of the probe. most different: those that are farthest apart. "
                        "stable and different: the most different ones of the more stable half."
                    ),
                ),
                io.Int.Input(
                    "candidates",
                    default=8,
                    optional=True,
                    min=1,
                    max=MOST_CANDIDATES,
                    tooltip="Number of seeds that are started in each try.",
                ),
                io.Int.Input(
                    "keep",
                    default=2,
                    optional=True,
                    min=1,
                    max=MOST_CANDIDATES,
                    tooltip="Number of images that are finished. Choosing different ones needs at least 2.",
                ),
                progress_widget(
                    "decide_at",
                    default=0.3,
                    optional=True,
                    tooltip=(
                        "Share of the steps after which the images are chosen, between 0 and 1. An earlier choice is "
                        "cheaper, a later one usually more reliable."
                    ),
                ),
                io.Int.Input(
                    "rounds",
                    default=1,
                    optional=True,
                    min=1,
                    max=8,
                    advanced=True,
                    tooltip=(
                        "Number of decisions up to decide_at. Above 1, some candidates are dropped earlier, which "
                        "costs less. With 2 rounds, 8 candidates become 4 and then 2."
                    ),
                ),
                io.Combo.Input(
                    "measure",
                    options=list(TRACE_MEASURES),
                    default="alignment",
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "The measure of the probe that gives the stability score. A higher score is more stable, so "
                        "energy and instability count negatively. depth and relative curvature need "
                        "depth_and_curvature on the probe."
                    ),
                ),
                io.String.Input(
                    "sites",
                    default="",
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "The score is the mean over these attention sites: prefixes of addresses, separated by "
                        "commas, such as middle, output.5. Empty means every site that the probe measures."
                    ),
                ),
                io.Int.Input(
                    "max_tries",
                    default=1,
                    optional=True,
                    min=1,
                    max=100,
                    advanced=True,
                    tooltip=(
                        "Above 1, this switches on the gate: the node starts new seeds until all kept images of a try "
                        "reach the threshold, with at most this many tries. If no try does, it finishes the best "
                        "images so far, and the summary says so."
                    ),
                ),
                io.Float.Input(
                    "threshold",
                    default=0.0,
                    optional=True,
                    min=-1e6,
                    max=1e6,
                    step=0.001,
                    round=False,
                    advanced=True,
                    tooltip="The lowest score that passes the gate. The table of a run shows which scores are usual.",
                ),
                io.Int.Input(
                    "images_at_once",
                    default=0,
                    optional=True,
                    min=0,
                    max=MOST_CANDIDATES,
                    advanced=True,
                    tooltip=(
                        "The largest number of images in one model call. 0 means as many as fit into memory. 1 is "
                        "slower and calls the model exactly as for a single seed."
                    ),
                ),
                io.Vae.Input(
                    "vae",
                    optional=True,
                    tooltip=(
                        "Wire it together with clip_vision to compare the images as they look so far, not the latents."
                    ),
                ),
                io.ClipVision.Input(
                    "clip_vision",
                    optional=True,
                    tooltip="Wire it together with vae to compare the images by their content.",
                ),
            ],
            outputs=[
                io.Latent.Output(
                    "latent", display_name="latent", tooltip="The kept images, in the order of their seeds."
                ),
                io.Float.Output(
                    "scores",
                    display_name="scores",
                    is_output_list=True,
                    tooltip=(
                        "The score of each kept image: its stability or, for most different, its distance to the "
                        "nearest other kept image."
                    ),
                ),
                io.String.Output(
                    "table", display_name="table", tooltip="CSV: every candidate, its seed and its score."
                ),
                Trace.Output(
                    "trace",
                    display_name="trace",
                    tooltip="The measurements of the probe. Wire it to Stability Plot (SAD).",
                ),
                io.String.Output(
                    "summary",
                    display_name="summary",
                    tooltip="The kept images, the result of the gate, and the cost.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        noise: Any,
        guider: Any,
        sampler: Any,
        sigmas: Any,
        latent_image: dict[str, Any],
        choose: str = CHOICES[0],
        candidates: int = 8,
        keep: int = 2,
        decide_at: float = 0.3,
        rounds: int = 1,
        measure: str = "alignment",
        sites: str = "",
        max_tries: int = 1,
        threshold: float = 0.0,
        images_at_once: int = 0,
        vae: Any = None,
        clip_vision: Any = None,
    ) -> io.NodeOutput:
        """Return the kept images with their scores, the table of all candidates, the trace and a summary."""
        settings = BestOfSettings(
            choose,
            candidates,
            keep,
            decide_at,
            rounds,
            StabilityScore(measure, sites),
            max_tries,
            threshold,
            images_at_once,
        )
        found = sample_best(settings, noise, guider, sampler, sigmas, latent_image, vae, clip_vision)
        show_on_node(found.summary, cls.hidden.unique_id)
        return io.NodeOutput(found.latent, found.scores, found.table, found.trace, found.summary)
