"""Pictures of trials in the output folder, so that a trial that was cancelled goes on where it was.

A picture is a PNG of 8 bits. Its name is a hash of everything it depends on, and it holds the seconds that it took.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ....sad_core.evaluation.trial.pictures import Picture
from ....sad_core.evaluation.trial.ways import Way
from ....sad_core.whole_file import whole_file
from ..checkpoint import numbers_of
from ..named_files import states_of
from ..patches.site_patch import model_name
from ..run_origin import digest_of_input, texts_upstream
from .sampling import Checkpoint, machine_of

SECONDS = "seconds"
WIRED = ("model", "vae", "clip", "positive", "negative")  # inputs of the node; the latent is read as a whole
BROKEN = "broken"


def digest_of(*parts: Any) -> str:
    """Return a short text that is another one for other parts: what JSON can hold, and tensors."""
    found = hashlib.sha256()
    for part in parts:
        if isinstance(part, Tensor):
            flat = part.detach().to("cpu").contiguous()
            found.update(f"{flat.dtype} {tuple(flat.shape)}".encode())
            found.update(flat.view(torch.uint8).numpy().tobytes() if flat.dim() else repr(float(flat)).encode())
        else:
            found.update(json.dumps(part, sort_keys=True, default=repr).encode())
    return found.hexdigest()[:16]


def parts_of(value: Any) -> Iterator[Any]:
    """Yield what a CONDITIONING or a LATENT is made of, in order: tensors, and numbers and texts beside them.

    Of anything else, such as a ControlNet, it is the name of its class: what is in it, the nodes upstream say.
    """
    if isinstance(value, dict):
        for name in sorted(value, key=str):
            yield str(name)
            yield from parts_of(value[name])
    elif isinstance(value, (list, tuple)):
        yield len(value)
        for each in value:
            yield from parts_of(each)
    elif value is None or isinstance(value, (Tensor, str, int, float)):
        yield value
    else:
        yield type(value).__qualname__


@dataclass(frozen=True)
class Shelf:
    """The pictures of one model and one way to sample it.

    Attributes:
        folder: where they are; made with the first one.
    """

    folder: Path

    def path(self, way: Way, prompt: str, seed: int) -> Path:
        """The file of a picture, by its way, the digest of its prompt and its seed."""
        word = re.sub(r"[^\w.]+", "_", way.name)
        return self.folder / f"{word}_{digest_of(asdict(way))[:6]}_{prompt[:8]}_{seed}.png"

    def load(self, path: Path) -> Picture | None:
        """Return a picture; None where there is none, or none that can be read."""
        from PIL import Image

        try:
            with Image.open(path) as picture:
                pixels = torch.frombuffer(bytearray(picture.convert("RGB").tobytes()), dtype=torch.uint8)
                pixels = pixels.reshape(picture.height, picture.width, 3)
                return Picture(pixels, float(picture.info[SECONDS]), BROKEN in picture.info)
        except (OSError, ValueError, KeyError, SyntaxError):
            return None

    def save(self, path: Path, picture: Picture) -> None:
        """Keep a picture."""
        from PIL import Image
        from PIL.PngImagePlugin import PngInfo

        told = PngInfo()
        told.add_text(SECONDS, repr(picture.seconds))
        if picture.broken:
            told.add_text(BROKEN, "1")
        self.folder.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as unfinished:
            Image.fromarray(picture.pixels.numpy(), "RGB").save(unfinished, "PNG", pnginfo=told, compress_level=1)


def pack_version() -> str:
    """Return the version of this pack; empty where its file is missing."""
    try:
        text = (Path(__file__).parents[3] / "pyproject.toml").read_text(encoding="utf-8")
    except OSError:
        return ""
    found = re.search(r'^version = "(.+)"$', text, re.MULTILINE)
    return found[1] if found else ""


def shelf_of(checkpoint: Checkpoint, folder: Path) -> Shelf:
    """Return the shelf of a checkpoint and of the way it is sampled, in a folder of its own.

    What it follows from is what came from other nodes, so all that is upstream is part of its name, and the files that
    are named there as they are now. So are the version of this pack, the machine and the size of a batch: another
    version may sample otherwise, another machine takes other times, and other batches take other times and can differ
    in the last bits.
    """
    model = checkpoint.model
    digest = digest_of(
        [pack_version(), machine_of(model), *map(digest_of_input, WIRED)],
        states_of(text for name in WIRED for text in texts_upstream(name)),
        [model_name(model.model), list(numbers_of(model))],
        [checkpoint.steps, checkpoint.cfg, checkpoint.sampler, checkpoint.scheduler, checkpoint.act_where_unverified],
        checkpoint.at_once,
        *parts_of(checkpoint.latent),
        *parts_of(checkpoint.negative),
    )
    return Shelf(folder / f"pictures_{digest}")
