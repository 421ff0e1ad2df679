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

Every row is run on a tiny model of the real class, with random weights, in ComfyUI {OLDEST} (where it exists) and
{NEWEST}: γ = 1 gives the same bits as the plain model; another γ gives at every site what the definition says, computed
plainly in float64 from the queries, keys and values of the host, to a thousandth of the change it makes; and the plain
model gives the same bits afterwards. So it is with `gamma_text` and `gamma_cross` in joint attention. A picture is the
same alone and in a batch of four, with cond and uncond joined and split, and without CFG, as far as the host's own is.
In float16 and bfloat16 γ = 1 keeps the bits, and what the sites give is finite and off by no more than 2 % and 15 % of
the change. No checkpoint and no picture stands behind this page, only the attention.

- **sites** are what the `blocks` field chooses from; all but those in *asked for* are chosen when it is empty.
- **calls** are the skewed attention calls of one model call, on the tiny model that was run.
- **γ acts among** says which tokens. Where text shares the sequence its rows and columns stay as they are, unless
  `gamma_text` (among all other tokens) or `gamma_cross` (between the two) is not 1.
- **text, cross** says whether the model has joint attention, where those two act.
- **norms**: *all*, or *value* where the input of the attention cannot be seen; *projected* and *input* then mean
  *value*.
- **since** is the older of the two versions that has the family, or a later one; versions before {OLDEST} are not
  tested. Rows of 0.34 are run in a ComfyUI of August 2026, the newest that was at hand. Rows with *stand-in* are of
  newer versions: the tests run a network of their own with the calls of the real one, or the real network called as
  that version calls it.

| family | since | sites | calls | γ acts among | text, cross | norms | asked for | notes |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
"""
BETWEEN = """
Other classes of ComfyUI built from the same blocks are recognised by them, but are not run:

"""
REFUSED_HEAD = """
## Refused

Nothing is patched, and the node says: Skew Attention (SAD) cannot work on …, because … A family that has a row above as
well is refused only by the versions of ComfyUI before the one named there.

| family | since | reason |
| --- | --- | --- |
"""
TAIL = """
A model that is in neither table stays as it is. Where its code hands `transformer_options` to ComfyUI's attention, the
node lists these sites as not verified, and `act_where_unverified` lets γ act there, among all tokens of a call. Else it
is refused with a sentence that names it. So it is with MOSS-image and PAN 2, which came with 0.42 and 0.46 and whose
code was not at hand.

Calls in which queries and keys are not the same tokens are left as they are, and the report counts them, unless the
queries are known to be the last of the keys' tokens, as in HiDream-O1. Left alone are also calls
that another node may give keys of other tokens, by an `attn1_patch` that this pack does not know; SD1.5, SDXL, Flux,
Qwen-Image, Krea 2, Cosmos and what is built from their blocks ask such functions. `act_where_unverified` overrides
that.

Families whose attention is called without options could be reached only by running a copy of ComfyUI's own forward
function with another attention in it. Such a copy would hide what other nodes change in that file, cannot be compiled,
and could go wrong in silence where ComfyUI's code moves. So they are refused until ComfyUI's code gives a way in:
options that it passes on, or since 0.40 the child of an attention module that names the attention of its layer. Which
of the two there is, is read from the code that runs, not from its version.
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
