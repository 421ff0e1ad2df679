"""The README's examples give the answers printed under them."""

from __future__ import annotations

import doctest

from lab.folders import ROOT

README = ROOT / "README.md"


def test_every_example_gives_its_answer():
    failed, tried = doctest.testfile(str(README), module_relative=False)
    assert tried >= 4
    assert failed == 0
