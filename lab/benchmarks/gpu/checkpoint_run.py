"""Run Measure Your Checkpoint whole on a card, with an SDXL of random weights, and say what its budget came to.

    python -m lab.benchmarks.gpu.checkpoint_run --comfyui ~/ComfyUI            # on a card, 1.5 minutes
    python -m lab.benchmarks.gpu.checkpoint_run --comfyui ~/ComfyUI --tiny     # on the CPU, to see that it runs

The node gets a UNet and a VAE of full width and samples 1024² in half precision. Only torch and a ComfyUI folder are
needed; without matplotlib the sheet is an image of a sentence.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from lab.benchmarks.gpu.whole_steps import TINY_UNET, build
from lab.benchmarks.sampling_step import MODELS
from lab.folders import expand_path
from lab.testing.in_process_host import load_pack, start_host

DECODER: dict[str, Any] = {
    "double_z": True,
    "z_channels": 4,
    "resolution": 256,
    "in_channels": 3,
    "out_ch": 3,
    "ch": 128,
    "ch_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "attn_resolutions": [],
    "dropout": 0.0,
}
TINY = {"steps": 1, "most_seeds": 4}  # widgets


class RandomTexts:
    """In place of a CLIP: random tokens for each text, in the shape of SDXL's."""

    def __init__(self, width: int):
        self.width = width

    def tokenize(self, text: str) -> str:
        """The text as it is."""
        return text

    def encode_from_tokens_scheduled(self, text: str) -> list[Any]:
        """A CONDITIONING of 77 tokens."""
        drawn = torch.Generator().manual_seed(len(text))
        tokens = torch.randn(1, 77, self.width, generator=drawn)
        return [[tokens, {"pooled_output": torch.randn(1, 1280, generator=drawn)}]]


def random_vae(tiny: bool) -> Any:
    """A VAE of SDXL's class with random weights."""
    import comfy.sd
    from comfy.ldm.models.autoencoder import AutoencoderKL

    decoder = {**DECODER, "ch": 32} if tiny else DECODER
    weights = AutoencoderKL(ddconfig=DECODER, decoder_ddconfig=decoder, embed_dim=4).state_dict()
    for name, weight in weights.items():
        if weight.dim() > 1:
            weight.normal_(0, weight[0].numel() ** -0.5)
        else:
            weight.fill_(0.0 if name.endswith("bias") else 1.0)
    return comfy.sd.VAE(sd=weights)


def run(minutes: float, device: torch.device, tiny: bool, **widgets: Any) -> str:
    """Run the node and return its plan, its summary and its time in lines."""
    import folder_paths
    from symmetric_attention.nodes import measure_checkpoint

    from lab.testing.run_nodes import execute

    small = {**MODELS["SDXL"], **TINY_UNET} if tiny else MODELS["SDXL"]
    model = build("SDXL", small, device, torch.float32 if tiny else torch.float16)
    side = 4 if tiny else 128
    vae, clip = random_vae(tiny), RandomTexts(small["context_dim"])
    said: list[str] = []
    with patch.object(measure_checkpoint, "show_on_node", lambda text, node_id: said.append(text)):
        started = time.perf_counter()
        _, _, summary, file, _ = execute(
            measure_checkpoint.MeasureCheckpointNode,
            model=model,
            vae=vae,
            latent_image={"samples": torch.zeros(1, 4, side, side)},
            clip=clip,
            minutes=minutes,
            **widgets,
        )
        spent = (time.perf_counter() - started) / 60
    trial = json.loads((Path(folder_paths.get_output_directory()) / file).read_text(encoding="utf-8"))
    pictures = sum(each["n"] + each["broken"] for part in ("choice", "report") for each in trial[part])
    cost = f"{pictures} pictures in {trial['took']:.3g} minutes, the rest around them"
    return "\n".join([*said[:-1], summary, f"Spent {spent:.3g} of {minutes:g} minutes, {spent / minutes:.0%}: {cost}."])


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Run Measure Your Checkpoint on a card, with random weights.")
    parser.add_argument("--comfyui", type=expand_path, required=True, help="a ComfyUI folder")
    parser.add_argument("--minutes", type=float, default=1.5, help="the budget (default 1.5)")
    parser.add_argument("--steps", type=int, default=20, help="steps per image (default 20)")
    parser.add_argument("--tiny", action="store_true", help="a tiny model and the fewest pictures, on the CPU")
    options = parser.parse_args(arguments)
    if not options.tiny and not torch.cuda.is_available():
        parser.error("there is no card that PyTorch can use; --tiny runs on the CPU")
    device = torch.device("cpu" if options.tiny else "cuda")
    start_host(options.comfyui, "pytorch", on_cpu=options.tiny)
    load_pack()
    import folder_paths

    torch.set_grad_enabled(False)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as output:
        folder_paths.set_output_directory(output)
        if options.tiny:
            print(run(60.0, device, tiny=True, **TINY))
        else:
            print(run(options.minutes, device, tiny=False, steps=options.steps))


if __name__ == "__main__":
    main()
