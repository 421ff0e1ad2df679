"""Lists the commands that make the committed pictures, or runs some of them (`make figures`).

    python -m lab.figures                  # what there is, and what each needs
    python -m lab.figures emblem sweep     # draws these anew
    python -m lab.figures all              # everything

A picture that is drawn anew differs in its bytes from the committed one on most machines, so draw only what has
changed. The environment of the tests is made where it is missing.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys

from lab.environment import environment
from lab.figures.makers import HOST, MAKERS, Maker
from lab.folders import ROOT
from lab.testing.hosts import find_host


def described(maker: Maker) -> str:
    """One maker in two lines."""
    needs = f", needs {' and '.join(maker.needs)}" if maker.needs else ""
    count = f"{len(maker.pictures)} picture{'s' if len(maker.pictures) > 1 else ''}"
    return f"{maker.name:10} {count}, about {maker.minutes} min{needs}\n{'':10} python -m {maker.command}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="of makers, or all")
    names = parser.parse_args().names
    known = ["all", *(maker.name for maker in MAKERS)]
    if unknown := [name for name in names if name not in known]:
        parser.error(f"there is no {', '.join(unknown)}; choose from {', '.join(known)}")
    if not names:
        print("\n".join(described(maker) for maker in MAKERS))
        return 0
    chosen = [maker for maker in MAKERS if "all" in names or maker.name in names]
    host = find_host() if any(HOST in maker.needs for maker in chosen) else None
    python = str(environment("test", host))
    failed = [
        maker.name
        for maker in chosen
        if subprocess.run([python, "-m", *shlex.split(maker.command)], cwd=ROOT, check=False).returncode
    ]
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
