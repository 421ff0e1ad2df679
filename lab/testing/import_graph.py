"""The imports between the modules of this repository, read from the sources without running them, and their rules.

The arrows, none of which runs back:

    __init__ → nodes → nodes/host → sad_core, demo_model      lab → what ships      tests → lab and what they test
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

PACK = "symmetric_attention"  # what the pack is called where it is loaded into a ComfyUI
PACK_ITSELF = "(the pack)"  # the module of __init__.py
ROOMS = ("nodes/host", "nodes", "sad_core", "demo_model", "lab", "tests")  # the more special first
SHIPPED = (PACK_ITSELF, "nodes", "nodes/host", "sad_core", "demo_model")
MAY_IMPORT = {
    PACK_ITSELF: {"nodes"},
    "nodes": {"nodes", "nodes/host", "sad_core", "demo_model"},
    "nodes/host": {"nodes/host", "sad_core", "demo_model"},
    "sad_core": {"sad_core"},
    "demo_model": {"demo_model"},
    "lab": {"lab", *SHIPPED},
    "tests": {"lab", *SHIPPED},
}
HOST_MODULES = {"comfy", "comfy_aimdo", "comfy_extras", "comfy_execution", "execution", "folder_paths", "server"}
HOST_MODULES |= {"aiohttp", "nodes"}  # ComfyUI brings the one, and has a module of the other's name
API_OF_THE_HOST = "comfy_api"
PLOTS, PLOTTING = "nodes/plots/", "matplotlib"


@dataclass(frozen=True)
class Import:
    """One imported module.

    Attributes:
        path: of the file that imports.
        line: in it.
        module: ours by its path below the root with dots, any other by its name.
        is_ours: whether it is a module of this repository.
        at_start: whether importing the file imports it, and not only a call or a type checker does.
        is_relative: whether it was written with dots.
    """

    path: str
    line: int
    module: str
    is_ours: bool
    at_start: bool
    is_relative: bool

    def __str__(self) -> str:
        return f"{self.path}:{self.line} imports {self.module}"


def module_of(path: str) -> str:
    """The name of a file's module, as seen from the root."""
    parts = path.removesuffix(".py").split("/")
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts) or PACK_ITSELF


def room_of(path: str) -> str:
    """The room a file or a module's path lies in."""
    return next((room for room in ROOMS if path == room or path.startswith(f"{room}/")), PACK_ITSELF)


def imports(sources: Mapping[str, str]) -> list[Import]:
    """All imports of all files; `sources` are their texts by path."""
    modules = {module_of(path) for path in sources}
    modules |= {".".join(name.split(".")[:end]) for name in modules for end in range(1, name.count(".") + 1)}
    return [found for path, text in sources.items() for found in _imports_of(path, text, modules)]


def _imports_of(path: str, text: str, modules: set[str]) -> Iterator[Import]:
    package = path.split("/")[:-1]
    for node, at_start in _import_statements(ast.parse(text), True):
        level = node.level if isinstance(node, ast.ImportFrom) else 0
        wanted: list[tuple[str, str | None]] = [(alias.name, None) for alias in node.names]
        if isinstance(node, ast.ImportFrom):
            wanted = [(node.module or "", alias.name) for alias in node.names]
        for name, part in wanted:
            stem = package[: len(package) - level + 1] if level else []
            full = ".".join([*stem, *filter(None, name.split("."))])
            ours = level > 0 or full.partition(".")[0] in ("lab", "tests", "sad_core", "demo_model", PACK)
            if full == PACK or full.startswith(f"{PACK}."):
                full = full.removeprefix(PACK).removeprefix(".")
            if ours and part is not None and ".".join(filter(None, (full, part))) in modules:
                full = ".".join(filter(None, (full, part)))
            yield Import(path, node.lineno, full or (PACK_ITSELF if ours else ""), ours, at_start, level > 0)


def _import_statements(code: ast.AST, at_start: bool) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    """The import statements inside of some code, and whether they run with it."""
    for node in ast.iter_child_nodes(code):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield node, at_start
            continue
        is_function = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        is_checked_only = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        yield from _import_statements(node, at_start and not is_function and not is_checked_only)


def wrong_arrows(found: list[Import]) -> list[str]:
    """Imports between rooms that the arrows do not allow."""
    return [
        str(each)
        for each in found
        if each.is_ours and _room_of_module(each.module) not in MAY_IMPORT[room_of(each.path)]
    ]


def _room_of_module(module: str) -> str:
    return PACK_ITSELF if module == PACK_ITSELF else room_of(module.replace(".", "/"))


def imports_from_tests(found: list[Import]) -> list[str]:
    """Imports of a test or a conftest, by whatever name."""
    return [
        str(each)
        for each in found
        if each.module.partition(".")[0] in ("tests", "conftest")
        or (room_of(each.path) == "tests" and each.is_relative)
    ]


def misplaced_host(found: list[Import]) -> list[str]:
    """Imports of ComfyUI outside of nodes/host, in what ships; nodes may use its public `comfy_api`."""
    wrong = []
    for each in found:
        top, room = each.module.partition(".")[0], room_of(each.path)
        if each.is_ours or room not in SHIPPED or room == "nodes/host":
            continue
        if top in HOST_MODULES or (top == API_OF_THE_HOST and room != "nodes"):
            wrong.append(str(each))
    return wrong


def misplaced_matplotlib(found: list[Import]) -> list[str]:
    """Imports of matplotlib in what ships, outside of nodes/plots or before a picture is drawn."""
    return [
        str(each)
        for each in found
        if room_of(each.path) in SHIPPED
        and each.module.partition(".")[0] == PLOTTING
        and (each.at_start or not each.path.startswith(PLOTS))
    ]


def circles(found: list[Import]) -> list[list[str]]:
    """Groups of modules that import each other while they are imported, directly or through others."""
    edges: dict[str, set[str]] = {}
    for each in found:
        if each.is_ours and each.at_start:
            edges.setdefault(module_of(each.path), set()).add(each.module)
    reached = {module: _reached_from(module, edges) for module in edges}
    groups = {tuple(sorted(other for other in reached[one] if one in reached.get(other, ()))) for one in edges}
    return sorted(list(group) for group in groups if group)


def _reached_from(start: str, edges: Mapping[str, set[str]]) -> set[str]:
    """Every module that is imported when `start` is; `start` itself where there is a circle."""
    reached: set[str] = set()
    ahead = list(edges.get(start, ()))
    while ahead:
        module = ahead.pop()
        if module not in reached:
            reached.add(module)
            ahead += edges.get(module, ())
    return reached
