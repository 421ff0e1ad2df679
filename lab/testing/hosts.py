"""Where the ComfyUI hosts of the tests are.

    python -m lab.testing.hosts main      prints the folder of the host the pack is made for, or exits with 1
    python -m lab.testing.hosts oldest    the same for the oldest host the pack supports

Needs only the standard library.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from lab.folders import ROOT, cache_folder, expand_path

REPOSITORY = "https://github.com/comfyanonymous/ComfyUI"
MAIN, OLDEST = "0.33.0", "0.19.0"
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


def _find(variable: str, places: list[Path | None], version: str) -> Path | None:
    if os.environ.get(variable):
        chosen = expand_path(os.environ[variable])
        if is_host(chosen):
            return chosen
        print(f"no ComfyUI: {variable} is {chosen}, and there is no ComfyUI in it", file=sys.stderr)
        return None
    return next((place for place in places if place is not None and is_host(place)), None) or clone(version)


def is_host(folder: Path) -> bool:
    """Whether `folder` is a ComfyUI."""
    return (folder / "comfyui_version.py").is_file() and (folder / "comfy" / "model_patcher.py").is_file()


def clone(version: str) -> Path | None:
    """ComfyUI `version` in the user's cache folder, fetched when it is not there yet; None where that fails."""
    cache = cache_folder() / "hosts"
    tag = f"v{version}"
    folder, unfinished = cache / tag, cache / f"{tag}.unfinished"
    if is_host(folder):
        return folder
    ask = ["ls-remote", "--exit-code", REPOSITORY, f"refs/tags/{tag}"]
    fetch = ["clone", "--quiet", "--depth", "1", "--branch", tag, REPOSITORY, str(unfinished)]
    try:
        cache.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(unfinished, ignore_errors=True)
        _git(ask, SECONDS_TO_ANSWER)
        _git(fetch, SECONDS_TO_CLONE)
        unfinished.rename(folder)
    except (OSError, subprocess.SubprocessError) as error:
        reason = (getattr(error, "stderr", None) or b"").decode(errors="replace").strip() or str(error)
        failure = f"{REPOSITORY} {tag} could not be cloned: {reason.splitlines()[-1]}"
        print(f"no ComfyUI: none on this machine, and {failure}", file=sys.stderr)
        return None
    return folder


def _git(arguments: list[str], seconds: float) -> None:
    environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0"}
    subprocess.run(
        ["git", *arguments],
        check=True,
        timeout=seconds,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
    )


def main() -> None:
    finders = {"main": find_host, "oldest": find_oldest_host}
    wanted = sys.argv[1] if len(sys.argv) > 1 else "main"
    if wanted not in finders:
        sys.exit(f'"{wanted}" is not a host; ask for {" or ".join(finders)}')
    host = finders[wanted]()
    if host is None:
        sys.exit(1)
    print(host)


if __name__ == "__main__":
    main()
