"""Four gates that say whether the test bed's model is worth measuring γ on, each with its numbers.

    python -m lab.testbed.gates                    # 2,000 samples a row; writes gates.json and prints the tables
    python -m lab.testbed.gates --count 100        # a toy size, to see that everything runs

    generalises         Samples are as far from the nearest training picture as test pictures are, and samples cover
                        the test pictures nearly as well as training pictures do.
    attention matters   With every self-attention replaced by the mean of its values, the Fréchet distance is clearly
                        larger.
    right class         The judge finds the class that was asked for as often as it finds that of test pictures.
    near enough         The Fréchet distance is below that of training pictures with a little noise.

Every figure is printed beside its floor, that of real pictures, and beside those of trivial baselines. The kernel
distance is measured in two spaces, the guide's features and those of a network trained on photographs.
Guidance is chosen on the validation part with the guide's features. The test part is read by the final measures only.
Samples are kept, so an interrupted run goes on where it was.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from scipy.stats import ks_2samp
from torch import Tensor

from lab.demo.classifier import Classifier
from lab.demo.contact_sheet import tile
from lab.demo.model import LatentModel, read_metadata
from lab.evidence.bootstrap import of_set
from lab.evidence.measures import manifold
from lab.evidence.measures.kernel_distance import kernel_distance
from lab.folders import cache_folder, expand_path
from lab.testbed.attention import averaged_attention
from lab.testbed.data import Garments, add_data_option, divide, download, load_split
from lab.testbed.features import of_photographs
from lab.testbed.frechet import frechet_distance
from lab.testbed.judges import accuracy, features_of, load_judge
from lab.testbed.kept_samples import kept_samples
from lab.testbed.model import STEPS, classes_of, draw, load_model
from lab.testbed.shape import MODEL_FILE

GUIDANCES = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
CHOICE_COUNT = 500  # samples for each of GUIDANCES
FIRST_CHOICE_SEED = 1_000_000  # the final samples have the seeds from 0 on
MEMORIES = 42
NOISE = 0.05
GREY = 0.8  # between the halves of the sheet
IN_PHOTOGRAPHS = "kernel x1000, ImageNet"
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95)
PAIRED_AT_A_TIME = 100
WIDTH = 24  # of a printed column

LARGEST_COPY_SHARE = 0.03  # of samples nearer to a training picture than 99 % of test pictures are
SMALLEST_COVERAGE = 0.75  # as a share of the floor's
SMALLEST_ATTENTION_RATIO = 1.5  # of the Fréchet distances without and with attention, at the low end of its interval
LARGEST_LOSS_OF_ACCURACY = 0.03


@dataclass(frozen=True)
class Gate:
    """A question, whether the model passes, and the numbers that decided it."""

    name: str
    passed: bool
    because: str


@dataclass(frozen=True)
class Real:
    """Real pictures with the guide's features (N, d) of the training and the test part."""

    training: Garments
    validation: Garments
    test: Garments
    training_features: Tensor
    test_features: Tensor


def choose_guidance(
    model: LatentModel, folder: Path, guide: Classifier, validation: Tensor, count: int
) -> tuple[float, dict[str, float]]:
    """The guidance with the smallest Fréchet distance from validation features (M, d), and all the distances."""
    seeds = range(FIRST_CHOICE_SEED, FIRST_CHOICE_SEED + count)
    distances = {}
    for guidance in GUIDANCES:
        drawing = partial(draw, model, guidance=guidance)
        images = kept_samples(folder / f"choice-{guidance}.safetensors", seeds, drawing)
        distances[guidance] = frechet_distance(features_of(guide, images), validation)(torch.arange(count))
    return min(distances, key=distances.__getitem__), {str(guidance): far for guidance, far in distances.items()}


def distances_from_test(features: Tensor, real: Real) -> dict[str, float]:
    """All distances of features (N, d) from the test part: Fréchet from all of it, the others from its first N."""
    count = len(features)
    test, everything, one_class = real.test_features[:count], torch.arange(count), torch.zeros(count, dtype=torch.int64)
    return {
        "frechet": frechet_distance(features, real.test_features)(everything),
        "kernel x1000": 1000 * kernel_distance(features, test)(everything),
        "precision": float(manifold.precision(features, test).mean()),
        "recall": manifold.recall(features, one_class, test, count)(everything),
        "density": float(manifold.density(features, test).mean()),
        "coverage": manifold.coverage(features, one_class, test, count)(everything),
    }


