"""A tiny data set in the files of Fashion-MNIST, and a small model, so that tests download nothing."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import numpy


def write_idx(path: Path, numbers: numpy.ndarray, packed: bool = True) -> str:
    """Write uint8 numbers as an idx file, as .gz where `packed`; return the SHA-256 of the contents."""
    head = bytes([0, 0, 8, numbers.ndim]) + b"".join(size.to_bytes(4, "big") for size in numbers.shape)
    contents = head + numbers.astype(numpy.uint8).tobytes()
    if packed:
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(contents))
    else:
        path.write_bytes(contents)
    return hashlib.sha256(contents).hexdigest()


def write_data(folder: Path, training: int = 60, test: int = 40) -> dict[str, str]:
    """Write the four files with random pictures whose brightness tells the class; return their hashes by name."""
    generator, hashes = numpy.random.default_rng(0), {}
    for split, count in (("train", training), ("t10k", test)):
        labels = numpy.arange(count) % 10
        pixels = generator.integers(0, 25, (count, 28, 28)) + 25 * labels[:, None, None]
        for kind, numbers in (("images-idx3-ubyte", pixels), ("labels-idx1-ubyte", labels)):
            hashes[f"{split}-{kind}"] = write_idx(folder / f"{split}-{kind}", numbers)
    return hashes
