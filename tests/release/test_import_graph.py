"""The rooms of the repository import each other in one direction only (see docs/architecture.md)."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from lab.folders import ROOT
from lab.testing.import_graph import (
    SHIPPED,
    Import,
    circles,
    imports,
    imports_from_tests,
    misplaced_host,
    misplaced_matplotlib,
    room_of,
    wrong_arrows,
)

if shutil.which("git") is None or not (ROOT / ".git").exists():
    pytest.skip("not a git checkout, so nobody says which files belong to it", allow_module_level=True)


@pytest.fixture(scope="module")
def found() -> list[Import]:
    listed = subprocess.run(["git", "ls-files", "-z", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True)
    paths = [path for path in listed.stdout.split("\0") if path and (ROOT / path).exists()]
    return imports({path: (ROOT / path).read_text(encoding="utf-8") for path in paths})


def test_there_is_something_to_check(found):
    assert {room_of(each.path) for each in found} == {*SHIPPED, "lab", "tests"}
    assert len([each for each in found if each.is_ours]) > 300


def test_no_arrow_runs_back(found):
    assert wrong_arrows(found) == []


def test_nothing_imports_from_tests(found):
    assert imports_from_tests(found) == []


def test_only_nodes_host_imports_comfyui(found):
    assert misplaced_host(found) == []


def test_only_nodes_plots_imports_matplotlib_and_only_to_draw(found):
    assert misplaced_matplotlib(found) == []


def test_no_modules_import_each_other_in_a_circle(found):
    assert circles(found) == []


# --- every rule can fail

FILES = {
    "__init__.py": "from .nodes import comfy_entrypoint",
    "nodes/__init__.py": "from .skew import Node\nfrom comfy_api.latest import io",
    "nodes/skew.py": "from ..sad_core import attend\nfrom .host.apply import install\nfrom .plots import style",
    "nodes/host/__init__.py": "",
    "nodes/host/apply.py": "import comfy.utils\nfrom ...sad_core.attention import attend\nfrom . import settings",
    "nodes/host/settings.py": "",
    "nodes/plots/__init__.py": "",
    "nodes/plots/style.py": "def draw():\n    from matplotlib.figure import Figure",
    "sad_core/__init__.py": "from .attention import attend",
    "sad_core/attention.py": "import torch\nfrom .beta import blend",
    "sad_core/beta.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .attention import Attend",
    "lab/__init__.py": "",
    "lab/tool.py": "from sad_core import attend\nfrom symmetric_attention.nodes import skew\nimport comfy, matplotlib",
    "tests/core/test_beta.py": "from lab.tool import run\nimport sad_core\nimport symmetric_attention",
}
RULES = [wrong_arrows, imports_from_tests, misplaced_host, misplaced_matplotlib, circles]


def broken_rules(**changed: str) -> list[str]:
    """The names of the rules that FILES breaks with lines added to some of its files."""
    lines = {path.replace("__", "/") + ".py": text for path, text in changed.items()}
    found = imports({path: f"{text}\n{lines.pop(path, '')}" for path, text in FILES.items()})
    assert not lines, "a file that is not there"
    return [rule.__name__ for rule in RULES if rule(found)]


def test_what_is_allowed_breaks_no_rule():
    assert broken_rules() == []


@pytest.mark.parametrize(
    ("path", "line", "rule"),
    [
        ("sad_core__beta", "from ..nodes.skew import Node", "wrong_arrows"),
        ("sad_core__beta", "from .. import comfy_entrypoint", "wrong_arrows"),
        ("sad_core__beta", "def f():\n    from ..nodes.host import settings", "wrong_arrows"),
        ("sad_core__beta", "from lab.tool import run", "wrong_arrows"),
        ("nodes__host__settings", "from ..skew import Node", "wrong_arrows"),
        ("nodes__host__settings", "from ..plots.style import draw", "wrong_arrows"),
        ("nodes__skew", "import lab.tool", "wrong_arrows"),
        ("nodes__skew", "try:\n    pass\nexcept ImportError:\n    from lab import tool", "wrong_arrows"),
        ("tests__core__test_beta", "from .test_alpha import helper", "imports_from_tests"),
        ("tests__core__test_beta", "from tests.host.conftest import helper", "imports_from_tests"),
        ("tests__core__test_beta", "import conftest", "imports_from_tests"),
        ("lab__tool", "import tests.core.test_beta", "imports_from_tests"),
        ("nodes__skew", "import comfy.utils", "misplaced_host"),
        ("nodes__plots__style", "def f():\n    from folder_paths import x", "misplaced_host"),
        ("nodes__skew", "if True:\n    pass\nelse:\n    import nodes", "misplaced_host"),
        ("sad_core__beta", "class C:\n    from comfy_api.latest import io", "misplaced_host"),
        ("nodes__skew", "def f():\n    import matplotlib", "misplaced_matplotlib"),
        ("nodes__plots__style", "import matplotlib", "misplaced_matplotlib"),
        ("sad_core__attention", "with x:\n    from matplotlib import pyplot", "misplaced_matplotlib"),
        ("sad_core__beta", "from .attention import attend", "circles"),
        ("sad_core__beta", "from . import attend", "circles"),
        ("nodes__host__settings", "from .apply import install", "circles"),
        ("nodes__host__settings", "from . import apply", "circles"),
        ("nodes__host__settings", "from .settings import itself", "circles"),
        ("nodes__plots__style", "match x:\n    case 1:\n        from .. import Node", "circles"),
    ],
)
def test_each_rule_can_fail(path, line, rule):
    assert rule in broken_rules(**{path: line})


def test_a_violation_is_named_with_its_file_and_line():
    found = imports({**FILES, "sad_core/beta.py": "import torch\n\nfrom ..nodes.host import settings"})
    assert wrong_arrows(found) == ["sad_core/beta.py:3 imports nodes.host.settings"]
    circle = imports({**FILES, "nodes/host/settings.py": "from .apply import install"})
    assert circles(circle) == [["nodes.host.apply", "nodes.host.settings"]]


# --- where Python looks for modules

EDIT = re.compile(
    r"^\s*(sys\.path\.\w+\(|sys\.path *[+=]|sys\.modules\[.*\] *=|sys\.modules\.(update|setdefault|pop)\()",
    re.MULTILINE,
)


def test_what_changes_the_ways_to_modules_is_known():
    """Each with its reason beside it; tests may do so through pytest's monkeypatch, or in a process of their own."""
    listed = subprocess.run(["git", "ls-files", "-z", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True)
    texts = {path: (ROOT / path).read_text(encoding="utf-8") for path in listed.stdout.split("\0") if path}
    edits = {path: len(EDIT.findall(text)) for path, text in texts.items() if EDIT.search(text)}
    for program_of_another_process in ("tests/release/test_boundary.py", "tests/with_diffusers/test_install.py"):
        edits.pop(program_of_another_process, None)
    assert edits == {"lab/testing/in_process_host.py": 2}
