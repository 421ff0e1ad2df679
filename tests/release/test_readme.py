"""The README's examples give the answers printed under them."""

from __future__ import annotations

import doctest
import re

from lab.folders import ROOT

README = ROOT / "README.md"


def test_every_example_gives_its_answer():
    failed, tried = doctest.testfile(str(README), module_relative=False)
    assert tried >= 4
    assert failed == 0


def test_every_file_the_readme_shows_exists():
    targets = re.findall(r"\]\((?!https?:)([^)#]+)\)", README.read_text(encoding="utf-8"))
    assert targets
    assert [target for target in targets if not (README.parent / target).exists()] == []
