"""The store of samples: one .safetensors file per setting, which grows by whole chunks and is never half written."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file

from lab.demo.model import MODEL_FILE
from lab.evidence.sampling import Samples
from lab.evidence.settings import Setting
from lab.evidence.stability import MEASURES
from lab.folders import ROOT
from sad_core.whole_file import whole_file

FOLDER = ROOT / ".samples"
VERSION = 1  # to be raised when the code begins to draw other samples for the same setting


class Store:
    """The samples of one model, by setting.

    A file that was drawn by another model, another version or with other numbers in its setting counts as empty.
    """

    def __init__(self, folder: Path = FOLDER, model_file: Path = MODEL_FILE) -> None:
        self.folder = folder
        self.model = hashlib.sha256(model_file.read_bytes()).hexdigest()

    def path(self, setting: Setting) -> Path:
        """The file of a setting, there or not."""
        return self.folder / f"{setting.name}.safetensors"

    def fingerprint(self, setting: Setting) -> str:
        """A hash of all that the samples follow from."""
        numbers = {name: value for name, value in asdict(setting).items() if name not in ("name", "sweep", "count")}
        whole = json.dumps({"version": VERSION, "model": self.model, **numbers}, sort_keys=True)
        return hashlib.sha256(whole.encode()).hexdigest()

    def count(self, setting: Setting) -> int:
        """Return the number of samples, which have the seeds 0, 1, 2 ..."""
        path = self.path(setting)
        if not path.exists():
            return 0
        with safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get("fingerprint") != self.fingerprint(setting):
                return 0
            count: int = file.get_slice("pictures").get_shape()[0]
            return count

    def load(self, setting: Setting, count: int | None = None) -> Samples:
        """The first `count` samples; by default as many as the setting asks for.

        Raises:
            ValueError: there are not so many yet.
        """
        count = setting.count if count is None else count
        found = self.count(setting)
        if found < count:
            raise ValueError(
                f"{setting.name} has {found} samples of {count}; draw the rest with: "
                f"python -m lab.evidence.draw --only {setting.name}"
            )
        with safe_open(self.path(setting), framework="pt") as file:
            tensors: dict[str, Any] = {name: file.get_slice(name)[:count] for name in file.keys()}  # noqa: SIM118
            return Samples(**tensors, sites=tuple(json.loads(file.metadata()["sites"])))

    def append(self, setting: Setting, start: int, samples: Samples) -> None:
        """Add the samples of the seeds from `start` on; the file is the old one or the new one at every moment.

        Raises:
            ValueError: `start` is not where the file ends, as when another command draws the same setting.
        """
        found = self.count(setting)
        if start != found:
            raise ValueError(
                f"{setting.name} has {found} samples, so those from {start} on do not follow; "
                "does another command draw at the same time?"
            )
        if found:
            samples = self.load(setting, found).followed_by(samples)
        tensors = {"pictures": samples.pictures, "outside": samples.outside, "finite": samples.finite}
        if samples.stability is not None:
            tensors["stability"] = samples.stability
        metadata = {
            "fingerprint": self.fingerprint(setting),
            "setting": json.dumps(asdict(setting)),
            "sites": json.dumps(samples.sites),
            "measures": json.dumps(MEASURES),
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.path(setting)
        with whole_file(path) as unfinished:
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, unfinished, metadata=metadata)
