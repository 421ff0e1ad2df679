"""Draws samples of the demo model on one sheet, one row for each category.

    python -m lab.demo.contact_sheet                   # writes demo/samples.png

Every category is drawn from the same seeds, so a column shows what the same noise becomes in each of them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from lab.demo.model import MODEL_FILE, LatentModel, load_model
from lab.demo.sampling import sample, sample_latents
from lab.folders import expand_path


def tile(pictures: Tensor, columns: int, zoom: int = 3, gap: int = 4) -> Image.Image:
    """One image of N pictures (N, 3 or 1, H, W) in [0, 1], row after row, enlarged without smoothing, on light grey."""
    enlarged = F.interpolate(pictures.expand(-1, 3, -1, -1), scale_factor=zoom, mode="nearest")
    bordered = F.pad(enlarged, (0, gap, 0, gap), value=0.8)
    rows = [torch.cat(list(row), dim=-1) for row in bordered.split(columns)]
    rows[-1] = F.pad(rows[-1], (0, rows[0].shape[-1] - rows[-1].shape[-1]), value=0.8)
    sheet = F.pad(torch.cat(rows, dim=-2), (gap, 0, gap, 0), value=0.8)
    return Image.fromarray((sheet * 255).round().byte().permute(1, 2, 0).numpy().astype(numpy.uint8))


def draw_samples(
    model: LatentModel,
    path: Path,
    per_category: int = 16,
    guidance: float = 2.0,
    steps: int = 25,
    latents_of: Callable[..., Tensor] = sample_latents,
) -> None:
    """Writes a sheet with a row of `per_category` samples for each category, seeds 0, 1, 2, ... in every row."""
    count = len(model.context) - 1  # the last row of the context means no category
    categories = torch.arange(count).repeat_interleave(per_category)
    seeds = list(range(per_category)) * count
    tile(sample(model, categories, seeds, steps, guidance, latents_of=latents_of).cpu(), columns=per_category).save(
        path
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw samples of the demo model.")
    parser.add_argument("--model", type=expand_path, default=MODEL_FILE)
    parser.add_argument("--output", type=expand_path, default=Path(__file__).with_name("samples.png"))
    parser.add_argument("--per-category", type=int, default=16)
    parser.add_argument("--guidance", type=float, default=2.0)
    options = parser.parse_args()
    draw_samples(load_model(options.model), options.output, options.per_category, guidance=options.guidance)


if __name__ == "__main__":
    main()
