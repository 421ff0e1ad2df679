"""pip told in one line that moves: what is downloaded, how large it is, and how many packages are there."""

from __future__ import annotations

import queue
import re
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from typing import TextIO

from lab.moving_line import MovingLine

SECONDS_BETWEEN_LOOKS = 1.0
DOWNLOAD = re.compile(r"\s*(?:Downloading|Using cached) (\S+\.(?:whl|tar\.gz|zip)) \(([\d.]+) (\w+)\)")
INSTALL = re.compile(r"Installing collected packages: (.*)")
MEGABYTES = {"B": 1e-6, "kB": 1e-3, "MB": 1.0, "GB": 1e3}
LARGE = 20.0  # megabytes of a package that a log names
KEPT_LINES = 30  # of pip, for the case that it fails


def install(command: Sequence[str], out: TextIO = sys.stderr) -> None:
    """Run a pip install and report it on `out`.

    Raises:
        subprocess.CalledProcessError: pip failed; its last lines were written to `out`.
    """
    started = time.monotonic()
    words = [*command, "--progress-bar", "off", "--disable-pip-version-check"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    assert process.stdout is not None
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    threading.Thread(target=_pass_on, args=(process.stdout, lines), daemon=True).start()
    line, last, state = MovingLine(out), deque[str](maxlen=KEPT_LINES), Progress()
    while True:
        try:
            text = lines.get(timeout=SECONDS_BETWEEN_LOOKS)
        except queue.Empty:
            line.show(f"  {state} · {time.monotonic() - started:.0f} s")
            continue
        if text is None:
            break
        last.append(text)
        is_large = state.read(text)
        (line.keep if is_large else line.show)(f"  {state} · {time.monotonic() - started:.0f} s")
    line.clear()
    if process.wait():
        out.write("".join(last))
        raise subprocess.CalledProcessError(process.returncode, words)


class Progress:
    """Progress of pip, read from its output."""

    def __init__(self) -> None:
        self.packages = 0
        self.megabytes = 0.0
        self.now = "looking up what is needed"

    def read(self, line: str) -> bool:
        """Take in a line; whether it begins something that takes a while."""
        if found := DOWNLOAD.match(line):
            name, size, unit = found.groups()
            megabytes = float(size) * MEGABYTES.get(unit, 1.0)
            self.packages += 1
            self.megabytes += megabytes
            self.now = f"getting {name.rpartition('/')[2].partition('-')[0]} ({size} {unit})"
            return megabytes >= LARGE
        if found := INSTALL.match(line):
            self.now = f"installing {len(found[1].split(','))} packages"
            return True
        return False

    def __str__(self) -> str:
        if not self.packages:
            return self.now
        packages = "1 package" if self.packages == 1 else f"{self.packages} packages"
        return f"{self.now} · {packages}, {self.megabytes:,.0f} MB"


def _pass_on(lines: Iterable[str], to: queue.SimpleQueue[str | None]) -> None:
    """Put every line into the queue, and None behind the last."""
    for line in lines:
        to.put(line)
    to.put(None)
