"""The archive of the registry holds everything a user needs and nothing that a scanner or a user would reject."""

from __future__ import annotations

import ast
import re
import shutil
import struct
import sys
import zipfile
from pathlib import Path

import pytest
import tomllib

from lab.folders import ROOT
from lab.generate.archive import ignored, shipped, write_archive

if shutil.which("git") is None or not (ROOT / ".git").exists():
    pytest.skip("not a git checkout, so there is nothing to make an archive of", allow_module_level=True)

UNWANTED_MODULES = {
    *("base64", "ctypes", "ftplib", "http", "importlib", "marshal", "pickle", "requests", "runpy", "shelve", "smtplib"),
    *("socket", "ssl", "subprocess", "telnetlib", "urllib", "httpx"),
}  # not aiohttp, the host's server, which answers our scripts; its client is refused below
UNWANTED_CALLS = {"__import__", "compile", "eval", "exec"}
# What scanners look for in the text, comments and names included, in every file and not only in code.
UNWANTED_TEXT = (
    *("eval(", "exec(", "base64", "pickle", "marshal", "subprocess", "os.system", "popen", "ctypes", "__import__"),
    *("importlib", "torch.load", "urllib", "requests.", "httpx", "socket.", "XMLHttpRequest", "WebSocket"),
    *("ClientSession", "b64decode", "atob(", "fromhex", "pip install", "pip._internal"),
)
SAID_IN_WORDS = {".md", ".json", ".txt", ".toml"}  # pages may say "no pickle" and how to install matplotlib
LARGEST_ARCHIVE = 2_500_000  # bytes
LARGEST_FILE = 250_000
LARGEST_CARD = 60_000  # the picture of a workflow
LANGUAGES = {"en", "fr", "ja", "ko", "zh"}
NODE_ID = re.compile(r'node_id="(\w+)"')


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Path:
    """The archive, unpacked."""
    folder = tmp_path_factory.mktemp("archive")
    write_archive(folder / "pack.zip")
    assert (folder / "pack.zip").stat().st_size <= LARGEST_ARCHIVE
    with zipfile.ZipFile(folder / "pack.zip") as packed:
        packed.extractall(folder / "pack")
    return folder / "pack"


