"""Starting ComfyUI inside the test process and loading the pack as it would; stand-ins where there is no ComfyUI."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types
from pathlib import Path
from unittest.mock import MagicMock

from lab.folders import ROOT

PACK = "symmetric_attention"
# What ComfyUI is started with, by the value of SAD_ATTENTION. Plain --cpu chooses sub-quadratic attention.
ATTENTION = {"pytorch": ["--use-pytorch-cross-attention"], "sub_quad": []}


def start_host(folder: Path, attention: str) -> None:
    """Make the ComfyUI in `folder` importable, before anything else, with the command line of a CPU start."""
    sys.path.insert(0, str(folder))
    import comfy.options

    comfy.options.enable_args_parsing()
    command_line, sys.argv = sys.argv, ["main.py", "--cpu", *ATTENTION[attention]]
    try:
        import comfy.cli_args
    finally:
        sys.argv = command_line


def load_pack(name: str = PACK, folder: Path = ROOT) -> types.ModuleType:
    """The pack in `folder` as the module `name`, loaded the way ComfyUI loads a folder of custom_nodes."""
    spec = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


class StandIns(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Empty modules for all that a host would bring, so that its tests can be collected, counted and skipped."""

    NAMES = ("aiohttp", "comfy", "comfy_aimdo", "comfy_api", "comfy_extras", "folder_paths", "nodes", PACK)

    def find_spec(self, fullname, path=None, target=None):
        if fullname.partition(".")[0] in self.NAMES:
            return importlib.machinery.ModuleSpec(fullname, self, is_package=True)
        return None

    def create_module(self, spec):
        module = types.ModuleType(spec.name)
        module.__getattr__ = lambda name: MagicMock()
        return module

    def exec_module(self, module):
        pass
