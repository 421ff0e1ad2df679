"""`pip install ./sad_core`: into an environment of its own, and beside the pack in one process."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
import tomllib

from lab.folders import ROOT

HIDDEN = ("comfy", "nodes", "numpy", "matplotlib", "diffusers", "safetensors")
ALONE = f"""
import doctest, importlib.metadata, sys
sys.modules.update(dict.fromkeys({HIDDEN!r}))  # None makes any import of them fail
import sad_core, sad_core.kernels.choice, sad_core.evaluation.measures, sad_core.diffusers.families
print(sad_core.__file__)
print(importlib.metadata.version("symmetric-attention-core"))
print(doctest.testmod(sad_core))
"""
BESIDE = """
import importlib, sys, torch
sys.path.append({parent!r})
spaces = []
for name in ("sad_core", "symmetric_attention.sad_core"):
    if name.startswith("symmetric"):  # as ComfyUI loads the pack, without its nodes
        package = type(sys)("symmetric_attention")
        package.__path__ = [{parent!r} + "/symmetric_attention"]
        sys.modules["symmetric_attention"] = package
    core = importlib.import_module(name)
    importlib.import_module(name + ".stability.batch")
    operation = importlib.import_module(name + ".kernels.operation")
    spaces.append(importlib.import_module(name + ".operation_names").operation_namespace(operation.__name__))
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 4, 9, 8)
    out = core.skew_attention(q, k, v, 1.5, 2.0)
    compiled = torch.compile(core.skew_attention, backend="eager")(q, k, v, 1.5, 2.0)
    print(core.__file__, float(out.sum()), bool(torch.allclose(out, compiled, atol=1e-5)))
print(len(set(spaces)))
"""


def run(*command: object, folder: Path) -> str:
    done = subprocess.run([*map(str, command)], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> tuple[Path, Path]:
    """An environment with sad_core in it, and its Python. PyTorch and setuptools are those of the tests."""
    folder = tmp_path_factory.mktemp("installed")
    source = shutil.copytree(ROOT / "sad_core", folder / "sad_core", ignore=shutil.ignore_patterns("__pycache__"))
    venv.create(folder / "environment", with_pip=False)
    python = folder / "environment" / "bin" / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", folder=folder).strip())
    (site / "of_the_tests.pth").write_text(sysconfig.get_path("purelib"))
    options = ("--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check")
    run(sys.executable, "-m", "pip", "--python", python, "install", *options, source, folder=folder)
    shutil.rmtree(source)
    return python, site


def test_the_core_is_installed_whole_and_works_without_the_rest(installed):
    python, site = installed
    place, version, examples = run(python, "-c", ALONE, folder=site.parent).splitlines()
    assert Path(place).parent == site / "sad_core"
    assert version == tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert "failed=0" in examples
    files = {path.relative_to(ROOT) for path in (ROOT / "sad_core").rglob("*") if path.suffix in (".py", ".json")}
    assert {
        path.relative_to(site) for path in (site / "sad_core").rglob("*") if path.suffix in (".py", ".json")
    } == files


def test_it_requires_only_pytorch(installed):
    _, site = installed
    text = next(site.glob("symmetric_attention_core-*.dist-info")).joinpath("METADATA").read_text(encoding="utf-8")
    required = re.findall(r"^Requires-Dist: (.+)$", text, re.MULTILINE)
    assert [each for each in required if "extra ==" not in each] == ["torch>=2.8"]
    assert {re.match(r"\w+", each).group() for each in required if "extra ==" in each} == {"diffusers", "safetensors"}


def test_it_works_beside_the_pack_in_one_process(installed, tmp_path):
    python, site = installed
    (tmp_path / "symmetric_attention").symlink_to(ROOT, target_is_directory=True)
    lines = run(python, "-c", BESIDE.format(parent=str(tmp_path)), folder=site.parent).splitlines()
    own, pack = (line.split() for line in lines[:2])
    assert Path(own[0]).is_relative_to(site)
    assert Path(pack[0]).is_relative_to(tmp_path)
    assert own[1:] == pack[1:]
    assert own[2] == "True"
    assert lines[2] == "2", "both copies registered their operations by the same name"
