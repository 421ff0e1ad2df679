"""The measures of arms, by several processes. What is measured is kept beside the samples, so a run may be stopped."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from lab.evidence import bootstrap
from lab.evidence.bootstrap import Estimate, category_counts
from lab.folders import ROOT
from lab.testbed.arms import Arm, plain_of
from lab.testbed.data import Garments, divide, load_split
from lab.testbed.draw import Source
from lab.testbed.features import Eyes, digest_of, look_at
from lab.testbed.model import classes_of
from lab.testbed.scores import Measured, imagenet_score, scores
from sad_core.whole_file import whole_file

CODE = ("lab/testbed/scores.py", "lab/testbed/resampled.py", "lab/testbed/frechet.py", "lab/evidence/bootstrap.py")


@dataclass(frozen=True)
class Reference:
    """Real pictures to hold samples against.

    Attributes:
        data: folder of the data.
        part: "test", or "validation" for choices.
        count: how many samples an arm has, and how many real pictures all measures but the Fréchet distance take.
        kept: folder for the features of real pictures.
        eyes: the networks that look.
    """

    data: Path
    part: str
    count: int
    kept: Path
    eyes: Eyes


@cache
def real_of(reference: Reference) -> Garments:
    """All pictures of the part, read once in a process."""
    if reference.part == "test":
        return load_split(reference.data, "test")
    return divide(load_split(reference.data, "training")).validation


@cache
def everything_of(reference: Reference) -> Tensor:
    """The guide's features (M, d) of all of them."""
    return _look(reference, real_of(reference), f"{reference.part}.features").guide


@cache
def some_of(reference: Reference, imagenet: bool = False) -> Measured:
    """The first `count` of them."""
    some = real_of(reference).only(slice(reference.count))
    return _look(reference, some, f"{reference.part}-{reference.count}.features", imagenet)


def _look(reference: Reference, pictures: Garments, name: str, imagenet: bool = False) -> Measured:
    return look_at(pictures.pixels[:, None], pictures.labels, reference.eyes, imagenet, reference.kept / name)


def measures_file(samples: Path, count: int) -> Path:
    """The file of the measures of the first `count` of a file of samples, there or not."""
    return samples.with_suffix(f".{count}.measures")


def measures_of_arm(arm: Arm, plain: Path, source: Source, reference: Reference, imagenet: bool) -> dict[str, Estimate]:
    """The measures of an arm's samples, kept or computed now. The drift is from the samples in the file `plain`."""
    samples, count = source.file(arm), reference.count
    pixels, unmoved = (load_file(path)["pixels"][:count] for path in (samples, plain))
    if min(len(pixels), len(unmoved)) < count:
        raise ValueError(f"{arm.name} has {len(pixels)} samples of {count}; draw the rest with lab.testbed.draw.")
    path, labels = measures_file(samples, count), classes_of(source.seeds(count))
    digest = f"{digest_of(pixels)} {digest_of(unmoved)} {_digest(reference)}"
    known = kept_measures(path, digest)
    if known is None or (imagenet and "halves/imagenet" not in known):
        seen = look_at(pixels, labels, reference.eyes, imagenet, samples.with_suffix(".features"))
        found = {}
        if known is None:
            other = None if plain == samples else unmoved.float() / 255
            found = scores(seen, some_of(reference), everything_of(reference), other)
        if seen.imagenet is not None:
            found["imagenet"] = imagenet_score(seen, some_of(reference, imagenet=True))
        known = (known or {}) | {f"{each.drawn[0]}/{name}": _as_tensor(each) for name, each in found.items()}
        with whole_file(path) as unfinished:
            save_file(known, unfinished, {"of": digest})
    return {key.partition("/")[2]: _as_estimate(key, numbers, labels) for key, numbers in known.items()}


def kept_measures(path: Path, digest: str) -> dict[str, Tensor] | None:
    """The numbers of a file if they are those of these samples, else None."""
    if not path.exists():
        return None
    with safe_open(path, framework="pt") as file:
        known = (file.metadata() or {}).get("of")
    return load_file(path) if known == digest else None


@cache
def _digest(reference: Reference) -> str:
    """A hash of all that measures follow from beside the samples: real pictures, networks and code."""
    files = [ROOT / name for name in CODE] + sorted((ROOT / "lab/evidence/measures").glob("*.py"))
    code = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]
    real = digest_of(real_of(reference).pixels)
    return f"{real} {reference.eyes.digest} {bootstrap.RESAMPLES} {code}"


def _as_tensor(estimate: Estimate) -> Tensor:
    """(1 + R,) float32: the value, then what it is on R resamples."""
    return torch.cat([torch.tensor([estimate.value], dtype=torch.float64), estimate.resampled]).float()


def _as_estimate(key: str, numbers: Tensor, labels: Tensor) -> Estimate:
    drawn: tuple[str | int, ...] = (key.partition("/")[0], *category_counts(labels))
    return Estimate(float(numbers[0]), numbers[1:].double(), len(labels), drawn)


def _measure(job: tuple[Arm, Path, bool], source: Source, reference: Reference) -> tuple[str, dict[str, Estimate]]:
    """Runs in a worker."""
    arm, plain, imagenet = job
    return arm.name, measures_of_arm(arm, plain, source, reference, imagenet)


def measure_arms(
    source: Source,
    arms: Sequence[Arm],
    reference: Reference,
    processes: int = 0,
    imagenet: frozenset[str] = frozenset(),
) -> dict[str, dict[str, Estimate]]:
    """Return the measures of each arm by name, the plain models' among them. Prints progress.

    Args:
        source: of the samples.
        arms: to measure, each plain model among them.
        reference: what they are held against.
        processes: of one thread each; 0 computes in this one.
        imagenet: names of the arms that need the ImageNet network; others have its measure where it is kept.
    """
    jobs = [(arm, source.file(plain_of(arm, arms)), arm.name in imagenet) for arm in arms]
    everything_of(reference), some_of(reference, bool(imagenet))  # before the workers, so that these find them kept
    found = {}
    with _mapping(processes) as each:
        for name, measures in each(partial(_measure, source=source, reference=reference), jobs):
            found[name] = measures
            print(f"{name}: measured; {len(found)} of {len(arms)} arms", flush=True)
    return {arm.name: found[arm.name] for arm in arms}


@contextmanager
def _mapping(processes: int) -> Iterator[Any]:
    """A map that begins at once and gives the results as they come."""
    if not processes:
        yield map
        return
    with get_context("spawn").Pool(processes, torch.set_num_threads, (1,)) as pool:
        yield pool.imap_unordered
