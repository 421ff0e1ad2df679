"""Files in ComfyUI's output folder, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import folder_paths


def new_file(prefix: str, suffix: str) -> tuple[Path, str]:
    """A new numbered file: its path, and its name below the output folder for people.

    Args:
        prefix: such as `stability/trace`, with ComfyUI's placeholders (%year%, %month%, …); folders are made.
        suffix: such as `.csv`.

    Raises:
        ValueError: a prefix that leads out of the output folder.
    """
    _inside(prefix, "filename_prefix")
    output = folder_paths.get_output_directory()
    folder, name, counter, _, _ = folder_paths.get_save_image_path(prefix, output)
    path = Path(folder) / f"{name}_{counter:05}_{suffix}"
    return path, path.resolve().relative_to(Path(output).resolve()).as_posix()


def existing_file(name: str) -> Path:
    """The path of a file in the output folder, whether it is there or not.

    Raises:
        ValueError: a name that leads out of the output folder.
    """
    return _inside(name.strip().strip('"'), "file")


def _inside(name: str, field: str) -> Path:
    """`name` below the output folder, links followed."""
    output = Path(folder_paths.get_output_directory()).resolve()
    is_plain = bool(name.strip()) and not set(name) & set("\\\0:") and not name.startswith(("/", "~"))
    path = (output / name).resolve() if is_plain else output
    if path == output or not path.is_relative_to(output):
        raise ValueError(
            f'{field} is "{name}", but it must be a name inside ComfyUI\'s output folder, such as stability/trace.'
        )
    return path
