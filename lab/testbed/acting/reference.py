"""The real pictures and the classifiers that samples are measured with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lab.evidence.measures import manifold
from lab.testbed.data import Garments, download, load_split
from lab.testbed.features import Eyes, look_at
from lab.testbed.judges import features_of
from lab.testbed.scores import Measured

TEST_COUNT = 1000


@dataclass(frozen=True)
class Reference:
    """The reference of samples.

    Attributes:
        eyes: the classifiers.
        pictures: the test part.
        test: of 1,000 of its pictures, the guide's features (N, d).
        everything: the same of all.
    """

    eyes: Eyes
    pictures: Garments
    test: Tensor
    everything: Tensor

    @classmethod
    def load(cls, data: Path | None, judges: Path) -> Reference:
        """The reference out of the folders of Fashion-MNIST and of the classifiers."""
        eyes = Eyes(judges)
        pictures = load_split(data or download(), "test")
        everything = features_of(eyes.network("guide"), pictures.images())
        return cls(eyes, pictures, everything[:TEST_COUNT], everything)

    def features(self, pixels: Tensor) -> Tensor:
        """The guide's features (N, d) float64 of pictures (N, 1, 28, 28) uint8."""
        return features_of(self.eyes.network("guide"), pixels.float() / 255)

    def probability(self, pixels: Tensor, labels: Tensor) -> Tensor:
        """The probability (N,) that the judge gives to the class that was asked for."""
        return look_at(pixels, labels, self.eyes).probability

    def density(self, features: Tensor) -> Tensor:
        """Density (N,) of samples among the test pictures."""
        return torch.cat([manifold.density(some, self.test) for some in features.split(1000)])

    def looked_at(self, pixels: Tensor, labels: Tensor) -> Measured:
        """The samples as all measures of the arms want them."""
        return look_at(pixels, labels, self.eyes)

    def test_looked_at(self, count: int) -> Measured:
        """As many test pictures as there are samples."""
        some = self.pictures.only(slice(count))
        return look_at(some.pixels[:, None], some.labels, self.eyes)
