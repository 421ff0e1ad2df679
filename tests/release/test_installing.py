"""The output during an installation: a moving line, or a few log lines, and pip's output after a failure."""

from __future__ import annotations

import io
import subprocess
import sys

import pytest

from lab.installing import install

PIP = """
print("Collecting torch==2.14.1 (from -r demo.txt (line 2))")
print("  Downloading https://x.org/w/torch-2.14.1-cp311-cp311-manylinux.whl.metadata (29 kB)")
print("Downloading https://x.org/w/torch-2.14.1-cp311-cp311-manylinux.whl (191.5 MB)")
print("Using cached numpy-2.4.6-cp311.whl (16.5 MB)")
print("Downloading nvidia_cudnn-9.whl (1.1 GB)")
print("Downloading idna-3.whl (71 kB)")
print("Installing collected packages: idna, numpy, nvidia-cudnn, torch")
print("Successfully installed torch-2.14.1")
"""


class Terminal(io.StringIO):
    """A file that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def told(code: str, out: io.StringIO) -> str:
    install([sys.executable, "-c", code], out)
    return out.getvalue()


def without_seconds(text: str) -> list[str]:
    return [line.rpartition(" · ")[0].strip() for line in text.splitlines()]


def test_a_log_gets_a_line_for_what_takes_a_while():
    assert without_seconds(told(PIP, io.StringIO())) == [
        "getting torch (191.5 MB) · 1 package, 192 MB",
        "getting nvidia_cudnn (1.1 GB) · 3 packages, 1,308 MB",
        "installing 4 packages · 4 packages, 1,308 MB",
    ]


def test_a_terminal_has_one_line_that_moves_and_is_gone_at_the_end(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    text = told(PIP, Terminal())
    assert "\n" not in text
    shown = text.split("\r\033[K")
    assert shown[-1] == ""
    assert all(len(each) < 60 for each in shown)
    assert any(each.strip().startswith("getting idna (71 kB)") for each in shown)


def test_what_pip_said_is_shown_where_it_fails():
    out = io.StringIO()
    with pytest.raises(subprocess.CalledProcessError):
        told("import sys; print('ERROR: No matching distribution'); sys.exit(1)", out)
    assert out.getvalue() == "ERROR: No matching distribution\n"