def baselines(real: Real, count: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Baselines without a model: pictures (count, 1, 28, 28) and classes by name. The first two are the floor."""
    generator = torch.Generator().manual_seed(0)
    training, validation = real.training.only(slice(count)), real.validation.only(slice(count))
    memories = real.training.only(torch.arange(count) % MEMORIES)
    noise = NOISE * torch.randn(training.images().shape, generator=generator)
    return {
        "training pictures": (training.images(), training.labels),
        "validation pictures": (validation.images(), validation.labels),
        f"training pictures, noise {NOISE}": ((training.images() + noise).clamp(0, 1), training.labels),
        f"{MEMORIES} training pictures": (memories.images(), memories.labels),
    }


def gaussian_like(features: Tensor, count: int) -> Tensor:
    """Draws (count, d) of the Gaussian with the mean and covariance of features (N, d)."""
    generator = torch.Generator().manual_seed(0)
    values, vectors = torch.linalg.eigh(features.mT.cov())
    draws = torch.randn(count, len(values), generator=generator, dtype=features.dtype)
    drawn: Tensor = features.mean(dim=0) + draws * values.clamp(min=0).sqrt() @ vectors.mT
    return drawn


def nearest(points: Tensor, others: Tensor) -> Tensor:
    """Distance of each point (N, d) to the nearest of others (M, d): (N,) float64."""
    return torch.cat([torch.cdist(some, others).amin(dim=1) for some in points.split(PAIRED_AT_A_TIME)]).double()


def nearness(samples: Tensor, test: Tensor, training: Tensor) -> dict[str, Any]:
    """Distances of samples and test pictures from the nearest training picture, in one space; all (n, d)."""
    of_samples, of_test = nearest(samples, training), nearest(test, training)
    places = torch.tensor(QUANTILES, dtype=torch.float64)
    return {
        "quantiles": list(QUANTILES),
        "samples": of_samples.quantile(places).tolist(),
        "test": of_test.quantile(places).tolist(),
        "kolmogorov-smirnov": float(ks_2samp(of_samples.numpy(), of_test.numpy()).statistic),
        "copy share": float((of_samples < of_test.quantile(QUANTILES[0])).double().mean()),
    }


def decide(
    rows: Mapping[str, Mapping[str, float]],
    near: Mapping[str, Mapping[str, Any]],
    ratio: tuple[float, float],
    judge_on_test: float,
) -> list[Gate]:
    """The four gates. `ratio` is the interval of the Fréchet distances without attention over those with it."""
    samples, floor, noisy = rows["samples"], rows["training pictures"], rows[f"training pictures, noise {NOISE}"]
    copies = max(space["copy share"] for space in near.values())
    covered = samples["coverage"] / floor["coverage"]
    return [
        Gate(
            "generalises",
            copies <= LARGEST_COPY_SHARE and covered >= SMALLEST_COVERAGE,
            f"copies {copies:.1%} (at most {LARGEST_COPY_SHARE:.0%}), "
            f"coverage {covered:.2f} of the floor's (at least {SMALLEST_COVERAGE})",
        ),
        Gate(
            "attention matters",
            ratio[0] >= SMALLEST_ATTENTION_RATIO,
            f"Fréchet distance times {ratio[0]:.2f} to {ratio[1]:.2f} (at least {SMALLEST_ATTENTION_RATIO})",
        ),
        Gate(
            "right class",
            samples["judge"] >= judge_on_test - LARGEST_LOSS_OF_ACCURACY,
            f"judge {samples['judge']:.1%} on samples, {judge_on_test:.1%} on test pictures "
            f"(at most {LARGEST_LOSS_OF_ACCURACY:.0%} less)",
        ),
        Gate(
            "near enough",
            samples["frechet"] <= noisy["frechet"],
            f"Fréchet distance {samples['frechet']:.2f}, of training pictures with noise {noisy['frechet']:.2f}",
        ),
    ]


def measure(
    model: LatentModel,
    guide: Classifier,
    judge: Classifier,
    real: Real,
    folder: Path,
    count: int,
    guidance: float | None = None,
    choice_count: int = CHOICE_COUNT,
) -> dict[str, Any]:
    """All numbers and the gates, of `count` samples; without `guidance` it is chosen on the validation part.

    Samples are kept in `folder`, and a sheet of the first ones is written there.
    """
    choice: dict[str, float] = {}
    if guidance is None:
        validation = features_of(guide, real.validation.images())
        guidance, choice = choose_guidance(model, folder, guide, validation, min(count, choice_count))
    seeds, labels = range(count), classes_of(range(count))
    kinds: dict[str, Callable[[], AbstractContextManager[None]]] = {
        "samples": nullcontext,
        "samples, attention averaged": lambda: averaged_attention(model.network),
    }
    pictures = {}
    for kind, altered in kinds.items():
        with altered():
            path = folder / f"{kind.replace(', ', '-').replace(' ', '-')}-{guidance}.safetensors"
            pictures[kind] = kept_samples(path, seeds, lambda some: draw(model, some, guidance)), labels
    sheet(*pictures["samples"], real.test).save(folder / "sheet.png")
    pictures |= baselines(real, count)
    features = {name: features_of(guide, images) for name, (images, _) in pictures.items()}
    features["Gaussian in feature space"] = gaussian_like(real.training_features, count)
    rows = {name: distances_from_test(space, real) for name, space in features.items()}
    photographed = of_photographs(real.test.only(slice(count)).images()).double()
    for name, (images, shown) in pictures.items():
        distance = kernel_distance(of_photographs(images).double(), photographed[: len(images)])
        rows[name] |= {
            IN_PHOTOGRAPHS: 1000 * distance(torch.arange(len(images))),
            "judge": accuracy(judge, images, shown),
        }
    with_attention, without = (of_set(frechet_distance(features[kind], real.test_features), labels) for kind in kinds)
    ratio = (without / with_attention).interval
    compared = pictures["samples"][0], real.test.only(slice(count)).images(), real.training.images()
    near = {
        "pixels": nearness(*(images.flatten(1) for images in compared)),
        "features": nearness(features["samples"], real.test_features[:count], real.training_features),
    }
    judge_on_test = accuracy(judge, real.test.images(), real.test.labels)
    return {
        "count": count,
        "steps": STEPS,
        "guidance": guidance,
        "guidance choice": choice,
        "rows": rows,
        "attention ratio": ratio,
        "nearest training picture": near,
        "judge on test": judge_on_test,
        "gates": [asdict(gate) for gate in decide(rows, near, ratio, judge_on_test)],
    }


def table(result: Mapping[str, Any]) -> str:
    """The rows, the nearness and the gates as text."""
    columns = list(result["rows"]["samples"])

    def cells(row: Mapping[str, float]) -> str:
        return "".join(f"{row[column]:{WIDTH}.3f}" if column in row else " " * WIDTH for column in columns)

    lines = [f"{'':34}" + "".join(f"{column:>{WIDTH}}" for column in columns)]
    lines += [f"{name:34}{cells(row)}" for name, row in result["rows"].items()]
    for space, near in result["nearest training picture"].items():
        lines.append(f"\nDistance to the nearest training picture, {space}, quantiles {near['quantiles']}")
        for kind in ("samples", "test"):
            lines.append(f"{kind:10}" + "".join(f"{distance:10.3f}" for distance in near[kind]))
        lines.append(f"Kolmogorov-Smirnov {near['kolmogorov-smirnov']:.3f}, copies {near['copy share']:.1%}")
    lines.append("")
    lines += [f"{'pass' if gate['passed'] else 'FAIL'}  {gate['name']}: {gate['because']}" for gate in result["gates"]]
    return "\n".join(lines)


def sheet(samples: Tensor, labels: Tensor, test: Garments, per_class: int = 8) -> Image.Image:
    """Samples (N, 1, 28, 28) of classes (N,) on the left and test pictures on the right, a row for each class."""
    cells = []
    for label in labels.unique():
        real = test.only(test.labels == label)
        cells += [samples[labels == label][:per_class], torch.full((1, 1, 28, 28), GREY), real.images()[:per_class]]
    return tile(torch.cat(cells), columns=2 * per_class + 1)


def load_real(data: Path, guide: Classifier) -> Real:
    """All three parts, and the guide's features of two of them."""
    parts, test = divide(load_split(data, "training")), load_split(data, "test")
    features = (features_of(guide, part.images()) for part in (parts.training, test))
    return Real(parts.training, parts.validation, test, *features)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the test bed's model and decide on its gates.")
    add_data_option(parser)
    parser.add_argument("--model", type=expand_path, default=MODEL_FILE)
    parser.add_argument(
        "--judges", type=expand_path, default=MODEL_FILE.parent, help="folder of the classifiers' files"
    )
    parser.add_argument("--count", type=int, default=2000, help="samples a row")
    parser.add_argument("--choice-count", type=int, default=CHOICE_COUNT, help="samples for each scale to choose from")
    parser.add_argument("--guidance", type=float, help="scale of guidance (default: chosen on the validation part)")
    parser.add_argument(
        "--samples", type=expand_path, default=cache_folder() / "testbed-samples", help="where they are kept"
    )
    parser.add_argument("--output", type=expand_path, default=Path("gates.json"))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    digest = hashlib.sha256(options.model.read_bytes()).hexdigest()
    folder = options.samples / digest[:16]
    folder.mkdir(parents=True, exist_ok=True)
    guide, judge = (load_judge(name, options.judges) for name in ("guide", "judge"))
    real = load_real(options.data or download(), guide)
    model = load_model(options.model)
    result = measure(model, guide, judge, real, folder, options.count, options.guidance, options.choice_count)
    result["model"] = {"sha256": digest, **read_metadata(options.model)}
    options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"{table(result)}\n\nSamples beside test pictures: {folder / 'sheet.png'}")


if __name__ == "__main__":
    main()
