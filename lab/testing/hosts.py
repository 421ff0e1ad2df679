"""Find the ComfyUI hosts of the tests, and a newer front end.

    python -m lab.testing.hosts main       prints the folder of the host the pack is made for, or exits with 1
    python -m lab.testing.hosts oldest     the same for the oldest host the pack supports
    python -m lab.testing.hosts newer      the same for a commit of ComfyUI after the host the pack is made for
    python -m lab.testing.hosts front-end  the same for a newer front end than that host brings

Needs only the standard library.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from lab.folders import ROOT, cache_folder, expand_path

REPOSITORY = "https://github.com/comfyanonymous/ComfyUI"
MAIN, OLDEST = "0.33.0", "0.19.0"
NEWER = "783545f689a0af730065994b46b382ae24844c99"  # of 2026-08-22, which calls itself 0.33.0 too
FRONT_END = "1.58.1"  # of comfyui-frontend-package; MAIN brings 1.48.7
SECONDS_TO_ANSWER = 10
SECONDS_TO_CLONE = 300


def find_host(version: str = MAIN) -> Path | None:
    """The ComfyUI to test in: $COMFYUI_PATH, the one this pack lies in, ~/ComfyUI, or a clone of `version`.

    Prints why there is none.
    """
    enclosing = ROOT.parent.parent if ROOT.parent.name == "custom_nodes" else None
    return _find("COMFYUI_PATH", [enclosing, Path.home() / "ComfyUI"], version)


def find_oldest_host(version: str = OLDEST) -> Path | None:
    """The oldest ComfyUI the pack supports: $COMFYUI_OLDEST_PATH, ~/ComfyUI-0.19, or a clone of `version`.

    Prints why there is none.
    """
    return _find("COMFYUI_OLDEST_PATH", [Path.home() / "ComfyUI-0.19"], version)


def find_newer_host(commit: str = NEWER) -> Path | None:
    """The ComfyUI after `MAIN` to test in: $COMFYUI_NEWER_PATH, ~/ComfyUI-newest, or a clone of `commit`.

    Prints why there is none.
    """
    return _find("COMFYUI_NEWER_PATH", [Path.home() / "ComfyUI-newest"], commit)


def find_front_end(version: str = FRONT_END) -> Path | None:
    """The folder of a front end for `--front-end-root`: $COMFYUI_FRONT_END_PATH, or that of a package from PyPI.

    Prints why there is none.
    """
    return _given("COMFYUI_FRONT_END_PATH", is_front_end, "front end", lambda: download_front_end(version))


def _find(variable: str, places: list[Path | None], version: str) -> Path | None:
    def near() -> Path | None:
        return next((place for place in places if place is not None and is_host(place)), None) or clone(version)

    return _given(variable, is_host, "ComfyUI", near)


def _given(variable: str, is_one: Callable[[Path], bool], what: str, other: Callable[[], Path | None]) -> Path | None:
    """Return the folder that `variable` names, which must be valid, or else the result of `other`."""
    if not os.environ.get(variable):
        return other()
    chosen = expand_path(os.environ[variable])
    if is_one(chosen):
        return chosen
    print(f"no {what}: {variable} is {chosen}, and there is no {what} in it", file=sys.stderr)
    return None


def is_front_end(folder: Path) -> bool:
    """Return whether `folder` holds a front end that ComfyUI can serve."""
    return (folder / "index.html").is_file()


def is_host(folder: Path) -> bool:
    """Return whether `folder` is a ComfyUI."""
    return (folder / "comfyui_version.py").is_file() and (folder / "comfy" / "model_patcher.py").is_file()


def clone(version: str) -> Path | None:
    """ComfyUI at a version or a commit in the user's cache folder, fetched the first time; None where that fails."""
    revision = f"v{version}" if "." in version else version

    def fetch(folder: Path) -> None:
        git = ["-C", str(folder)]
        _git(["init", "--quiet", str(folder)], SECONDS_TO_ANSWER)
        # Fails at once where there is no network.
        _git([*git, "ls-remote", "--exit-code", REPOSITORY, "HEAD"], SECONDS_TO_ANSWER)
        _git([*git, "fetch", "--quiet", "--depth", "1", REPOSITORY, revision], SECONDS_TO_CLONE)
        _git([*git, "checkout", "--quiet", "FETCH_HEAD"], SECONDS_TO_CLONE)

    failure = f"no ComfyUI: none on this machine, and {REPOSITORY} {revision} could not be cloned"
    return _kept(cache_folder() / "hosts" / revision, is_host, fetch, failure)


def download_front_end(version: str) -> Path | None:
    """A front end in the user's cache folder, fetched from PyPI the first time; None where that fails."""
    package = f"comfyui-frontend-package=={version}"

    def fetch(folder: Path) -> None:
        with tempfile.TemporaryDirectory() as wheels:
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--retries", "1", "--dest", wheels]
            _quietly([*pip, package], SECONDS_TO_CLONE)
            (wheel,) = Path(wheels).glob("*.whl")
            with zipfile.ZipFile(wheel) as packed:
                packed.extractall(wheels)
            shutil.move(Path(wheels) / "comfyui_frontend_package" / "static", folder)

    failure = f"no front end: none on this machine, and {package} could not be downloaded"
    return _kept(cache_folder() / "front-ends" / version, is_front_end, fetch, failure)


def _kept(folder: Path, is_one: Callable[[Path], bool], fetch: Callable[[Path], None], failure: str) -> Path | None:
    """The folder, which `fetch` makes where it is not whole yet; None where that fails, and why is printed."""
    if is_one(folder):
        return folder
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(unfinished, ignore_errors=True)
        fetch(unfinished)
        unfinished.rename(folder)
    except (OSError, subprocess.SubprocessError) as error:
        reason = (getattr(error, "stderr", None) or b"").decode(errors="replace").strip() or str(error)
        print(f"{failure}: {reason.splitlines()[-1]}", file=sys.stderr)
        return None
    return folder


def _git(arguments: list[str], seconds: float) -> None:
    _quietly(["git", *arguments], seconds)


def _quietly(command: list[str], seconds: float) -> None:
    subprocess.run(
        command,
        check=True,
        timeout=seconds,
        env={**os.environ, "GIT_TERMINAL_PROMPT": "0"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
    )


def main() -> None:
    finders: dict[str, Callable[[], Path | None]] = {"main": find_host, "oldest": find_oldest_host}
    finders |= {"newer": find_newer_host, "front-end": find_front_end}
    wanted = sys.argv[1] if len(sys.argv) > 1 else "main"
    if wanted not in finders:
        sys.exit(f'"{wanted}" is not one of {", ".join(finders)}')
    host = finders[wanted]()
    if host is None:
        sys.exit(1)
    print(host)


if __name__ == "__main__":
    main()
