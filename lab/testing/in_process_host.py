"""Starting ComfyUI inside this process and loading the pack as it would; stand-ins where there is no ComfyUI."""

from __future__ import annotations

import asyncio
import functools
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

from lab.folders import ROOT

PACK = "symmetric_attention"
TABLES = "symmetric_attention_tables"  # the pack without its nodes
# What ComfyUI is started with, by the value of SAD_ATTENTION. Plain --cpu chooses sub-quadratic attention.
ATTENTION = {"pytorch": ["--use-pytorch-cross-attention"], "sub_quad": []}


def start_host(folder: Path, attention: str, *, on_cpu: bool = True) -> None:
    """Make the ComfyUI in `folder` importable, before anything else, with the command line of a start."""
    # ComfyUI cannot be installed: Python finds its modules in the folder of main.py, which is first in sys.path.
    sys.path.insert(0, str(folder))
    import comfy.options

    comfy.options.enable_args_parsing()
    command_line, sys.argv = sys.argv, ["main.py", *["--cpu"] * on_cpu, *ATTENTION[attention]]
    try:
        import comfy.cli_args
    finally:
        sys.argv = command_line


def load_pack(name: str = PACK, folder: Path = ROOT, *, run: bool = True) -> types.ModuleType:
    """The package in `folder` as the module `name`, loaded the way ComfyUI loads a folder of custom_nodes.

    Without `run` its `__init__.py` is left out, and only the modules below it can be imported.
    """
    spec = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # The pack's folder has no name that Python could import, and relative imports look their package up here.
    sys.modules[name] = module
    if run:
        spec.loader.exec_module(module)
    return module


@functools.cache
def pack_in_host(folder: Path, attention: str = "pytorch", *, on_cpu: bool = True) -> types.ModuleType:
    """The pack in the ComfyUI of `folder`, both loaded once."""
    start_host(folder, attention, on_cpu=on_cpu)
    return load_pack()


def nodes_of(pack: types.ModuleType) -> list[Any]:
    """The classes of the nodes that ComfyUI gets from a loaded pack, in their order."""

    async def listed() -> list[Any]:
        return list(await (await pack.comfy_entrypoint()).get_node_list())

    return asyncio.run(listed())


def table_of_pack(module: str) -> types.ModuleType:
    """A module of the pack that needs no ComfyUI, such as `nodes.host.models.families`, without loading the nodes."""
    for name, folder in ((TABLES, ROOT), (f"{TABLES}.nodes", ROOT / "nodes")):
        if name not in sys.modules:
            load_pack(name, folder, run=False)
    return importlib.import_module(f"{TABLES}.{module}")


def without_host() -> None:
    """Replace ComfyUI and the pack by stand-ins, unless ComfyUI is there."""
    if "comfy" not in sys.modules:
        sys.meta_path.insert(0, StandIns())


class StandIns(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Empty modules for all that a host would bring, so that its tests can be collected, counted and skipped."""

    NAMES = (
        "aiohttp",
        "comfy",
        "comfy_aimdo",
        "comfy_api",
        "comfy_extras",
        "folder_paths",
        "latent_preview",
        "nodes",
        PACK,
    )

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """A stand-in for a module of a host, nothing for any other."""
        if fullname.partition(".")[0] in self.NAMES:
            return importlib.machinery.ModuleSpec(fullname, self, is_package=True)
        return None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        """A module that has every name."""
        module: Any = types.ModuleType(spec.name)
        module.__getattr__ = lambda name: MagicMock()
        stand_in: types.ModuleType = module
        return stand_in

    def exec_module(self, module: types.ModuleType) -> None:
        """Nothing to run."""
