"""Names of tests: short enough to be read at a glance, and each there once in its file."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.folders import ROOT

FILES = sorted((ROOT / "tests").rglob("test_*.py"))
LONGEST = 69


def names(path: Path) -> Iterator[str]:
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            yield node.name


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_name_is_short_and_used_once(path):
    found = list(names(path))
    assert [name for name in found if len(name) > LONGEST] == []
    assert sorted(set(found)) == sorted(found)
