"""The node that loads the small model of this project: Demo Model (SAD)."""

from __future__ import annotations

from comfy_api.latest import io

from ..demo_model.shape import CATEGORIES
from .host import demo_model
from .shared import CATEGORY, SEARCH_ALIASES


class DemoModelNode(io.ComfyNode):
    """The parts of the demo model out: all that a graph takes from a checkpoint, its texts and an empty LATENT."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Widgets, sockets and what they mean."""
        return io.Schema(
            node_id="SADDemoModel",
            display_name="Demo Model (SAD)",
            category=CATEGORY,
            description=(
                "Loads the small demo model of this project. It draws tiny images on any CPU, so that you can try "
                "every template without a checkpoint. Its file goes into models/checkpoints. If it is missing, the "
                "node says where to get it."
            ),
            search_aliases=[*SEARCH_ALIASES, "demo", "example", "no checkpoint", "loader"],
            inputs=[
                io.Combo.Input(
                    "picture",
                    options=list(CATEGORIES),
                    default=CATEGORIES[0],
                    tooltip="The image to draw. The model knows only these words.",
                    optional=True,
                ),
                io.Int.Input(
                    "count",
                    default=1,
                    min=1,
                    max=64,
                    tooltip="The number of images, each from different noise.",
                    optional=True,
                ),
            ],
            outputs=[
                io.Model.Output(
                    "model", display_name="model", tooltip="Use it in place of the MODEL of Load Checkpoint."
                ),
                io.Conditioning.Output(
                    "positive",
                    display_name="positive",
                    tooltip="The conditioning for the chosen image. Use it in place of CLIP Text Encode.",
                ),
                io.Conditioning.Output(
                    "negative",
                    display_name="negative",
                    tooltip="A conditioning for no particular image. Wire it to negative of the sampler.",
                ),
                io.Vae.Output("vae", display_name="vae", tooltip="Wire it to VAE Decode and VAE Encode."),
                io.Latent.Output(
                    "latent",
                    display_name="latent",
                    tooltip="An empty latent of the model's size. Use it in place of Empty Latent Image.",
                ),
            ],
        )

    @classmethod
    def execute(cls, picture: str = CATEGORIES[0], count: int = 1) -> io.NodeOutput:
        """Return the parts of the model, read from its file."""
        weights = demo_model.read_weights(demo_model.find_file())
        return io.NodeOutput(
            demo_model.unet_of(weights),
            demo_model.conditioning_of(weights, picture),
            demo_model.conditioning_of(weights, None),
            demo_model.vae_of(weights),
            demo_model.empty_latent(count),
        )

    @classmethod
    def fingerprint_inputs(cls, **_: object) -> str:
        """Return another value when the file changes, so that ComfyUI reads it again."""
        return demo_model.fingerprint()
