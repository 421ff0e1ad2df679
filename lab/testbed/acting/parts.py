"""The samples of each part. Everything that follows from the choice seeds is decided here, before the figures."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import folder_paths
import torch
from comfy.model_patcher import ModelPatcher
from symmetric_attention.sad_core.stability.baseline import StabilityBaseline
from torch import Tensor

from lab.testbed.acting.altered import alterations
from lab.testbed.acting.batches import Bench, Drawn, Network
from lab.testbed.acting.feedback_arms import (
    STATIC,
    STRONG,
    TENTH,
    THRESHOLDS,
    arms,
    falling_back,
    gamma_of_drift,
)
from lab.testbed.acting.kept import keep
from lab.testbed.acting.records import about_run, by_sample, scores_of
from lab.testbed.acting.seeds import Seeds, groups
from lab.testbed.arms import Use, skew, use
from lab.testbed.in_comfyui import output_of, outputs_of
from lab.testbed.model import classes_of
from lab.testbed.shape import CLASSES

AFTER = (2, 3, 5, 10)  # steps: decide_at 0.2, 0.35, 0.5, and the whole run
PROBE = use("SADStabilityProbe")
FULL_PROBE = use("SADStabilityProbe", depth_and_curvature=True)
SWEEP = (0.5, 0.7, 0.85, 1.0, 1.15, 1.3, 1.6, 2.0)  # γ of the slider's calibration
POSITIONS = (-1.0, -0.75, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0)


def patched(model: ModelPatcher, uses: tuple[Use, ...]) -> tuple[ModelPatcher, Any]:
    """The MODEL after some nodes, and the second output of the last one, a trace where that is a probe."""
    outputs: tuple[Any, ...] = (model,)
    for node in uses:
        outputs = outputs_of(node, model=outputs[0])
    return outputs[0], outputs[1] if len(outputs) > 1 else None


def drawn_with(bench: Bench, seeds: range, uses: tuple[Use, ...]) -> Drawn:
    """Samples of the nodes, with the trace of the last node where that measures."""
    model, trace = patched(bench.network.model, uses)
    measures = uses and uses[-1].node in ("SADStabilityProbe", "SADStabilityFeedback")
    return bench.draw(model, seeds, trace if measures else None)


def distances_of_groups(predicted: Mapping[int, Tensor]) -> Tensor:
    """Root mean square distances within each group of eight, (groups, times, 8, 8), of latents by number of steps."""
    found = []
    for latents in predicted.values():
        grouped = latents[groups(len(latents))].flatten(2).double()
        distances = torch.cdist(grouped, grouped, compute_mode="donot_use_mm_for_euclid_dist")
        found.append(distances / grouped.shape[-1] ** 0.5)
    return torch.stack(found, dim=1).float().cpu()


def candidates(bench: Bench, seeds: Seeds, folder: Path) -> None:
    """Pictures, scores and distances of the plain model, measured with everything a probe can measure."""
    model, trace = patched(bench.network.model, (FULL_PROBE,))
    for name, some in (("choice", seeds.choice), ("candidates", seeds.figure)):
        drawn = bench.draw(model, some, trace, predicted_after=AFTER[:-1], look=distances_of_groups)
        scores = torch.cat([scores_of(run, AFTER) for run in drawn.runs]).float()
        tensors = {"pixels": drawn.pixels, "scores": scores, "distances": torch.cat(drawn.seen)}
        keep(folder / f"{name}.npz", tensors, {"measures": list(drawn.runs[0].measures), "after": AFTER})


def drift_of(pixels: Tensor, plain: Tensor) -> float:
    """The mean root mean square distance of pictures (N, 1, 28, 28) uint8 from the plain model's."""
    apart = (pixels.float() - plain.float()) / 255
    return float(apart.square().mean(dim=(1, 2, 3)).sqrt().mean())


def last_gammas(drawn: Drawn) -> Tensor:
    """γ of every sample in the last step, as feedback recorded it, (N,)."""
    by_batch = [run.steps[-1].gamma_by_sample() for run in drawn.runs]
    return torch.tensor([gamma for of_batch in by_batch for _, gamma in sorted(of_batch.items())])