def imported(node: ast.AST) -> list[str]:
    """Names of the modules from outside the pack that this piece of code imports."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module is not None:
        return [node.module]
    return []


def test_everything_a_user_needs_is_in_it(archive):
    for name in ("__init__.py", "README.md", "LICENSE", "CHANGELOG.md", "pyproject.toml", "requirements.txt"):
        assert (archive / name).is_file(), name
    for folder in ("nodes", "nodes/host", "sad_core", "sad_core/kernels"):
        wanted = {path.name for path in (ROOT / folder).glob("*.py")}
        assert {path.name for path in (archive / folder).glob("*.py")} == wanted
    assert (archive / "sad_core" / "kernels" / "choices.json").is_file()
    assert list((archive / "calibrations").glob("*.calibration.json"))


def test_every_node_has_its_help_page(archive):
    ids = [match for path in (archive / "nodes").glob("*.py") for match in NODE_ID.findall(path.read_text("utf-8"))]
    assert len(ids) == len(set(ids)) >= 5
    assert {path.stem for path in (archive / "web" / "docs").glob("*.md")} == set(ids)


def test_every_workflow_has_its_picture_and_a_place_in_their_order(archive):
    workflows = sorted((archive / "workflows").glob("*.json"))
    assert workflows
    assert {path.stem for path in (archive / "workflows").glob("*.jpg")} == {path.stem for path in workflows}
    for number, path in enumerate(workflows, 1):
        assert path.stem.startswith(f"{number:02}_")
        assert path.with_suffix(".jpg").stat().st_size <= LARGEST_CARD


def test_only_what_ships_is_in_it(archive):
    top = {path.name for path in archive.iterdir()}
    folders = {"tests", "lab", "docs"}
    assert not top & (folders | {"Makefile", ".ci", ".gitignore"})
    kinds = {Path(name).suffix for name in shipped()}
    assert kinds <= {".py", ".md", ".json", ".jpg", ".js", ".css", ".txt", ".toml", ".png", ".svg", ""}


def test_the_code_keeps_away_from_network_processes_and_pickles(archive):
    for path in archive.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for name in imported(node):
                assert name.partition(".")[0] not in UNWANTED_MODULES, f"{path.name} imports {name}"
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in UNWANTED_CALLS, f"{path.name} calls {node.func.id}"


def test_no_file_holds_a_text_that_a_scanner_flags(archive):
    """Registry scanners search for substrings; even a comment or `model.eval()` costs users their update."""
    named = {"style.py"}  # whose messages say how to install matplotlib
    for path in archive.rglob("*"):
        if path.is_file() and path.suffix not in SAID_IN_WORDS | {".jpg", ".png"}:
            text = path.read_text(encoding="utf-8")
            allowed = {"pip install"} if path.name in named else set()
            found = [word for word in UNWANTED_TEXT if word in text and word not in allowed]
            assert found == [], path.relative_to(archive)


def test_the_code_is_that_of_the_oldest_python(archive):
    """Newer syntax would keep the pack from being imported there; pyproject.toml says which Python that is."""
    minor = int(re.fullmatch(r">=3\.(\d+)", project()["requires-python"]).group(1))
    files = sorted(archive.rglob("*.py"))
    assert len(files) > 50
    for path in files:
        ast.parse(path.read_text(encoding="utf-8"), filename=str(path), feature_version=(3, minor))


def test_no_file_is_large(archive):
    for path in archive.rglob("*"):
        assert path.stat().st_size <= LARGEST_FILE, path.relative_to(archive)


def test_nothing_but_the_listed_packages_has_to_be_installed(archive):
    """Every import of the shipped code is the standard library's, ComfyUI's own, or declared in pyproject.toml."""
    hosts = {"torch", "safetensors", "numpy", "PIL", "comfy", "comfy_api", "folder_paths", "server", "aiohttp"}
    hosts |= {"comfy_execution", "latent_preview"}
    hosts.add("triton")  # comes with torch on Linux; the pack does without elsewhere
    declared = set(project()["dependencies"])
    assert declared <= {"matplotlib"}  # what the README names
    for path in archive.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for name in imported(node):
                top = name.partition(".")[0]
                assert top in sys.stdlib_module_names | hosts | declared, f"{path.name} imports {name}"


def test_the_texts_of_every_language_ship(archive):
    assert {path.parent.name for path in (archive / "locales").rglob("nodeDefs.json")} == LANGUAGES


def test_the_registry_reads_all_of_what_pyproject_says():
    """Of addresses, systems and versions comfy-cli drops, with no more than a warning, what it does not know."""
    content = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    given, comfy = content["project"], content["tool"]["comfy"]
    assert {"Repository", "Documentation", "Issues"} <= set(given["urls"])
    assert all(address.startswith("https://") for address in given["urls"].values())
    systems = [each for each in given["classifiers"] if each.startswith("Operating System :: ")]
    assert systems == ["Operating System :: OS Independent"]
    assert not any(each.startswith("Environment :: ") for each in given["classifiers"])  # no card is asked for
    assert re.fullmatch(r">=\d+\.\d+\.\d+", comfy["requires-comfyui"])
    assert re.fullmatch(r"\d+\.\d+\.\d+", given["version"])
    assert set(given["license"]) == {"file"}
    assert set(comfy) == {"PublisherId", "DisplayName", "Icon", "Banner", "requires-comfyui"}


def test_icon_and_banner_fit_the_registry():
    """Square and at most 400×400; 21:9. The addresses end in files that are there."""
    comfy = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["comfy"]
    for key, (width, height) in {"Icon": (400, 400), "Banner": (1050, 450)}.items():
        path = ROOT / comfy[key].partition("/main/")[2]
        header = path.read_bytes()[:24]
        assert header.startswith(b"\x89PNG")
        assert struct.unpack(">II", header[16:24]) == (width, height)


def test_the_publish_workflow_holds_no_secret():
    text = (ROOT / ".github" / "workflows" / "publish.yml").read_text(encoding="utf-8")
    assert re.findall(r"token:\s*(.+)", text) == ["${{ secrets.REGISTRY_ACCESS_TOKEN }}"]


def test_what_is_left_out_exists_and_is_anchored():
    assert len(ignored()) > 5
    for entry in ignored():
        assert (ROOT / entry).exists(), entry


@pytest.mark.parametrize("entry", ["docs/", "/*.md", "*.png"])
def test_an_entry_that_would_take_more_than_it_says_is_refused(entry, tmp_path, monkeypatch):
    (tmp_path / ".comfyignore").write_text(f"/tests/\n{entry}\n", encoding="utf-8")
    monkeypatch.setattr("lab.generate.archive.ROOT", tmp_path)
    with pytest.raises(ValueError, match="must be a path that starts with /"):
        ignored()


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_the_two_lists_of_requirements_agree():
    listed = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in listed if line and not line.startswith("#")] == project()["dependencies"]


def test_the_changelog_has_this_version():
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert headings[0] == project()["version"]
