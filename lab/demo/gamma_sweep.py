"""Show the effect of γ on the demo model: one image with a row per γ and a column per seed, and a table.

python -m lab.demo.gamma_sweep                           # through diffusers, no ComfyUI
python -m lab.demo.gamma_sweep --comfyui ~/ComfyUI       # the same through a real ComfyUI server, and compares the two
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, load_file
from torch import Tensor

from demo_model.bands import decode
from lab.demo.comfyui_server import ComfyUIServer, interpreter_of
from lab.demo.model import CATEGORIES, MODEL_FILE, load_model
from lab.demo.sampling import sample
from lab.folders import expand_path
from lab.moving_line import MovingLine
from sad_core import set_skew_attention

GAMMAS = (-1.0, 0.0, 0.5, 1.0, 1.5, 2.0, 3.0)
SEEDS_PER_CATEGORY = 3
STEPS = 25  # calls of the model for a row, whose pictures are one batch
GUIDANCE = 2.0
LARGEST_DIFFERENCE = 1e-3
NEXT = """
Next: copy this folder into custom_nodes of your ComfyUI as symmetric-attention, start ComfyUI, and open Templates,
symmetric-attention. README.md says more under "Install". The same pictures by a ComfyUI: make demo COMFYUI=~/ComfyUI"""


def sweep_in_diffusers(gammas: Sequence[float], categories: Sequence[int], seeds: Sequence[int], beta: float) -> Tensor:
    """Pictures `(γ, seed, 3, 32, 32)` in [0, 1], sampled by diffusers with sad_core in its self-attention."""
    model = load_model()
    line = MovingLine(sys.stderr)
    rows = []
    for number, gamma in enumerate(gammas, 1):
        set_skew_attention(model.unet, gamma=gamma, beta=beta)
        row = f"γ {gamma:g}, row {number} of {len(gammas)}"
        with model.unet.register_forward_hook(_counting(line, row)):
            rows.append(sample(model, categories, seeds, steps=STEPS, guidance=GUIDANCE))
        line.clear()
        print(f"{row}: {len(seeds)} pictures", flush=True)
    return torch.stack(rows)


def _counting(line: MovingLine, row: str) -> Callable[..., None]:
    """A hook of the network that shows in `line` how many steps of a row are done."""
    steps = itertools.count(1)

    def show(*_: object) -> None:
        line.show(f"{row}: step {next(steps)} of {STEPS}")

    return show


def workflow(
    gamma: float | None, category: str, seed: int, beta: float = 1.0, steps: int = STEPS, nonce: int = 0
) -> dict[str, dict[str, Any]]:
    """The same picture as a ComfyUI workflow in API format; γ None leaves the Skew Attention node out.

    A `nonce` that was not used before has the server sample anew where it would take the picture from its cache. The
    editor knows no such input and drops it.
    """
    nodes: dict[str, dict[str, Any]] = {
        "model": {"class_type": "SADDemoModel", "inputs": {"picture": category, "count": 1}},
        "sampler": {
            "class_type": "KSampler",
            "inputs": {
                "model": ["model", 0],
                "positive": ["model", 1],
                "negative": ["model", 2],
                "latent_image": ["model", 4],
                "seed": seed,
                "steps": steps,
                "cfg": GUIDANCE,
                "sampler_name": "euler",
                "scheduler": "simple",
                "denoise": 1.0,
                "nonce": nonce,  # no input of the node: ComfyUI passes it on to nobody, but samples anew for another
            },
        },
        "decode": {"class_type": "VAEDecode", "inputs": {"samples": ["sampler", 0], "vae": ["model", 3]}},
        "numbers": {"class_type": "SaveLatent", "inputs": {"samples": ["sampler", 0], "filename_prefix": "numbers"}},
    }
    if gamma is not None:
        nodes["skew"] = {
            "class_type": "SADSkewAttention",
            "inputs": {"model": ["model", 0], "gamma": gamma, "beta": beta, "adaptive": "off", "norm": "value"}
            | {"blocks": "", "start_percent": 0.0, "end_percent": 1.0, "apply_to": "both"},
        }
        nodes["sampler"]["inputs"]["model"] = ["skew", 0]
    return nodes


def enlarged(images: list[Any], times: int) -> dict[str, Any]:
    """A node that repeats the pixels of a workflow's pictures, so that people can see them."""
    side = 32 * times
    widgets = {"upscale_method": "nearest-exact", "width": side, "height": side, "crop": "disabled"}
    return {"class_type": "ImageScale", "inputs": {"image": images, **widgets}}


def pictures_of(server: ComfyUIServer, outputs: dict[str, Any]) -> list[Tensor]:
    """The pictures `(N, 3, 32, 32)` in [0, 1] of every batch of a run, from its latents, which lose no bits."""
    weights = load_file(MODEL_FILE)
    whitening = weights["latent_mean"], weights["latent_std"]
    batches = [load(server.download(each["filename"]))["latent_tensor"] for each in outputs["numbers"]["latents"]]
    return [decode(latents, *whitening).clamp(0, 1) for latents in batches]


