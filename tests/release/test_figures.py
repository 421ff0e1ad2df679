"""Every committed picture is in the table of makers, and every maker exists."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys

import pytest

from lab.figures.makers import MAKERS, NODES, WORKFLOWS
from lab.folders import ROOT
from lab.generate.figures_page import PAGE, page


def test_the_page_is_what_the_table_says():
    assert PAGE.read_text(encoding="utf-8") == page(), "run: python -m lab.generate.figures_page"


@pytest.mark.skipif(shutil.which("git") is None or not (ROOT / ".git").exists(), reason="not a git checkout")
def test_every_picture_has_one_maker_and_every_maker_its_pictures():
    patterns = ["*.png", "*.jpg", "*.jpeg", "*.gif", "*.svg", "*.webp"]
    listed = subprocess.run(["git", "ls-files", "-z", *patterns], cwd=ROOT, capture_output=True, text=True, check=True)
    made = [picture for maker in MAKERS for picture in maker.pictures]
    assert sorted(made) == sorted(path for path in listed.stdout.split("\0") if path)


def test_every_command_runs_a_module_that_exists():
    for maker in MAKERS:
        found = importlib.util.find_spec(maker.module)
        assert found is not None, maker.command
        assert found.origin is not None
        path = ROOT / maker.module.replace(".", "/")
        text = (path / "__main__.py" if path.is_dir() else path.with_suffix(".py")).read_text(encoding="utf-8")
        assert '__name__ == "__main__"' in text, maker.command


def test_there_is_a_picture_for_every_help_page_and_workflow():
    assert set(NODES) == {path.stem for path in (ROOT / "web" / "docs").glob("*.md")}
    assert set(WORKFLOWS) == {path.stem for path in (ROOT / "workflows").glob("*.json")}


def test_the_command_lists_the_makers_and_refuses_an_unknown_name():
    command = [sys.executable, "-m", "lab.figures"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for maker in MAKERS:
        assert f"python -m {maker.command}\n" in listed
        assert all(need in listed for need in maker.needs)
    refused = subprocess.run([*command, "nothing"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "there is no nothing; choose from all, emblem" in refused.stderr
