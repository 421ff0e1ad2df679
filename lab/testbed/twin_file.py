"""The distilled twin's weights, kept as their difference from the weights of the model it learned from.

    python -m lab.testbed.twin_file keep twin.safetensors      # writes the difference
    python -m lab.testbed.twin_file restore                    # writes twin.safetensors; other commands do so too

Both files have the same tensors in half precision. A weight of the twin differs little from that of the model, so the
difference of their bit patterns, as whole numbers, packs into six tenths of the file. Nothing is lost.
"""

from __future__ import annotations

import argparse
import hashlib
import lzma
from pathlib import Path

import numpy

from lab.folders import expand_path
from lab.testbed.shape import MODEL_FILE, TWIN_FILE
from sad_core.whole_file import whole_file

DIFFERENCE_FILE = MODEL_FILE.with_name("twin.difference.xz")
SHA256_BYTES = 32


def difference(model: bytes, twin: bytes) -> bytes:
    """Both files' bytes -> what `twin_of` makes the twin's from.

    After the twin's SHA-256 follow the packed bytes: the header of the twin, then the differences of its 16 bit
    numbers, the high bytes of all first.
    """
    header = twin[: _length_of_header(twin)]
    numbers, start = _numbers(twin, len(header)), _numbers(model, _length_of_header(model))
    if len(numbers) != len(start):
        raise ValueError(
            f"The twin has {len(numbers)} numbers and the model {len(start)}. Give two files of one network."
        )
    signed = numbers - start  # around the ends of 16 bits
    folded = ((signed << 1) ^ (signed >> 15)).view(numpy.uint16)  # 0, -1, 1, -2 ... -> 0, 1, 2, 3 ...
    halves = (folded >> 8).astype(numpy.uint8), (folded & 255).astype(numpy.uint8)
    packed = lzma.compress(header + b"".join(half.tobytes() for half in halves), preset=9)
    return hashlib.sha256(twin).digest() + packed


def twin_of(model: bytes, kept: bytes) -> bytes:
    """The bytes of the twin's file. Raises ValueError where the model is not the one that the twin learned from."""
    digest, packed = kept[:SHA256_BYTES], lzma.decompress(kept[SHA256_BYTES:])
    header = packed[: _length_of_header(packed)]
    high, low = numpy.frombuffer(packed[len(header) :], numpy.uint8).reshape(2, -1).astype(numpy.uint16)
    folded = (high << 8) | low
    signed = ((folded >> 1) ^ -(folded & 1)).view(numpy.int16)
    start = _numbers(model, _length_of_header(model))
    twin = header + (start + signed).tobytes() if len(start) == len(signed) else b""
    if hashlib.sha256(twin).digest() != digest:
        raise ValueError(
            "The twin's difference is from another model than the one given. Restore both from the repository."
        )
    return twin


def restore(file: Path = TWIN_FILE) -> Path:
    """The twin's file, made from the difference where it is missing."""
    if not file.exists():
        twin = twin_of(MODEL_FILE.read_bytes(), DIFFERENCE_FILE.read_bytes())
        with whole_file(file) as unfinished:
            unfinished.write_bytes(twin)
    return file


def _length_of_header(contents: bytes) -> int:
    """The bytes before the tensors of a .safetensors file: eight that tell a length, then so many."""
    return 8 + int.from_bytes(contents[:8], "little")


def _numbers(contents: bytes, start: int) -> numpy.typing.NDArray[numpy.int16]:
    """All that follows, as whole numbers of 16 bits."""
    return numpy.frombuffer(contents, numpy.int16, offset=start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["keep", "restore"])
    parser.add_argument("twin", type=expand_path, nargs="?", default=TWIN_FILE)
    options = parser.parse_args()
    if options.action == "keep":
        DIFFERENCE_FILE.write_bytes(difference(MODEL_FILE.read_bytes(), options.twin.read_bytes()))
    else:
        restore(options.twin)


if __name__ == "__main__":
    main()
