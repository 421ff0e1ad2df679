"""Fashion-MNIST (Zalando SE 2017, MIT licence): where it comes from, and which part of it is for what.

    training    55,000 of the makers' training pictures. Models and judges learn from these and no others.
    validation   5,000 of the makers' training pictures. Every choice is made on these.
    test        10,000 pictures, the makers' own test split. Only final measures read it.

The makers' training pictures are put in the order of the SHA-256 of their pixels. The first 5,000 are the validation
part, the rest is the training part, and a subset of N is the first N of that. So subsets are nested, and copies of one
picture stay in one part.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy
import torch
import torch.nn.functional as F
from torch import Tensor

from lab.folders import cache_folder, expand_path
from lab.testbed.shape import PADDING

PACKAGE = "dataset-fashion-mnist"
VALIDATION_COUNT = 5000
PARTS = {"training": "train", "test": "t10k"}  # the makers' splits, and how their files' names begin
# Of the unpacked contents, because compressed files of the same contents differ.
SHA256 = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
UNSIGNED_BYTES = 0x08  # the type of numbers that the third byte of an idx file names


@dataclass(frozen=True)
class Garments:
    """N pictures and their classes: `pixels` (N, 28, 28) uint8, `labels` (N,) int64 places in CLASSES."""

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def only(self, rows: Tensor | slice) -> Garments:
        """Some of them, by a slice, places or booleans."""
        return Garments(self.pixels[rows], self.labels[rows])

    def images(self) -> Tensor:
        """Pictures (N, 1, 28, 28) float32 in [0, 1], white on black."""
        return self.pixels[:, None].float() / 255


@dataclass(frozen=True)
class Parts:
    """The makers' training pictures, divided."""

    training: Garments
    validation: Garments


def download() -> Path:
    """The folder of the four files, unpacked from Debian's package the first time. Needs apt-get and dpkg, no root."""
    cache = cache_folder() / "fashion-mnist"
    folder = cache / "usr" / "share" / "datasets" / "fashion-mnist"
    if not folder.exists():
        cache.mkdir(parents=True, exist_ok=True)
        try:
            subprocess.run(["apt-get", "download", PACKAGE], cwd=cache, check=True)
            package = next(cache.glob("*.deb"))
            subprocess.run(["dpkg", "-x", package.name, "."], cwd=cache, check=True)
        except FileNotFoundError:
            raise FileNotFoundError(
                f"{PACKAGE} is fetched with apt-get and dpkg, and one of them is not installed. Name a folder with the "
                f"files {', '.join(SHA256)}, as they are or as .gz, with --data."
            ) from None
        package.unlink()
    return folder


def read_contents(folder: Path, name: str) -> bytes:
    """The bytes of one idx file, unpacked when it is there as .gz."""
    packed = folder / f"{name}.gz"
    if packed.exists():
        return gzip.decompress(packed.read_bytes())
    if (folder / name).exists():
        return (folder / name).read_bytes()
    raise FileNotFoundError(f"{folder} holds neither {name} nor {name}.gz. Fashion-MNIST has the files {list(SHA256)}.")


def parse_idx(contents: bytes, name: str) -> Tensor:
    """The uint8 numbers of an idx file: two zero bytes, a type, a count of dimensions, their sizes, the numbers."""
    if len(contents) < 4 or contents[:2] != b"\0\0" or contents[2] != UNSIGNED_BYTES:
        raise ValueError(f"{name}: not an idx file of unsigned bytes.")
    start = 4 + 4 * contents[3]
    sizes = numpy.frombuffer(contents[4:start], dtype=">u4").astype(int).tolist()
    numbers = numpy.frombuffer(contents, dtype=numpy.uint8, offset=start)
    if numbers.size != numpy.prod(sizes):
        raise ValueError(f"{name}: {sizes} numbers announced, {numbers.size} found.")
    return torch.from_numpy(numbers.reshape(sizes).copy())


def load_split(folder: Path, split: str, known: Mapping[str, str] = SHA256) -> Garments:
    """The makers' "training" or "test" split, in the makers' order. Raises where a file's SHA-256 is not as `known`."""
    found = []
    for kind in ("images-idx3-ubyte", "labels-idx1-ubyte"):
        name = f"{PARTS[split]}-{kind}"
        contents = read_contents(folder, name)
        if hashlib.sha256(contents).hexdigest() != known[name]:
            raise ValueError(f"{folder / name}: other contents than Fashion-MNIST's. Download the data set again.")
        found.append(parse_idx(contents, name))
    pixels, labels = found
    return Garments(pixels, labels.long())


def hash_order(garments: Garments) -> Tensor:
    """The places (N,) of the pictures in the order of the SHA-256 of their pixels, equal ones as they come."""
    digests = [hashlib.sha256(pixels.tobytes()).digest() for pixels in garments.pixels.numpy()]
    return torch.tensor(sorted(range(len(digests)), key=digests.__getitem__))


def divide(garments: Garments, subset: int | None = None, held_out: int = VALIDATION_COUNT) -> Parts:
    """The makers' training pictures as training and validation part; `subset` keeps that many training pictures."""
    order = hash_order(garments)
    left = len(order) - held_out
    if subset is not None and not 1 <= subset <= left:
        raise ValueError(f"subset: {subset} pictures wanted. Choose 1 to {left}.")
    end = None if subset is None else held_out + subset
    return Parts(training=garments.only(order[held_out:end]), validation=garments.only(order[:held_out]))


def pad(images: Tensor) -> Tensor:
    """Pictures (N, 1, 28, 28) -> (N, 1, 32, 32), black around."""
    return F.pad(images, (PADDING,) * 4)


def crop(images: Tensor) -> Tensor:
    """Pictures (N, 1, 32, 32) -> (N, 1, 28, 28); undoes `pad`."""
    return images[..., PADDING:-PADDING, PADDING:-PADDING]


def add_data_option(parser: argparse.ArgumentParser) -> None:
    """Give a command the option `--data`; without it Debian's package is downloaded once."""
    parser.add_argument(
        "--data", type=expand_path, help=f"folder with the four idx files (default: download {PACKAGE})"
    )
