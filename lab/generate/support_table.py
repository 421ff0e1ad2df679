#!/usr/bin/env python3
"""Writes docs/support.md from the tiny models that tests/host runs; needs PyTorch, but no ComfyUI.

python -m lab.generate.support_table           # writes the page
python -m lab.generate.support_table --check   # tells by its exit code whether the page is up to date
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from lab.folders import DOCS
from lab.testing.in_process_host import table_of_pack, without_host

if TYPE_CHECKING:
    from lab.testing.families.family import Family

PAGE = DOCS / "support.md"
OLDEST, NEWEST = "0.19.0", "0.33.0"
HEAD = f"""<!-- Written by lab/generate/support_table.py from lab/testing/families/rows.py; change it and run again. -->

# Which models work

Use this page to see whether γ acts in your model, and at which sites.

The tests run every row on a tiny model of the real class, with random weights, in ComfyUI {OLDEST} (if it has the
class) and {NEWEST}:

- γ = 1 gives the same bits as the unpatched model, which gives them again after a run with γ.
- At any other γ every site gives the result of the definition, to a thousandth of the change that γ makes. The
  definition is computed plainly in float64 from the queries, keys and values of the host. The same holds for
  `gamma_text` and `gamma_cross` in joint attention.
- An image is the same by itself and in a batch of four, with cond and uncond joined and split, and without CFG, as
  far as the host's own image is.
- In float16 and bfloat16, γ = 1 keeps the bits. At other γ the results are finite and off by at most 2 % and 15 %
  of the change.

These tests cover only the attention. They use no real checkpoint and no images.

- **sites**: the addresses for the `blocks` field. If it is empty, all are chosen except those in *asked for*.
- **calls**: the attention calls that γ changes in one model call, on the tiny model.
- **γ acts among**: the tokens that γ changes. Where text shares the sequence, the attention scores between
  text and image, and among text, stay unchanged, unless `gamma_text` (among all other tokens) or `gamma_cross` (between
  the two groups) is not 1.
- **text, cross**: whether the model has joint attention, where those two act.
- **norms**: *all*, or *value* if the input of the attention cannot be seen. *projected* and *input* then mean
  *value*.
- **since**: the older of the two versions that has the family, or a later one. Versions before {OLDEST} are not
  tested. Rows of 0.34 run in a ComfyUI of August 2026, the newest available. Rows with *stand-in* belong to newer
  versions. For them the tests run a network of their own with the calls of the real one, or the real network called
  as that version calls it.

| family | since | sites | calls | γ acts among | text, cross | norms | asked for | notes |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
"""
BETWEEN = """
These classes of ComfyUI are built from the same blocks. The pack recognises them by the blocks, but the
tests do not run them:

"""
REFUSED_HEAD = """
## Not supported

The node patches nothing and says: Skew Attention (SAD) cannot work on …, because … If a family also has a row
above, it is unsupported only in versions of ComfyUI before the one named there.

| family | since | reason |
| --- | --- | --- |
"""
TAIL = """
## Other models and skipped calls

A model in neither table stays unchanged. If its code passes `transformer_options` to ComfyUI's attention, the node
lists its sites as not verified, and `act_where_unverified` lets γ act there, among all tokens of a call. Otherwise
the node stops with a message that names the model. This applies to MOSS-image and PAN 2, which came with 0.42 and
0.46. Their code was not available.

γ skips calls in which queries and keys are not the same tokens, and the report counts them. The exception
is a call whose queries are known to be the last tokens of the keys, as in HiDream-O1. γ also skips calls to which
another node may supply keys of other tokens, through an `attn1_patch` that this pack does not know. SD1.5, SDXL,
Flux, Qwen-Image, Krea 2, Cosmos and models built from their blocks call such functions. `act_where_unverified`
makes γ act there too.

Some families call their attention without options. The only way to reach them would be a copy of ComfyUI's own
forward function with another attention in it. Such a copy would hide the changes of other nodes in that file, could
not be compiled, and could fail silently when ComfyUI's code changes. These families therefore stay unsupported
until ComfyUI's code offers a way in: options that it passes on or, since 0.40, a child of an attention module that
names the attention of its layer. The pack reads from the running code which of the two exists, not from the version
number.
"""


def since(name: str, newer: Mapping[str, str]) -> str:
    """The older of the tested hosts that has the class."""
    return newer.get(name, OLDEST)


def factors(row: Family) -> str:
    """Return whether γ of the text tokens and γ across act in a family."""
    return "yes" if row.is_joint else "no"


def ranges(addresses: Iterable[str]) -> str:
    """Addresses as code, those that differ only in the last number as a range."""
    runs: dict[str, list[int]] = {}
    for address in addresses:
        stem, _, last = address.rpartition(".")
        runs.setdefault(stem if last.isdigit() else address, []).append(int(last) if last.isdigit() else -1)
    written = []
    for stem, numbers in runs.items():
        low, high = min(numbers), max(numbers)
        together = len(numbers) == high - low + 1
        ends = "" if low < 0 else f".{low}" if low == high else f".{low}-{high}" if together else None
        written += [f"`{stem}{ends}`"] if ends is not None else [f"`{stem}.{number}`" for number in numbers]
    return ", ".join(written)


def render(
    rows: Iterable[Family], refused: Mapping[str, str], newer: Mapping[str, str], reasons: Mapping[str, str]
) -> str:
    """The page, from the rows of the tiny models and the reasons of the pack."""
    lines, others = [], []
    for row in rows:
        norms = "all" if row.with_input else "value"
        known_since = f"{row.stands_in_for} (stand-in)" if row.stands_in_for else since(row.config_class, newer)
        cells = (known_since, ranges(row.sites), str(row.calls), row.acts_on, factors(row), norms)
        lines.append(f"| {row.name} | {' | '.join(cells)} | {ranges(row.asked)} | {row.notes} |")
        if row.covers:
            others.append(f"- {row.name}: {', '.join(row.covers)}")
    refusals = [f"| {name} | {since(name, newer)} | {reasons[network]} |" for name, network in refused.items()]
    return "".join(
        (HEAD, "\n".join(lines), "\n", BETWEEN, "\n".join(others), "\n", REFUSED_HEAD, "\n".join(refusals), "\n", TAIL)
    )


def page() -> str:
    """The page as it should be; in a process without ComfyUI stand-ins take its place."""
    without_host()
    from lab.testing.families.rows import FAMILIES, HOSTED, LATEST, NEWER, REFUSED, STAND_INS

    newer = {**dict.fromkeys(NEWER, NEWEST), **LATEST}
    reasons = table_of_pack("nodes.host.models.families").REFUSALS
    return render((*FAMILIES.values(), *HOSTED.values(), *STAND_INS.values()), REFUSED, newer, reasons)


def main() -> int:
    text = page()
    if "--check" in sys.argv[1:]:
        return int(PAGE.read_text(encoding="utf-8") != text)
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
