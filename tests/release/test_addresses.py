"""Links work from where a page is shown, and the owner of the repository is written in one place."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import tomllib

from lab.folders import ROOT
from lab.generate import addresses
from lab.generate.addresses import LABEL, PATH_LINK, SHOWN_ELSEWHERE, address_of, files, rewritten, slug, with_addresses
from lab.generate.archive import shipped

OWN = re.compile(
    r"https://(?:github\.com|raw\.githubusercontent\.com)/([\w.-]+/[\w.-]+)/(?:(?:blob|tree)/)?main/([^\s)\"]+)"
)
CODE = re.compile(r"^```.*?^```|^ {4}.*?$|`[^`\n]+`", re.DOTALL | re.MULTILINE)


def tracked() -> list[str]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [path for path in listed.split("\0") if path]


def in_git() -> bool:
    return shutil.which("git") is not None and (ROOT / ".git").exists()


def headings(page: Path) -> set[str]:
    """The anchors of a page, as GitHub makes them of its headings."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def dead(path: str) -> bool:
    """Return whether a path of the repository, with or without an anchor, does not exist."""
    name, _, anchor = path.partition("#")
    return not (ROOT / name).exists() or (anchor != "" and anchor not in headings(ROOT / name))


def test_every_address_is_that_of_the_repository():
    assert not rewritten(), "run: python -m lab.generate.addresses"


@pytest.mark.parametrize("name", SHOWN_ELSEWHERE)
def test_a_page_of_the_registry_links_to_addresses_only(name):
    text = CODE.sub("", (ROOT / name).read_text(encoding="utf-8"))
    defined = set(re.findall(r"^\[([^\]]+)\]: ", text, re.MULTILINE))
    assert defined
    assert PATH_LINK.findall(text) == []
    assert set(LABEL.findall(text)) == defined


def test_every_own_address_leads_to_a_file_and_a_heading():
    found = [address for path in files() for address in OWN.findall(path.read_text(encoding="utf-8"))]
    assert len(found) > 20
    assert {owner_and_name for owner_and_name, _ in found} == {slug()}
    assert [path for _, path in found if dead(path)] == []


def test_a_help_page_links_to_nothing_that_its_folder_does_not_hold():
    """The editor serves web/docs and nothing above it, and looks there for the pictures of pages in folders too."""
    here = set(shipped()) if in_git() else None
    for page in sorted((ROOT / "web" / "docs").rglob("*.md")):
        for target in PATH_LINK.findall(CODE.sub("", page.read_text(encoding="utf-8"))):
            path = f"web/docs/{target}"
            assert ".." not in target
            assert (ROOT / path).is_file(), f"{page.name}: {target}"
            assert here is None or path in here, f"{page.name}: {target} does not ship"


@pytest.mark.skipif(not in_git(), reason="not a git checkout")
def test_no_other_file_names_the_owner():
    """Whoever publishes changes pyproject.toml; the command changes the files it knows, so there may be no other."""
    owner = re.escape(slug().partition("/")[0])
    naming = re.compile(rf"github(?:usercontent)?\.com/{owner}/|PublisherId\s*=")
    known = {path.relative_to(ROOT).as_posix() for path in files()}
    for path in tracked():
        if path not in known and Path(path).suffix not in (".png", ".jpg", ".safetensors", ".xz"):
            text = (ROOT / path).read_text(encoding="utf-8")
            assert path.startswith("tests/release/") or not naming.search(text), path


def test_every_address_is_built_from_that_of_the_repository():
    content = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    urls, comfy = content["project"]["urls"], content["tool"]["comfy"]
    assert urls["Documentation"] == address_of("docs/tour.md", slug())
    assert urls["Issues"] == urls["Bug Tracker"] == f"{urls['Repository']}/issues"
    assert comfy["Icon"] == address_of("docs/images/icon.png", slug())
    assert comfy["Banner"] == address_of("docs/images/banner.png", slug())
    assert comfy["PublisherId"]


@pytest.fixture
def copy(tmp_path) -> Path:
    """The pages and pictures of the repository, to be changed."""
    for path in files():
        there = tmp_path / path.relative_to(ROOT)
        there.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, there)
    shutil.copytree(ROOT / "docs" / "images", tmp_path / "docs" / "images")
    shutil.copytree(ROOT / "workflows", tmp_path / "workflows")
    return tmp_path


def test_one_line_and_one_command_move_everything_to_another_owner(copy):
    before = {path: path.read_text(encoding="utf-8") for path in files(copy)}
    project = copy / "pyproject.toml"
    ours, other = f"{addresses.GITHUB}/{slug()}", f"{addresses.GITHUB}/somebody/another-name"
    project.write_text(before[project].replace(f'Repository = "{ours}"', f'Repository = "{other}"'), encoding="utf-8")
    for path, text in rewritten(copy).items():
        path.write_text(text, encoding="utf-8")
    assert not rewritten(copy)
    for path in files(copy):
        text = path.read_text(encoding="utf-8")
        assert slug() not in text, path.name
        assert text.count("somebody/another-name") == before[path].count(slug()), path.name


def test_a_link_written_as_a_path_becomes_an_address(copy):
    text = with_addresses("See [the tour](docs/tour.md#a-first-run) and [x](https://x.org).\n", "o/n", copy)
    assert text.splitlines()[0] == "See [the tour][docs/tour.md#a-first-run] and [x](https://x.org)."
    assert (
        text.splitlines()[-1] == "[docs/tour.md#a-first-run]: https://github.com/o/n/blob/main/docs/tour.md#a-first-run"
    )
    assert with_addresses(text, "o/n", copy) == text
    assert "raw.githubusercontent.com/o/n/main/docs/images/icon.png" in with_addresses(
        "![i](docs/images/icon.png)", "o/n", copy
    )


def test_a_repository_that_is_not_on_github_is_refused(copy):
    project = copy / "pyproject.toml"
    text = project.read_text(encoding="utf-8")
    project.write_text(re.sub(r'Repository = ".*"', 'Repository = "https://example.org/x"', text), encoding="utf-8")
    with pytest.raises(ValueError, match=r"Repository in pyproject\.toml is https://example\.org/x; it must be"):
        rewritten(copy)


def test_a_dead_path_is_found():
    assert not dead("docs/what_to_turn.md#measure-it-on-your-own-checkpoint")
    assert dead("docs/what_to_turn.md#nothing-of-the-kind")
    assert dead("docs/nothing.md")
