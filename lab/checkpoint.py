"""Measure what γ is worth on a checkpoint of diffusers, as Measure Your Checkpoint (SAD) does in ComfyUI.

    python -m lab.checkpoint MODEL                              # a folder of a pipeline; fifteen minutes
    python -m lab.checkpoint MODEL --minutes 60 --steps 30 --cfg 5 --prompts mine.txt --output results

It chooses a γ on some seeds and reports it on others, and writes `own.trial.json`, which can be sent in, and
`own.sheet.jpg` beside it. Nothing is downloaded. Switching guidance off in the first steps, temporal score
rescaling and the probe are available only in ComfyUI. A window of γ is counted in steps. Pictures are not kept, so a
run that is stopped begins anew.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from lab.folders import expand_path
from lab.testing.in_process_host import table_of_pack
from sad_core import set_skew_attention
from sad_core.evaluation.checkpoint_numbers import first_numbers, some_vectors
from sad_core.evaluation.measures import PIXELS
from sad_core.evaluation.trial.course import Course
from sad_core.evaluation.trial.pictures import Picture
from sad_core.evaluation.trial.plan import MOST_SEEDS, SEEDS_A_PROMPT
from sad_core.evaluation.trial.prompts import PROMPTS, read_prompts
from sad_core.evaluation.trial.result import Sampling, Trial
from sad_core.evaluation.trial.result_file import SUFFIX, save_trial
from sad_core.evaluation.trial.ways import Way
from sad_core.evaluation.trial.words import summary_of

LEFT_OUT = (
    "Switching guidance off in the first steps, temporal score rescaling and the probe are available only in ComfyUI."
)
INDEX = "model_index.json"  # of a folder that a pipeline was saved in
QUALITY = 92
clock = time.perf_counter


class PipelineSource:
    """The pictures of a pipeline.

    Args:
        pipeline: of diffusers, on its device.
        prompt: given the number of a prompt and how many pictures, what the pipeline is called with for it.
        steps: of a picture.
        options: what else the pipeline is called with, such as `guidance_scale`.
        at_once: the most pictures of a call.
    """

    def __init__(
        self,
        pipeline: Any,
        prompt: Callable[[int, int], Mapping[str, Any]],
        steps: int,
        options: Mapping[str, Any],
        at_once: int = SEEDS_A_PROMPT,
    ):
        self.pipeline = pipeline
        self.prompt = prompt
        self.steps = steps
        self.options = dict(options)
        self.at_once = at_once
        self._warm: set[Way] = set()

    @property
    def network(self) -> Any:
        """The model whose attention is turned."""
        return network_of(self.pipeline)

    def prepare(self, prompts: int) -> None:
        """Do nothing: the pipeline is loaded, and encodes a prompt whenever it is called."""

    def expect(self, pictures: int) -> None:
        """Do nothing: the pipeline shows its steps."""

    def draw(self, way: Way, prompt: int, seeds: Sequence[int]) -> list[Picture]:
        """Return the pictures of a block of seeds; a first step is thrown away before the first ones of a way."""
        found = []
        for begin in range(0, len(seeds), self.at_once):
            batch = seeds[begin : begin + self.at_once]
            if way not in self._warm:
                self._sample(way, prompt, batch, steps=1).cpu()  # which waits for the device
                self._warm.add(way)
            started = clock()
            images = self._sample(way, prompt, batch, self.steps).cpu()
            seconds = (clock() - started) / len(batch)
            found += [Picture.of(image.movedim(0, -1), seconds) for image in images]
        return found

    def _sample(self, way: Way, prompt: int, seeds: Sequence[int], steps: int) -> Tensor:
        """Return images `(n, 3, height, width)` in [0, 1]."""
        windowed = (
            {} if (way.start, way.end) == (0.0, 1.0) else {"callback_on_step_end": partial(self._turn, way, steps)}
        )
        self._turn_for(way, steps, 0)
        try:
            images: Tensor = self.pipeline(
                **self.prompt(prompt, len(seeds)),
                num_inference_steps=steps,
                generator=[torch.Generator().manual_seed(seed) for seed in seeds],
                output_type="pt",
                **windowed,
                **self.options,
            ).images
        finally:
            set_skew_attention(self.network, gamma=1.0)
        return images

    def _turn(
        self, way: Way, steps: int, pipeline: Any, step: int, timestep: Any, given: dict[str, Any]
    ) -> dict[str, Any]:
        self._turn_for(way, steps, step + 1)
        return {}

    def _turn_for(self, way: Way, steps: int, step: int) -> None:
        acts = way.start * steps <= step < way.end * steps
        set_skew_attention(self.network, gamma=way.gamma if acts else 1.0, beta=way.beta)


def load_pipeline(folder: Path) -> Any:
    """Return the pipeline of a folder, on the card where there is one and there in half precision.

    Raises:
        ValueError: no pipeline was saved in the folder.
    """
    from diffusers import DiffusionPipeline

    index = folder / INDEX
    if not index.is_file():
        raise ValueError(f"{folder} has no {INDEX}. Give the folder of a saved diffusers pipeline.")
    dtype, device = torch.float32, "cpu"
    if torch.cuda.is_available():
        has_transformer = "transformer" in json.loads(index.read_text(encoding="utf-8"))
        dtype, device = torch.bfloat16 if has_transformer else torch.float16, "cuda"  # of Flux float16 overflows
    return DiffusionPipeline.from_pretrained(folder, torch_dtype=dtype, local_files_only=True).to(device)


def network_of(pipeline: Any) -> Any:
    """Return the UNet or the transformer of a pipeline.

    Raises:
        ValueError: it has none.
    """
    for name in ("unet", "transformer"):
        if getattr(pipeline, name, None) is not None:
            return getattr(pipeline, name)
    raise ValueError(f"{type(pipeline).__name__} has no unet and no transformer, so γ has nothing to act on.")


def measure(
    source: PipelineSource,
    prompts: Sequence[str],
    minutes: float,
    *,
    first_seed: int = 0,
    most_seeds: int = MOST_SEEDS,
    name: str = "",
    tell: Callable[[str], None] = print,
    **changed: Any,
) -> tuple[Trial, Tensor]:
    """Return a trial of a pipeline and its sheet `(1, height, width, 3)`.

    Args:
        source: its pictures.
        prompts: texts.
        minutes: the budget.
        first_seed, most_seeds, name: as in the node.
        tell: called with sentences about the plan.
        changed: of `Course`.

    Raises:
        ValueError: γ cannot act on the network, or the budget is too small.
    """
    set_skew_attention(source.network, gamma=1.5, beta=1.0)  # refuses what γ cannot act on
    set_skew_attention(source.network, gamma=1.0)
    course = Course(
        source,
        len(prompts),
        first_seed,
        minutes,
        PIXELS,
        tell=tell,
        most_seeds=most_seeds,
        rivals=(),
        costs=1,
        **changed,
    )
    found = course.run()
    cfg = float(source.options.get("guidance_scale", 1.0))
    scheduler = type(source.pipeline.scheduler).__name__
    packaged = tuple(prompts) == PROMPTS
    trial = found.as_trial(
        type(source.network).__name__,
        first_numbers(weight for _, weight in some_vectors(source.network.named_parameters())),
        machine_of(source.network),
        Sampling(*found.size, source.steps, cfg, scheduler, "diffusers", found.prompts, packaged),
        name,
        (LEFT_OUT,),
    )
    draw_sheet = table_of_pack("nodes.plots.sheet").draw_sheet
    rows = {"γ 1": found.sheet[0], found.chosen.name: found.sheet[1]}
    return trial, draw_sheet(rows, f"{trial.name or trial.model}, the same seeds in both rows")


def machine_of(network: Any) -> str:
    """Return what samples: the name of the card, or of the kind of device."""
    device = next(network.parameters()).device
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper()


def save(trial: Trial, sheet: Tensor, folder: Path) -> Path:
    """Write both files and return the path of the trial."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"own{SUFFIX}"
    save_trial(trial, path)
    pixels = (sheet[0] * 255).round().byte().numpy()
    Image.fromarray(pixels, "RGB").save(folder / "own.sheet.jpg", quality=QUALITY)
    return path


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=expand_path, help="the folder of a saved diffusers pipeline")
    parser.add_argument("--minutes", type=float, default=15.0, help="the time limit in minutes (default 15)")
    parser.add_argument("--steps", type=int, default=25, help="steps per image (default 25)")
    parser.add_argument("--cfg", type=float, default=6.0, help="guidance scale (default 6)")
    parser.add_argument(
        "--prompts", type=expand_path, help="a text file, one prompt a line (default: those of the pack)"
    )
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--most-seeds", type=int, default=MOST_SEEDS)
    parser.add_argument(
        "--at-once", type=int, default=SEEDS_A_PROMPT, help="images per model call, up to 4 (default 4)"
    )
    parser.add_argument("--name", default="", help="what the file calls the checkpoint")
    parser.add_argument("--output", type=expand_path, default=Path("."), help="the folder of the results")
    options = parser.parse_args(arguments)
    try:
        pipeline = load_pipeline(options.model)
    except ValueError as problem:
        parser.error(str(problem))
    except torch.OutOfMemoryError:
        print(f"The pipeline in {options.model} does not fit into memory. Use a smaller one.", file=sys.stderr)
        return 1
    prompts = read_prompts(options.prompts.read_text(encoding="utf-8") if options.prompts else "")
    source = PipelineSource(
        pipeline,
        lambda number, count: {"prompt": [prompts[number]] * count},
        options.steps,
        {"guidance_scale": options.cfg},
        min(max(options.at_once, 1), SEEDS_A_PROMPT),
    )
    try:
        trial, sheet = measure(
            source,
            prompts,
            options.minutes,
            first_seed=options.first_seed,
            most_seeds=options.most_seeds,
            name=options.name,
        )
    except ValueError as problem:
        print(problem, file=sys.stderr)
        return 1
    except torch.OutOfMemoryError:
        remedy = "Set --at-once lower" if source.at_once > 1 else "Use a smaller pipeline"
        print(f"Memory ran out with {source.at_once} images at once. {remedy}.", file=sys.stderr)
        return 1
    path = save(trial, sheet, options.output)
    print(f"{summary_of(trial)}\nSaved as {path}, with its sheet beside it.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
