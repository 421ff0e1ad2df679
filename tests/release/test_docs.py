"""What the pages say is so: quoted messages are those of the code, links lead somewhere, help pages show their node."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from lab.folders import DOCS, ROOT

PAGES = [*sorted(DOCS.glob("*.md")), ROOT / "lab" / "demo" / "README.md"]  # others: test_addresses.py
HELP = sorted((ROOT / "web" / "docs").glob("*.md"))
MOST_BYTES = 40_000  # of a picture on a help page


def messages_of(path: Path) -> list[str]:
    """Every text in a file of code, with … in the place of what is filled in."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    texts = []
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            texts.append("".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            texts.append(node.value)
    return texts


@pytest.fixture(scope="module")
def messages() -> str:
    files = [ROOT / "nodes", ROOT / "sad_core"]
    return "\n".join(text for folder in files for path in folder.rglob("*.py") for text in messages_of(path))


def quoted_messages() -> list[str]:
    page = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    return re.findall(r'^\| "(.+?)" \| ', page, re.MULTILINE)


def test_there_are_messages_to_check():
    assert len(quoted_messages()) >= 20


@pytest.mark.parametrize("message", quoted_messages())
def test_every_quoted_message_is_one_of_the_code(messages, message):
    assert message in messages


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_link_to_a_file_leads_to_one(page):
    for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", HELP, ids=lambda page: page.stem)
def test_every_help_page_shows_a_small_picture(page):
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", page.read_text(encoding="utf-8"))
    assert pictures
    for picture in pictures:
        assert (page.parent / picture).stat().st_size <= MOST_BYTES, picture


def test_the_tour_names_every_workflow():
    tour = (DOCS / "tour.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(\w+)` \|", tour, re.MULTILINE)) == {
        path.stem for path in (ROOT / "workflows").glob("*.json")
    }