def feedback(bench: Bench, seeds: Seeds, folder: Path) -> None:
    """Feedback beside the static γ of the same drift, and γ 2 with and without falling back."""
    choice = partial(drawn_with, bench, seeds.choice)
    plain = choice((PROBE,))
    baseline = StabilityBaseline.from_runs(plain.runs)
    drifts = [(gamma, drift_of(choice((skew(gamma=gamma),)).pixels, plain.pixels)) for gamma in STATIC]
    shares = {}
    for threshold in THRESHOLDS:
        shares[threshold] = float((last_gammas(choice(falling_back(threshold, baseline))) == 1).double().mean())
    threshold = min(shares, key=lambda each: abs(shares[each] - TENTH))
    tried = arms(baseline) | {f"γ {STRONG:g}, falls back": falling_back(threshold, baseline)}
    chosen = {}
    for name, uses in tried.items():
        drift = drift_of(choice(uses).pixels, plain.pixels)
        own = dict(uses[0].inputs)["gamma"]
        chosen[name] = {"own": own, "drift": drift, "static": gamma_of_drift(drift, drifts)}
    figure = partial(drawn_with, bench, seeds.figure)
    tensors = {"plain": figure(()).pixels, "strong": figure((skew(gamma=STRONG),)).pixels}
    for place, (name, uses) in enumerate(tried.items()):
        drawn = figure(uses)
        tensors[f"arm {place}"], tensors[f"gammas {place}"] = drawn.pixels, last_gammas(drawn)
        tensors[f"static {place}"] = figure((skew(gamma=chosen[name]["static"]),)).pixels
    about = {"arms": chosen, "drifts": drifts, "shares": list(shares.items()), "threshold": threshold, "strong": STRONG}
    keep(folder / "feedback.npz", tensors, about)


def slider(bench: Bench, seeds: Seeds, folder: Path) -> None:
    """*Calibrate* on the choice seeds of each class as a prompt of its own, *Creativity* on the others."""
    network = bench.network
    swept = {gamma: patched(network.model, (skew(gamma=gamma),))[0] for gamma in SWEEP}
    images = {gamma: bench.draw(model, seeds.choice).pixels for gamma, model in swept.items()}
    own = classes_of(seeds.figure)
    pixels = torch.zeros(len(POSITIONS), seeds.figures, 1, 28, 28, dtype=torch.uint8)
    texts = []
    with tempfile.TemporaryDirectory() as place:
        folder_paths.set_output_directory(place)
        for label, name in enumerate(CLASSES):
            rows = classes_of(seeds.choice) == label
            batches = [images[gamma][rows].permute(0, 2, 3, 1).expand(-1, -1, -1, 3) / 255 for gamma in SWEEP]
            given = {"images": batches, "gamma": list(SWEEP), "model": list(swept.values())}
            lists = {"clip_vision": [], "largest_drift": [0.2], "filename_prefix": [f"calibration/{label}"]}
            file, summary = outputs_of(use("SADCalibrate"), **given, **lists)
            texts.append({"class": name, "summary": summary})
            some = [seed for seed, of_class in zip(seeds.figure, own.tolist(), strict=True) if of_class == label]
            for number, position in enumerate(POSITIONS):
                model = output_of(use("SADCreativity", position=position, file=file), model=network.model)
                pixels[number, own == label] = bench.draw(model, some).pixels
    keep(folder / "slider.npz", {"pixels": pixels}, {"positions": POSITIONS, "calibrations": texts, "sweep": SWEEP})


def shift(bench: Bench, seeds: Seeds, folder: Path, weights: Mapping[str, Tensor], twin: Mapping[str, Tensor]) -> None:
    """The measures of a probe, of the plain model, and of the model with other weights."""
    tables: dict[str, Tensor] = {}
    about: dict[str, Any] = {}

    def measure(name: str, network: Network, some: range) -> None:
        model, trace = patched(network.model, (PROBE,))
        runs = Bench(network, bench.batch).draw(model, some, trace).runs
        tables[name] = torch.cat([by_sample(run) for run in runs], dim=2)
        about.update(about_run(runs[0]))

    measure("baseline", bench.network, seeds.choice)
    measure("unchanged", bench.network, seeds.figure)
    keep(folder / "shift.npz", tables, about)
    tables.clear()
    for name, alter in alterations(twin).items():
        measure(name, Network.of(alter(weights)), seeds.figure[: seeds.figures // 2])
    keep(folder / "shift-altered.npz", tables, about)


def timed(name: str, draw: Callable[[], None]) -> None:
    """Draw a part and print how long it took."""
    start = time.monotonic()
    draw()
    print(f"{name}: drawn in {time.monotonic() - start:.0f} s", flush=True)
