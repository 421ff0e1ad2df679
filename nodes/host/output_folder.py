"""Files in ComfyUI's output folder, and nowhere else."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import folder_paths

from ...sad_core.shown_text import shown

LONGEST_PART, LONGEST_NAME = 200, 1000  # bytes; file systems take 255 and 4096, and a folder and a number are added


def new_file(prefix: str, suffix: str) -> tuple[Path, str]:
    """A new numbered file: its path, and its name below the output folder for people.

    Args:
        prefix: such as `stability/trace`, with ComfyUI's placeholders (%year%, %month%, …); folders are made.
        suffix: such as `.csv`.

    Raises:
        ValueError: a prefix that leads out of the output folder, or whose folder cannot be made.
    """
    _inside(prefix, "filename_prefix")
    output = folder_paths.get_output_directory()
    try:
        folder, name, counter, _, _ = folder_paths.get_save_image_path(prefix, output)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ValueError(
            f'filename_prefix is "{shown(prefix)}", but its folder cannot be made ({reason}). Choose another prefix.'
        ) from error
    path = Path(folder) / f"{name}_{counter:05}_{suffix}"
    return path, path.resolve().relative_to(Path(output).resolve()).as_posix()


def existing_file(name: str) -> Path:
    """The path of a file in the output folder, whether it is there or not.

    Raises:
        ValueError: a name that leads out of the output folder.
    """
    return _inside(name.strip().strip('"'), "file")


def fingerprint_of(name: str | None) -> str:
    """Return a text that changes when the file does; empty where the name is not known yet."""
    if name is None:
        return ""
    path = existing_file(name)
    return f"{path} {path.stat().st_mtime_ns}" if path.is_file() else str(path)


def files_below(suffix: str) -> Iterator[tuple[Path, str]]:
    """Every file in the output folder with this suffix: its path, and its name below the folder; links not followed."""
    output = Path(folder_paths.get_output_directory())
    for folder, folders, names in os.walk(output):
        folders.sort()
        for name in sorted(names):
            if name.endswith(suffix):
                path = Path(folder) / name
                yield path, path.relative_to(output).as_posix()


def _inside(name: str, field: str) -> Path:
    """`name` below the output folder, links followed."""
    output = Path(folder_paths.get_output_directory()).resolve()
    is_plain = bool(name.strip()) and not set(name) & set("\\:") and not name.startswith(("/", "~"))
    path = (output / name).resolve() if is_plain and _can_be_a_name(name) else output
    if path == output or not path.is_relative_to(output):
        raise ValueError(
            f'{field} is "{shown(name)}", but it must be a name inside ComfyUI\'s output folder, such as '
            f"stability/trace, with no part longer than {LONGEST_PART} bytes."
        )
    return path


def _can_be_a_name(name: str) -> bool:
    """Return whether a name is legible and valid on every file system."""
    if not name.isprintable() or len(name.encode()) > LONGEST_NAME:
        return False
    return all(len(part.encode()) <= LONGEST_PART for part in name.split("/"))
