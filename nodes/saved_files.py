"""The file input of nodes that read a saved file: a list of the existing files that also accepts other names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from comfy_api.latest import io

from .host.links import wrong_links
from .host.output_folder import existing_file, files_below, fingerprint_of


def file_input(first: str, is_one: Callable[[Path], bool], tooltip: str) -> io.Combo.Input:
    """Return the widget `file`: a list of the files in the output folder, made anew with each refresh of the editor.

    Args:
        first: the name that the first saved file gets, which the list shows while there is none.
        is_one: whether a safetensors file is of the kind that the node reads.
        tooltip: of the widget.
    """
    names = [name for path, name in files_below(".safetensors") if is_one(path)]
    return io.Combo.Input("file", options=names or [first], tooltip=tooltip)


class ReadsSavedFile:
    """The checks of a node with an input `file`. List it before io.ComfyNode."""

    @classmethod
    def validate_inputs(cls, file: str | None = None, input_types: dict[str, str] | None = None) -> bool | str:
        """Accept any name inside the output folder, in the list or not, and a STRING by wire.

        ComfyUI then leaves both checks to this function: of the list, and of the types of all wires.
        """
        wires = dict(input_types or {})
        wired = wires.pop("file", None)
        if wired not in (None, "STRING", "COMBO", "*"):
            return (
                f"file comes from an output of type {wired}. Wire it to an output of type STRING, such as the file "
                "output of the node that saved it."
            )
        wrong = wrong_links(cls, wires)
        if wrong or file is None:  # a wired name is known when the node before has run
            return wrong or True
        try:
            existing_file(file)
        except ValueError as problem:
            return str(problem)
        return True

    @classmethod
    def fingerprint_inputs(cls, file: str | None = None, **_: Any) -> str:
        """Return another value when the file changes, so that ComfyUI reads it again; a wired name is not known yet."""
        return fingerprint_of(file)
