"""The files that the nodes upstream name: checkpoints, LoRAs, VAEs, input images, and whether one was overwritten."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import folder_paths

LONGEST_NAME = 1000  # a longer text is a prompt


def states_of(texts: Iterable[str]) -> list[tuple[str, int, int]]:
    """Return the size and the time of the last change, in nanoseconds, of each file that one of the texts names.

    A name does not identify a checkpoint, which may be trained further and saved under the same name. Reading the whole
    file would take longer than many trials.

    Args:
        texts: of widgets; those that name no file in a folder of models or of inputs are left out.
    """
    found = set()
    for text in texts:
        for path in _paths(text):
            if os.path.isfile(path):  # Path.is_file raises where a prompt is too long for a name
                state = path.stat()
                found.add((text, state.st_size, state.st_mtime_ns))
    return sorted(found)


def _paths(text: str) -> Iterator[Path]:
    if not text or "\n" in text or "\0" in text or len(text) > LONGEST_NAME:
        return
    for kind in list(folder_paths.folder_names_and_paths):
        path = folder_paths.get_full_path(kind, text)
        if path is not None:
            yield Path(path)
    try:
        input_file = Path(folder_paths.get_annotated_filepath(text))
    except ValueError:  # beyond the folder of inputs
        return
    yield input_file
