"""The pages are right: quoted messages are those of the code, links work, help pages show their node."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from lab.benchmarks.gpu.pages import BEGIN, END, SPEED, write_between
from lab.folders import DOCS, ROOT

PAGES = [*sorted(DOCS.glob("*.md")), ROOT / "lab" / "demo" / "README.md"]  # others: test_addresses.py
HELP = sorted((ROOT / "web" / "docs").glob("*.md"))
FOR_DEVELOPERS = ["CONTRIBUTING.md", "docs/architecture.md", "docs/develop.md"]
MOST_BYTES = 40_000  # of a picture on a help page


def messages_of(path: Path) -> list[str]:
    """Every text in a file of code, with … in the place of what is filled in."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    texts = []
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            texts.append("".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            texts.append(node.value)
    return texts


@pytest.fixture(scope="module")
def messages() -> str:
    files = [ROOT / "nodes", ROOT / "sad_core"]
    return "\n".join(text for folder in files for path in folder.rglob("*.py") for text in messages_of(path))


def quoted_messages() -> list[str]:
    page = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    cells = re.findall(r'^\| "(.+?)" \| ', page, re.MULTILINE)
    return [message for cell in cells for message in cell.split('" or "')]


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


def named_paths(page: str) -> set[str]:
    """Return the code spans of a page for developers that look like paths below the root."""
    text = (ROOT / page).read_text(encoding="utf-8")
    words = {word for code in re.findall(r"`([^`\n]+)`", text) for word in code.split()}
    return {
        word for word in words if re.fullmatch(r"[\w.]+(/[\w.]+)*(/|\.(py|md|js|json|png|yml|toml))|tests/\w+", word)
    }


@pytest.mark.parametrize("page", FOR_DEVELOPERS)
def test_every_path_that_is_named_exists(page):
    named = {path for path in named_paths(page) if not re.search("[A-Z]{4}", path) or (ROOT / path).exists()}
    assert len(named) > 5
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("page", FOR_DEVELOPERS)
def test_every_module_that_is_to_be_run_exists(page):
    for module in re.findall(r"python3? -m (lab[\w.]+)", (ROOT / page).read_text(encoding="utf-8")):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), module


def test_every_target_that_is_named_is_one_of_the_makefile():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for page in [*PAGES, ROOT / "CONTRIBUTING.md"]:
        named = re.findall(r"(?:`| {4})make ([a-z-]+)", page.read_text(encoding="utf-8"))
        assert set(named) <= targets, page.name


@pytest.mark.skipif(shutil.which("git") is None or not (ROOT / ".git").exists(), reason="not a git checkout")
def test_the_architecture_names_every_folder():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    paths = [path.split("/") for path in listed.split("\0") if path]
    folders = {f"{path[0]}/" for path in paths if len(path) > 1}
    rooms = {
        f"{path[0]}/{path[1]}" for path in paths if len(path) > 2 and path[0] in ("lab", "tests", "nodes", "sad_core")
    }
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    assert [folder for folder in sorted(folders) if f"`{folder}`" not in text] == []
    assert [room for room in sorted(rooms) if f"`{room}" not in text] == []


def test_the_tables_of_a_card_take_their_place_in_the_page(tmp_path):
    page, written = SPEED.read_text(encoding="utf-8"), tmp_path / "speed.md"
    written.write_text(page, encoding="utf-8")
    for tables in ("the tables", "newer ones \\1"):
        write_between(written, tables)
        before, after = page.partition(BEGIN)[0], page.partition(END)[2]
        assert written.read_text(encoding="utf-8") == f"{before}{BEGIN}\n\n{tables}\n\n{END}{after}"
    written.write_text(page.replace(END, ""), encoding="utf-8")
    with pytest.raises(ValueError, match="has no place for the tables"):
        write_between(written, "the tables")


def test_what_it_costs_is_said_on_two_screens():
    page = SPEED.read_text(encoding="utf-8")
    assert len(page.partition(BEGIN)[0].splitlines()) + len(page.partition(END)[2].splitlines()) <= 90
