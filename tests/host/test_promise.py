"""The promise to saved graphs: never reorder, append only.

A graph stores the values of a node's widgets by their order and its links to outputs by their number. An input moved,
renamed or taken away would put old values into the wrong widgets without a word. promised_nodes.json holds what graphs
out there rely on; everything in it must stay first and in its order, and new things come after.
"""

from __future__ import annotations

import asyncio
import copy

import pytest
import symmetric_attention

from lab.generate.node_schemas import PROMISE, broken, promise, read


@pytest.fixture(scope="module")
def found() -> dict:
    async def listed():
        return await (await symmetric_attention.comfy_entrypoint()).get_node_list()

    return promise(asyncio.run(listed()))


def test_never_reorder_append_only(found):
    assert broken(read(PROMISE), found) == [], "never reorder, append only: saved graphs rely on it"


def test_every_node_is_promised(found):
    assert found.keys() == read(PROMISE).keys(), "a new node: run python -m lab.generate.node_schemas"


def test_appended_things_keep_the_promise(found):
    grown = copy.deepcopy(found)
    skew = grown["SADSkewAttention"]
    skew["optional"].append(["new", "FLOAT"])
    skew["widgets"].append("new")
    skew["outputs"].append(["new", "STRING"])
    assert broken(found, grown) == []


@pytest.mark.parametrize("part", ["required", "widgets", "outputs"])
@pytest.mark.parametrize("change", ["swap", "drop", "insert", "rename"])
def test_anything_else_breaks_it(found, part, change):
    changed = copy.deepcopy(found)
    entries = changed["SADSkewAttention"][part]
    if change == "swap":
        entries[0], entries[1] = entries[1], entries[0]
    elif change == "drop":
        del entries[1]
    elif change == "insert":
        entries.insert(1, ["new", "FLOAT"])
    else:
        entries[0] = ["other", "MODEL"]
    (line,) = broken(found, changed)
    assert f"SADSkewAttention, {part}" in line


def test_a_widget_before_an_optional_one_breaks_it(found):
    """gamma's schedule has an optional drawn curve, whose value is stored last; a required widget would come before."""
    changed = copy.deepcopy(found)
    widgets = changed["SADGammaSchedule"]["widgets"]
    widgets.insert(widgets.index("curve"), "new")
    assert broken(found, changed)
