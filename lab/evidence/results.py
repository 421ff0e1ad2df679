"""Every number of the evidence, setting by setting, each with its 95 % interval and beside the setting it changes.

What is measured is kept in `.samples/` too, so that an interrupted run goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from lab.demo.classifier import CLASSIFIER_FILE
from lab.demo.data import HELD_OUT_LIST, PICTURE_LIST
from lab.evidence.bootstrap import Estimate, mean, of_set
from lab.evidence.measures import Embedded, Measures, Real, agreement, embed, guards, load_real, measure, pairwise
from lab.evidence.measures.features import classifier, pixels
from lab.evidence.sampling import categories_of
from lab.evidence.settings import SETTINGS, Setting
from lab.evidence.store import Store
from lab.folders import ROOT
from sad_core.whole_file import whole_file

PACKAGE = ROOT / "lab" / "evidence"
NUMBERS = PACKAGE / "numbers.json"
SAMPLE_MEASURES = (
    "probability",
    "agreement",
    "nearest memory/pixels",
    "nearest memory/imagenet",
    "nearest unseen/pixels",
    "nearest unseen/imagenet",
    "mixture/pixels",
    "mixture/classifier",
    "mixture/imagenet",
    "patchwork/pixels",
    "precision/imagenet/unseen",
    "precision/classifier/unseen",
    "density/imagenet/unseen",
    "saturation",
    "high frequency",
    "outside range",
    "finite",
    "drift/pixels",
    "drift/imagenet",
)
SET_MEASURES = (
    "apart/pixels",
    "apart/classifier",
    "apart/imagenet",
    "vendi/classifier",
    "vendi/imagenet",
    "recall/imagenet/unseen",
    "coverage/imagenet/unseen",
    "kernel distance/imagenet/unseen",
    "kernel distance/imagenet/memories",
)


def reference(setting: Setting) -> Setting:
    """Return the reference of a setting: the same setting without γ if it has one, else the unpatched model."""
    wanted: dict[str, Any] = {"guidance": setting.guidance, "steps": setting.steps} if setting.gamma != 1.0 else {}
    looked_for = replace(Setting("", ""), **wanted)
    for other in SETTINGS:
        if not other.measured and replace(other, name="", sweep="", count=looked_for.count) == looked_for:
            return other
    raise ValueError(f"{setting.name} has no setting to be compared with: none has {wanted} and nothing else.")


class Results:
    """Numbers of the settings in a store, against the real pictures of a folder (see `demo.data`)."""

    def __init__(self, store: Store, data: Path) -> None:
        self.store = store
        self.data = data
        self.embedded = cache(self._embedded)
        self.estimates = cache(self._estimates)

    @property
    def real(self) -> Real:
        """The real pictures in every feature space."""
        return _real(self.data)

    def of(self, setting: Setting, count: int) -> dict[str, Any]:
        """`measures` and `changes` (less the reference, paired by seed) of the first `count` samples, as JSON."""
        path = self.store.folder / f"{setting.name}.{count}.{self._fingerprint(setting)}.json"
        if path.exists():
            kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return kept
        compared = reference(setting)
        found, plain = self.estimates(setting, count), self.estimates(compared, count)
        result = {
            "sweep": setting.sweep,
            "setting": {name: value for name, value in asdict(setting).items() if value != getattr(Setting, name, "")},
            "count": count,
            "reference": compared.name,
            "measures": {name: rounded(estimate) for name, estimate in found.items()},
            "changes": {name: rounded(estimate - plain[name]) for name, estimate in found.items() if name in plain},
        }
        write_json(path, result)
        return result

    def _fingerprint(self, setting: Setting) -> str:
        """Of the samples and of the code that measures them."""
        files = [*sorted((PACKAGE / "measures").glob("*.py")), PACKAGE / "results.py", PACKAGE / "bootstrap.py"]
        code = b"".join(file.read_bytes() for file in files) + self.store.fingerprint(reference(setting)).encode()
        code += b"".join(file.read_bytes() for file in (CLASSIFIER_FILE, PICTURE_LIST, HELD_OUT_LIST))
        return hashlib.sha256(code + self.store.fingerprint(setting).encode()).hexdigest()[:12]

    def _embedded(self, setting: Setting) -> Embedded:
        """All samples that are drawn of a setting, looked at once."""
        pictures = self.store.load(setting, self.store.count(setting)).pictures
        return embed(pictures.float() / 255, categories_of(range(len(pictures))))

    def measured(self, setting: Setting, count: int) -> Measures:
        """The measures of the first `count` samples; drift is that from the reference."""
        samples, compared = self.store.load(setting, count), reference(setting)
        given = {"outside range": samples.outside, "finite": samples.finite}
        some = slice(count)
        plain = None if compared == setting else self.embedded(compared).only(some)
        return measure(self.embedded(setting).only(some), plain, self.real, given=given)

    def _estimates(self, setting: Setting, count: int) -> dict[str, Estimate]:
        measures, labels = self.measured(setting, count), categories_of(range(count))
        found = {name: mean(measures.samples[name], labels) for name in SAMPLE_MEASURES if name in measures.samples}
        return found | {name: of_set(measures.sets[name], labels) for name in SET_MEASURES}


@cache
def _real(data: Path) -> Real:
    return load_real(data)


def of_real(real: Real) -> dict[str, dict[str, Any]]:
    """`count` and `measures` of real pictures, as if they were samples: what is normal, the null of the indices."""
    found = {}
    for name, pictures in (("held out", real.held_out), ("unseen", real.unseen)):
        samples = measure(pictures, None, real, block=2).samples
        kept = {key: samples[key] for key in SAMPLE_MEASURES if key in samples and "unseen" not in key}
        numbers = {key: rounded(mean(values, pictures.labels)) for key, values in kept.items()}
        found[name] = {"count": len(pictures), "measures": numbers}
    return found


def rounded(estimate: Estimate) -> list[float]:
    """[value, low, high] to five digits, which is more than any interval is narrow."""
    return [float(f"{number:.5g}") for number in (estimate.value, *estimate.interval)]


def drawn_settings(store: Store, settings: Iterable[Setting] = SETTINGS) -> Iterator[tuple[Setting, int]]:
    """The settings to compare with how many samples there are of each, of those it asks for."""
    for setting in settings:
        count = min(setting.count, store.count(setting))
        if count and not setting.measured:
            yield setting, count


def write_json(path: Path, content: Any) -> None:
    """Never half a file."""
    with whole_file(path) as unfinished:
        unfinished.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def slice_of(pictures: torch.Tensor, plain: torch.Tensor) -> list[list[float]]:
    """Four numbers a sample that need no real picture: judge, saturation, high frequency, distance moved in pixels."""
    images, labels = pictures.float() / 255, categories_of(range(len(pictures)))
    columns = (
        agreement.probability(classifier(images), labels),
        guards.saturation(images),
        guards.high_frequency(images),
        pairwise.drift(pixels(images), pixels(plain.float() / 255), cosine=False),
    )
    return [[round(float(number), 5) for number in row] for row in torch.stack(columns, dim=1)]
