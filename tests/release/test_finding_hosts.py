"""`lab.testing.hosts` finds the ComfyUI it should, and says so where there is none. These need no host themselves."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from lab.folders import ROOT
from lab.testing import hosts

NEEDS_A_HOST = False


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """A machine without a ComfyUI and without a network."""
    for variable in ("COMFYUI_PATH", "COMFYUI_OLDEST_PATH", "COMFYUI_NEWER_PATH", "COMFYUI_FRONT_END_PATH"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(hosts, "ROOT", tmp_path / "elsewhere")
    monkeypatch.setattr(hosts, "REPOSITORY", str(tmp_path / "no repository"))
    return tmp_path


def commit(folder):
    """Put all of a folder into a repository; its commit."""
    git = ["git", "-C", str(folder), "-c", "user.name=x", "-c", "user.email=x@example.org"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "x"]):
        subprocess.run([*git, *command], check=True)
    return subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()


def make_host(folder):
    (folder / "comfy").mkdir(parents=True)
    (folder / "comfy" / "model_patcher.py").touch()
    (folder / "comfyui_version.py").touch()
    return folder


def test_the_variable_comes_first(nowhere, monkeypatch):
    make_host(nowhere / "ComfyUI")
    monkeypatch.setenv("COMFYUI_PATH", str(make_host(nowhere / "chosen")))
    assert hosts.find_host() == nowhere / "chosen"


def test_a_variable_that_points_nowhere_is_not_passed_over(nowhere, monkeypatch, capsys):
    make_host(nowhere / "ComfyUI")
    monkeypatch.setenv("COMFYUI_PATH", str(nowhere / "typo"))
    assert hosts.find_host() is None
    assert "COMFYUI_PATH" in capsys.readouterr().err


def test_the_comfyui_around_the_pack_comes_second(nowhere, monkeypatch):
    make_host(nowhere / "ComfyUI")
    around = make_host(nowhere / "around")
    monkeypatch.setattr(hosts, "ROOT", around / "custom_nodes" / "symmetric-attention")
    assert hosts.find_host() == around


def test_the_home_folder_comes_third(nowhere):
    assert hosts.find_host() is None
    home = make_host(nowhere / "ComfyUI")
    assert hosts.find_host() == home


def test_the_oldest_host_has_its_own_places(nowhere, monkeypatch):
    make_host(nowhere / "ComfyUI")
    assert hosts.find_oldest_host() is None
    make_host(nowhere / "ComfyUI-0.19")
    assert hosts.find_oldest_host() == nowhere / "ComfyUI-0.19"
    monkeypatch.setenv("COMFYUI_OLDEST_PATH", str(make_host(nowhere / "old")))
    assert hosts.find_oldest_host() == nowhere / "old"


def test_a_host_is_cloned_at_the_tag_and_kept(nowhere, monkeypatch):
    origin = make_host(nowhere / "origin")
    commit(origin)
    subprocess.run(["git", "-C", str(origin), "tag", "v0.33.0"], check=True)
    monkeypatch.setattr(hosts, "REPOSITORY", origin.as_uri())
    kept = nowhere / "cache" / "symmetric-attention" / "hosts" / "v0.33.0"
    assert hosts.find_host() == kept
    monkeypatch.setattr(hosts, "REPOSITORY", str(nowhere / "gone"))
    assert hosts.find_host() == kept
    assert hosts.find_oldest_host() is None


def test_the_newer_host_is_a_commit_with_places_of_its_own(nowhere, monkeypatch):
    make_host(nowhere / "ComfyUI")
    origin = make_host(nowhere / "origin")
    newest = commit(origin)
    monkeypatch.setattr(hosts, "REPOSITORY", origin.as_uri())
    assert hosts.find_newer_host(newest) == nowhere / "cache" / "symmetric-attention" / "hosts" / newest
    make_host(nowhere / "ComfyUI-newest")
    assert hosts.find_newer_host() == nowhere / "ComfyUI-newest"
    monkeypatch.setenv("COMFYUI_NEWER_PATH", str(make_host(nowhere / "newer")))
    assert hosts.find_newer_host() == nowhere / "newer"


def test_a_front_end_is_taken_out_of_its_package_and_kept(nowhere, monkeypatch, capsys):
    def download(command, _seconds):
        with zipfile.ZipFile(Path(command[command.index("--dest") + 1]) / "package.whl", "w") as package:
            package.writestr("comfyui_frontend_package/static/index.html", "")

    monkeypatch.setattr(hosts, "_quietly", download)
    kept = nowhere / "cache" / "symmetric-attention" / "front-ends" / "1.2.3"
    assert hosts.find_front_end("1.2.3") == kept
    assert (kept / "index.html").is_file()
    monkeypatch.setattr(hosts, "_quietly", lambda *_: subprocess.run(["false"], check=True))
    assert hosts.find_front_end("1.2.3") == kept
    assert hosts.find_front_end("1.2.4") is None
    monkeypatch.setenv("COMFYUI_FRONT_END_PATH", str(nowhere))
    assert hosts.find_front_end("1.2.3") is None
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("no front end: none on this machine, and comfyui-frontend-package==1.2.4 could not be")
    assert second == f"no front end: COMFYUI_FRONT_END_PATH is {nowhere}, and there is no front end in it"


def test_no_host_is_said_in_one_line(nowhere, capsys):
    assert hosts.find_host() is None
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.count("\n") == 1
    assert "no ComfyUI" in told.err


@pytest.mark.parametrize(
    ("name", "variable"),
    [("main", "COMFYUI_PATH"), ("oldest", "COMFYUI_OLDEST_PATH"), ("newer", "COMFYUI_NEWER_PATH")],
)
def test_the_command_prints_the_folder(tmp_path, monkeypatch, name, variable):
    folder = make_host(tmp_path / "host")
    monkeypatch.setenv(variable, str(folder))
    answer = subprocess.run(
        [sys.executable, "-m", "lab.testing.hosts", name], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert answer.stdout == f"{folder}\n"


def test_the_command_fails_where_there_is_none(tmp_path, monkeypatch):
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    answer = subprocess.run(
        [sys.executable, "-m", "lab.testing.hosts"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (answer.returncode, answer.stdout) == (1, "")
