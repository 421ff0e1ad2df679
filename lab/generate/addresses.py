#!/usr/bin/env python3
"""Makes every address of this repository the one that `Repository` in pyproject.toml says, and the version of sad_core
the one of the pack. Needs no third package.

    python -m lab.generate.addresses           # after a change of Repository or version, or with a new link
    python -m lab.generate.addresses --check   # tells by its exit code whether there is anything to do

README.md and CHANGELOG.md are shown by the registry and lie in its archive, which holds no docs/ and no lab/, so a link
in them is an address on the network. Their text names the path, `[the tour][docs/tour.md]`, and this command writes the
addresses at their end. A link written as `[the tour](docs/tour.md)` becomes one of these.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import tomllib

from lab.folders import ROOT

CORE = "sad_core/pyproject.toml"
VERSION = re.compile(r'^version = "[^"]*"', re.MULTILINE)
SHOWN_ELSEWHERE = ("README.md", "CHANGELOG.md")
BRANCH = "main"
PICTURES = (".png", ".jpg")
GITHUB, RAW = "https://github.com", "https://raw.githubusercontent.com"
SLUG = r"[\w.-]+/[\w.-]+"  # owner and name
# An address that can be no other repository's: one of our pictures.
OWN_PICTURE = re.compile(rf"{re.escape(RAW)}/({SLUG})/{BRANCH}/(docs/images/[\w./-]+)")
PATH_LINK = re.compile(r"\]\((?![a-z]+:|#)([^)\s]+)\)")
LABEL = re.compile(r"\]\[([^\]\s]+)\]")
HEAD = "<!-- Written by python -m lab.generate.addresses. -->\n"


def slug(root: Path = ROOT) -> str:
    """Owner and name of the repository, as pyproject.toml has them.

    Raises:
        ValueError: `Repository` is no address on GitHub.
    """
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    address: str = project["urls"]["Repository"]
    found = re.fullmatch(rf"{re.escape(GITHUB)}/({SLUG})", address)
    if found is None:
        raise ValueError(f"Repository in pyproject.toml is {address}; it must be {GITHUB}/OWNER/NAME.")
    return found.group(1)


def version(root: Path = ROOT) -> str:
    """The version of the pack, as pyproject.toml has it."""
    found: str = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    return found


def address_of(path: str, slug: str, root: Path = ROOT) -> str:
    """Return the URL of a path of the repository: a picture itself, or the page of any other file or folder."""
    if path.endswith(PICTURES):
        return f"{RAW}/{slug}/{BRANCH}/{path}"
    kind = "tree" if (root / path.partition("#")[0]).is_dir() else "blob"
    return f"{GITHUB}/{slug}/{kind}/{BRANCH}/{path}"


def with_addresses(text: str, slug: str, root: Path = ROOT) -> str:
    """The text of a page with links by path, and the address of each at its end."""
    text = PATH_LINK.sub(r"][\1]", text.partition(HEAD)[0])
    paths = sorted({label for label in LABEL.findall(text) if (root / label.partition("#")[0]).exists()})
    return (
        text.rstrip("\n") + f"\n\n{HEAD}\n" + "".join(f"[{path}]: {address_of(path, slug, root)}\n" for path in paths)
    )


def files(root: Path = ROOT) -> Iterator[Path]:
    """Every file that may hold an address of the repository."""
    yield root / "pyproject.toml"
    yield root / CORE
    yield root / "demo_model" / "shape.py"
    for folder in (".", "docs", "web/docs", "lab/demo"):
        yield from sorted((root / folder).glob("*.md"))
    yield from sorted((root / "web" / "docs").glob("*/*.md"))  # in other languages


def rewritten(root: Path = ROOT) -> Mapping[Path, str]:
    """The files that have to change, and what they should say."""
    now = slug(root)
    texts = {path: path.read_text(encoding="utf-8") for path in files(root)}
    mentioned = {found for text in texts.values() for found in OWN_PICTURE.findall(text)}
    before = {owner_and_name for owner_and_name, picture in mentioned if (root / picture).exists()} - {now}
    changed = {}
    for path, text in texts.items():
        new = text
        for old in before:
            new = re.sub(rf"({re.escape(GITHUB)}|{re.escape(RAW)})/{re.escape(old)}(?![\w-])", rf"\1/{now}", new)
        if path == root / CORE:
            new = VERSION.sub(f'version = "{version(root)}"', new)
        if path.relative_to(root).as_posix() in SHOWN_ELSEWHERE:
            new = with_addresses(new, now, root)
        if new != text:
            changed[path] = new
    return changed


def main() -> int:
    changed = rewritten()
    if "--check" in sys.argv[1:]:
        return int(bool(changed))
    for path, text in changed.items():
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
