"""The tiny models of lab/testing/families as ComfyUI nodes, so that a test can run workflows of large families.

Linked into the `custom_nodes` of a test's server, which finds the package `lab` through PYTHONPATH (see
lab/demo/comfyui_server.py); nothing of it ships.
"""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import ComfyExtension, io
from comfy_execution.graph_utils import GraphBuilder

from lab.testing.families.rows import HOSTED
from lab.testing.vision_models import tiny_clip_vision

CATEGORY = "symmetric attention fixtures"


def family_input() -> io.Combo.Input:
    return io.Combo.Input("family", options=list(HOSTED))


class TinyModelNode(io.ComfyNode):
    """A tiny model of the family, its weights drawn at random."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SADTinyModel", category=CATEGORY, inputs=[family_input()], outputs=[io.Model.Output()]
        )

    @classmethod
    def execute(cls, family: str) -> io.NodeOutput:
        return io.NodeOutput(HOSTED[family].build())


class TinyConditioningNode(io.ComfyNode):
    """A text that such a model takes, another one for every `name`."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SADTinyConditioning",
            category=CATEGORY,
            inputs=[family_input(), io.String.Input("name")],
            outputs=[io.Conditioning.Output()],
        )

    @classmethod
    def execute(cls, family: str, name: str) -> io.NodeOutput:
        return io.NodeOutput(HOSTED[family].conditioning(name))


class TinyLatentNode(io.ComfyNode):
    """A LATENT of the size the model was made for, as good as empty.

    The host would give one that is all zeros as many channels as the full-sized family has.
    """

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SADTinyLatent", category=CATEGORY, inputs=[family_input()], outputs=[io.Latent.Output()]
        )

    @classmethod
    def execute(cls, family: str) -> io.NodeOutput:
        return io.NodeOutput({"samples": torch.full((1, *HOSTED[family].latent), 1e-6)})


class GreyVae:
    """In place of a VAE: the first channel of a latent as a grey image, values squeezed into [0, 1]."""

    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        """Return images `(n, height, width, 3)`."""
        return latent[:, 0].sigmoid().unsqueeze(-1).expand(-1, -1, -1, 3)


class TinyVaeNode(io.ComfyNode):
    """A VAE for the latents of any family of images."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(node_id="SADTinyVae", category=CATEGORY, inputs=[], outputs=[io.Vae.Output()])

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(GreyVae())


class TinyAudioNode(io.ComfyNode):
    """The first two channels of a latent as a stereo AUDIO, values squeezed into [-1, 1]."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SADTinyAudio", category=CATEGORY, inputs=[io.Latent.Input("samples")], outputs=[io.Audio.Output()]
        )

    @classmethod
    def execute(cls, samples: dict[str, torch.Tensor]) -> io.NodeOutput:
        wave = samples["samples"][:, :2].tanh().repeat_interleave(256, dim=-1)
        return io.NodeOutput({"waveform": wave, "sample_rate": 44_100})


class TinyClipVisionNode(io.ComfyNode):
    """A tiny CLIP vision model, its weights drawn at random."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(node_id="SADTinyClipVision", category=CATEGORY, inputs=[], outputs=[io.ClipVision.Output()])

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(tiny_clip_vision())


class ExpandedSamplerNode(io.ComfyNode):
    """A node that makes a KSampler while the prompt runs, as loops and presets of other packs do."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        conditionings = [io.Conditioning.Input("positive"), io.Conditioning.Input("negative")]
        return io.Schema(
            node_id="SADExpandedSampler",
            category=CATEGORY,
            enable_expand=True,
            inputs=[io.Model.Input("model"), *conditionings, io.Latent.Input("latent_image"), io.Int.Input("steps")],
            outputs=[io.Latent.Output()],
        )

    @classmethod
    def execute(cls, steps: int, **wired: Any) -> io.NodeOutput:
        graph = GraphBuilder()
        widgets = {"seed": 4, "cfg": 2.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}
        sampler = graph.node("KSampler", **wired, **widgets, steps=steps)
        return io.NodeOutput(sampler.out(0), expand=graph.finalize())


class FixtureExtension(ComfyExtension):
    """Return the extension that ComfyUI loads."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [
            *(TinyModelNode, TinyConditioningNode, TinyLatentNode, TinyVaeNode, TinyAudioNode),
            *(TinyClipVisionNode, ExpandedSamplerNode),
        ]


async def comfy_entrypoint() -> ComfyExtension:
    return FixtureExtension()
