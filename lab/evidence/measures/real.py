"""The real pictures samples are held against: those the model was trained on, and those it never saw."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lab.demo.data import PICTURE_LIST, Pictures, load_pictures, read_list, split
from lab.evidence.measures.features import Embedded, embed


@dataclass(frozen=True)
class Real:
    """`memories`: the 42 trained on. `held_out`: 6 chosen with them and never trained on.
    `unseen`: the other 411 of the same three categories, never trained on either, and more of a mixture in kind."""

    memories: Embedded
    held_out: Embedded
    unseen: Embedded


def load_real(folder: Path) -> Real:
    """From the unpacked package of demo.data, looked at in every feature space."""
    trained_on, held_out = split(load_pictures(folder))
    every = load_pictures(folder, every=True)
    unseen = every.only(set(every.names) - read_list(PICTURE_LIST))
    return Real(*(embedded(pictures) for pictures in (trained_on, held_out, unseen)))


def embedded(pictures: Pictures) -> Embedded:
    """The same pictures in every feature space."""
    return embed(pictures.images, pictures.labels)
