#!/usr/bin/env python3
"""Writes docs/figures.md from the table of lab/figures/makers.py. Needs only the standard library.

python -m lab.generate.figures_page
"""

from __future__ import annotations

from lab.figures.makers import MAKERS, Maker
from lab.folders import DOCS

PAGE = DOCS / "figures.md"
HEAD = """<!-- Written by lab/generate/figures_page.py from lab/figures/makers.py; change it and run again. -->

# Where the pictures come from

This page names the command that makes each picture of this repository. `make figures` lists the commands,
`make figures NAMES=emblem` runs one of them, and `make figures NAMES=all` runs all. `make figures` makes the
environment of the tests, which every command needs. The table names any other needs. A redrawn picture has other
bytes on most machines, so commit only pictures that show something new.

| picture | command | needs |
| --- | --- | --- |
"""


def rows(maker: Maker) -> list[str]:
    """A line of the table for each picture."""
    needs = " and ".join(maker.needs)
    return [f"| [{path}](../{path}) | `python -m {maker.command}` | {needs} |" for path in maker.pictures]


def page() -> str:
    """The page as it should be."""
    return HEAD + "\n".join(line for maker in MAKERS for line in rows(maker)) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
