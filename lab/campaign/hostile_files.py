"""Damaged and hostile files: each is refused in one sentence or read right, in little time and memory.

Another kind of file is one line of `KINDS`.
"""

from __future__ import annotations

import random
import resource
import signal
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lab.campaign.file_kinds import DRAW, FileKind
from lab.campaign.hostile_baselines import BASELINE
from lab.campaign.hostile_calibrations import CALIBRATION
from lab.campaign.hostile_traces import TRACE
from lab.campaign.ledger import Budget, Ledger

SECONDS = 20  # of computing, for one file
MEGABYTES = 400  # that reading and using one file may add to the process
LONGEST_REFUSAL = 300
KINDS = {"trace": TRACE, "baseline": BASELINE, "calibration": CALIBRATION}


def run(budget: Budget) -> Ledger:
    """Try `budget.runs` files of every kind."""
    from lab.testing.in_process_host import table_of_pack  # what draws a trace, without a ComfyUI

    DRAW.append(table_of_pack("nodes.plots.stability_layouts").draw_layout)
    ledger = Ledger()
    with tempfile.TemporaryDirectory() as folder:
        for name, kind in KINDS.items():
            try_kind(name, kind, budget, Path(folder), ledger)
    return ledger


def try_kind(name: str, kind: FileKind, budget: Budget, folder: Path, ledger: Ledger) -> None:
    """Try the whole files of a kind, those made by hand, and as many damaged ones as the budget has."""
    whole = kind.whole(folder)
    for number, content in enumerate(whole):
        if try_file(f"{name}, whole {number}", kind, content, folder, ledger) != "read":
            ledger.fault(f"{name}: the whole file {number} was not read")
    for number, content in enumerate(kind.handmade()):
        ledger.counts[f"{name}, by hand: {try_file(f'{name}, by hand {number}', kind, content, folder, ledger)}"] += 1
    for seed in budget.seeds():
        draw = random.Random(seed)
        content = kind.damaged(draw.choice(whole), draw)
        ledger.counts[f"{name}: {try_file(f'{name}, seed {seed}', kind, content, folder, ledger)}"] += 1


def try_file(label: str, kind: FileKind, content: bytes, folder: Path, ledger: Ledger) -> str:
    """Read and use one file; return how that ended: read, refused, refused when used, or a fault."""
    path = folder / "file.safetensors"
    path.write_bytes(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ended = "read"
    try:
        with time_limit(SECONDS):
            read = kind.read(path)
            ended = "used"
            kind.use(read, content)
            ended = "read"
    except ValueError as refusal:
        if type(refusal) is not ValueError or not is_one_sentence(str(refusal)):
            ledger.fault(f"{label}: {type(refusal).__name__}: {shown(str(refusal))}\n{where(refusal)}")
            return "fault"
        ended = "refused" if ended == "read" else "refused when used"
    except Exception as error:
        ledger.fault(f"{label}: {type(error).__name__}: {shown(str(error))}\n{where(error)}")
        return "fault"
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**10
    if grown > MEGABYTES:
        ledger.fault(f"{label}: {ended}, and the process has grown by {grown:.0f} MB")
        return "fault"
    return ended


def is_one_sentence(text: str) -> bool:
    """Return whether an error is fit for a user: one line of moderate length that ends like a sentence."""
    return text.endswith((".", "?")) and len(text) <= LONGEST_REFUSAL and text.isprintable()


def shown(text: str) -> str:
    """A text of a fault, not longer than a line."""
    return ascii(text[:LONGEST_REFUSAL])


def where(error: BaseException) -> str:
    """The last frames of an error."""
    return "".join(traceback.format_tb(error.__traceback__)[-3:])


@contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """Raise a TimeoutError where the block computes for longer, however busy the machine is."""

    def late(*_: Any) -> None:
        raise TimeoutError(f"took longer than {seconds} s")

    before = signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