def picture_of(server: ComfyUIServer, prompt: dict[str, Any]) -> Tensor:
    """Run a workflow of ours and fetch its picture, `(3, 32, 32)` in [0, 1]."""
    (batch,) = pictures_of(server, server.run(prompt))
    return batch[0]


def sweep_in_comfyui(
    comfyui: Path, gammas: Sequence[float], categories: Sequence[int], seeds: Sequence[int], beta: float
) -> Tensor:
    """Pictures as `sweep_in_diffusers` gives them, each made by a workflow queued in a real ComfyUI server."""
    rows = []
    with ComfyUIServer(comfyui, interpreter_of(comfyui)) as server:
        for gamma in gammas:
            prompts = [
                workflow(gamma, CATEGORIES[category], seed, beta)
                for category, seed in zip(categories, seeds, strict=True)
            ]
            rows.append(torch.stack([picture_of(server, prompt) for prompt in prompts]))
            print(f"ComfyUI, γ {gamma:g}: {len(seeds)} pictures", flush=True)
    return torch.stack(rows)


def draw(pictures: Tensor, gammas: Sequence[float], categories: Sequence[int], path: Path) -> None:
    """Write the picture: rows γ, columns seeds, the row of the plain model marked."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    rows, columns = pictures.shape[:2]
    layout = ConstrainedLayoutEngine(w_pad=0.01, h_pad=0.01, wspace=0.01, hspace=0.01)
    figure = Figure(figsize=(0.95 * columns + 1.3, 0.95 * rows + 0.5), dpi=110, layout=layout)
    cells = figure.subplots(rows, columns, squeeze=False)
    for row, gamma in enumerate(gammas):
        for column in range(columns):
            cell = cells[row][column]
            cell.imshow(pictures[row, column].movedim(0, -1).numpy(), interpolation="nearest")
            cell.set(xticks=[], yticks=[])
            for edge in cell.spines.values():
                edge.set(visible=gamma == 1.0, color="#0072B2", linewidth=2)
        label = f"γ = {gamma:g}" + ("\nunpatched model" if gamma == 1.0 else "")
        cells[row][0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=10)
    for column, category in enumerate(categories):
        if column == 0 or category != categories[column - 1]:
            cells[0][column].set_title(CATEGORIES[category], loc="left", fontsize=10)
    FigureCanvasAgg(figure).print_png(path)


def table(pictures: Tensor, gammas: Sequence[float], categories: Sequence[int]) -> str:
    """γ against how far pictures moved and how far the seeds of a category lie apart, as root mean square of pixels."""
    plain = pictures[list(gammas).index(1.0)]
    lines = ["    γ   moved from γ = 1   seeds apart", "-----   ----------------   -----------"]
    for gamma, row in zip(gammas, pictures, strict=True):
        moved = (row - plain).square().mean(dim=(1, 2, 3)).sqrt().mean()
        lines.append(f"{gamma:5g}   {moved:16.4f}   {spread(row, categories):11.4f}")
    return "\n".join(lines)


def spread(pictures: Tensor, categories: Sequence[int]) -> float:
    """Mean distance, root mean square of pixels, between two pictures `(N, 3, 32, 32)` of the same category."""
    labels = torch.as_tensor(categories)
    distances = []
    for label in labels.unique():
        same = pictures[labels == label].flatten(1)
        distances.append(torch.pdist(same) / same.shape[1] ** 0.5)
    return float(torch.cat(distances).mean())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comfyui", type=expand_path, help="run the same in this ComfyUI folder too and compare")
    parser.add_argument("--beta", type=float, default=1.0, help="1 is the pure γ knob (default)")
    parser.add_argument("--output", type=expand_path, default="gamma_sweep.png")
    options = parser.parse_args()
    seeds = list(range(SEEDS_PER_CATEGORY * len(CATEGORIES)))
    categories = [index // SEEDS_PER_CATEGORY for index in seeds]

    pictures = sweep_in_diffusers(GAMMAS, categories, seeds, options.beta)
    draw(pictures, GAMMAS, categories, options.output)
    print(f"\n{table(pictures, GAMMAS, categories)}\n\nThe picture: {options.output}")
    if options.comfyui is None:
        print(NEXT)
        return 0
    in_comfyui = sweep_in_comfyui(options.comfyui, GAMMAS, categories, seeds, options.beta)
    difference = float((in_comfyui - pictures).abs().max())
    agrees = difference <= LARGEST_DIFFERENCE
    print(f"ComfyUI and diffusers differ by at most {difference:.1e} a pixel: {'they agree' if agrees else 'TOO FAR'}.")
    return 0 if agrees else 1


if __name__ == "__main__":
    sys.exit(main())
