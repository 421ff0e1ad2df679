"""Features of samples by the guide, the judge and the ImageNet network, kept beside the samples.

    python -m lab.testbed.features --samples FOLDER                    # of every file of samples in a folder
    python -m lab.testbed.features --samples FOLDER --device cuda --imagenet   # on a graphics card, ImageNet too

`lab.testbed.results` computes what is missing itself. The ImageNet network takes half a minute for 2,000 samples on a
core, so `results` runs it for the arms of the headline only. It reads the features of all arms where this command has
computed them.
"""

from __future__ import annotations

import argparse
import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from lab.demo.classifier import Classifier
from lab.folders import expand_path
from lab.testbed.judges import features_of, judge_file, load_judge
from lab.testbed.scores import Measured
from lab.testbed.shape import MODEL_FILE
from sad_core.whole_file import whole_file

IMAGENET_PIXELS = 64  # a side
CHUNKS = {"cpu": 16, "cuda": 2000}
CHUNK_OF_JUDGES = 500


@dataclass(frozen=True)
class Eyes:
    """Those who look: the folder of the guide and the judge, and where they compute."""

    folder: Path = MODEL_FILE.parent
    device: str = "cpu"

    @property
    def digest(self) -> str:
        """A hash of their weights."""
        return hashlib.sha256(
            b"".join(judge_file(self.folder, name).read_bytes() for name in ("guide", "judge"))
        ).hexdigest()[:16]

    def network(self, name: str) -> Classifier:
        """The guide or the judge."""
        return _network(self, name)


@cache
def _network(eyes: Eyes, name: str) -> Classifier:
    return load_judge(name, eyes.folder).to(eyes.device)


def features_file(samples: Path) -> Path:
    """The file of the features of a file of samples, there or not."""
    return samples.with_suffix(".features")


def digest_of(pixels: Tensor) -> str:
    """A hash of pictures (N, 1, 28, 28) of uint8."""
    return hashlib.sha256(pixels.contiguous().numpy().tobytes()).hexdigest()[:16]


def features(pixels: Tensor, eyes: Eyes, imagenet: bool, path: Path | None = None) -> dict[str, Tensor]:
    """Features of pictures (N, 1, 28, 28) of uint8: from a file if it holds those of these pictures, else computed.

    Returns:
        `guide` (N, d) float32, `scores` (N, 10) float32 of the judge, and if `imagenet` is true or the file has it,
        `imagenet` (N, 1280) float16. What was computed is written to the file.
    """
    digest = f"{digest_of(pixels)} {eyes.digest} {IMAGENET_PIXELS}"
    found: dict[str, Tensor] = {}
    if path is not None and path.exists():
        with safe_open(path, framework="pt") as file:
            known = (file.metadata() or {}).get("of")
        found = load_file(path) if known == digest else {}
    images, before = pixels.float() / 255, set(found)
    if "guide" not in found:
        found["guide"] = features_of(eyes.network("guide"), images.to(eyes.device)).float().cpu()
        found["scores"] = _scores(eyes, images)
    if imagenet and "imagenet" not in found:
        found["imagenet"] = of_photographs(images, eyes.device)
    if path is not None and set(found) != before:
        with whole_file(path) as unfinished:
            save_file(found, unfinished, {"of": digest})
    return found


def of_photographs(images: Tensor, device: str = "cpu") -> Tensor:
    """Features (N, 1280) float16 of pictures (N, 1, 28, 28) in [0, 1], by a network trained on photographs."""
    from lab.evidence.measures.features import imagenet  # needs packages that few have

    return imagenet(images.expand(-1, 3, -1, -1), IMAGENET_PIXELS, device, CHUNKS[device]).half()


@torch.no_grad()
def _scores(eyes: Eyes, images: Tensor) -> Tensor:
    judge = eyes.network("judge")
    return torch.cat([judge(some.to(eyes.device)).cpu() for some in images.split(CHUNK_OF_JUDGES)])


def look_at(pixels: Tensor, labels: Tensor, eyes: Eyes, imagenet: bool = False, path: Path | None = None) -> Measured:
    """Pictures (N, 1, 28, 28) of uint8 of classes (N,) as the networks see them."""
    seen = features(pixels, eyes, imagenet, path)
    probability = seen["scores"].double().softmax(dim=-1).gather(1, labels[:, None]).squeeze(1)
    photographs = seen["imagenet"].double() if "imagenet" in seen else None
    return Measured(pixels.float() / 255, labels, seen["guide"].double(), probability, photographs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--samples", type=expand_path, required=True, help="folder of files that lab.testbed.draw wrote"
    )
    parser.add_argument("--judges", type=expand_path, default=MODEL_FILE.parent, help="folder of the classifiers")
    parser.add_argument("--imagenet", action="store_true", help="the ImageNet network's features too")
    parser.add_argument("--device", default="cpu", choices=list(CHUNKS))
    options = parser.parse_args()
    eyes = Eyes(options.judges, options.device)
    files = sorted(options.samples.rglob("*.safetensors"))
    for done, path in enumerate(files, start=1):
        features(load_file(path)["pixels"], eyes, options.imagenet, features_file(path))
        print(f"{path.name}: looked at; {done} of {len(files)} files", flush=True)


if __name__ == "__main__":
    main()
