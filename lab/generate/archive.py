"""Builds the archive that ComfyUI's registry would hand out: what git tracks, less what .comfyignore names.

python -m lab.generate.archive symmetric-attention.zip
"""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

from lab.folders import ROOT


def ignored() -> list[str]:
    """The entries of .comfyignore, without their leading slash; a folder ends in one.

    Raises:
        ValueError: an entry that is not anchored would also take files of the same name further down.
    """
    lines = (ROOT / ".comfyignore").read_text(encoding="utf-8").splitlines()
    entries = [line for line in lines if line and not line.startswith("#")]
    for entry in entries:
        if not entry.startswith("/") or "*" in entry:
            raise ValueError(f".comfyignore: {entry} must be a path that starts with /.")
    return [entry[1:] for entry in entries]


def shipped() -> list[str]:
    """Paths of all files in the archive, relative to the root, in order."""
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    left_out = ignored()
    return sorted(
        path
        for path in tracked.split("\0")
        if path and not any(path == entry or (entry.endswith("/") and path.startswith(entry)) for entry in left_out)
    )


def write_archive(path: Path) -> None:
    """Write the archive to `path`."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in shipped():
            archive.write(ROOT / name, name)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    write_archive(Path(sys.argv[1]))
