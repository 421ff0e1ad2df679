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

from lab.generate.node_schemas import PROMISE, broken, is_widget, promise, read

SAVED = PROMISE.with_name("saved_widget_values.json")  # of every workflow that was ever in workflows/, by name


@pytest.fixture(scope="module")
def nodes() -> list:
    async def listed():
        return await (await symmetric_attention.comfy_entrypoint()).get_node_list()

    return asyncio.run(listed())


@pytest.fixture(scope="module")
def found(nodes) -> dict:
    return promise(nodes)


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


def test_every_old_workflow_puts_its_values_into_their_widgets(nodes):
    """The editor goes through the widgets in the order of object_info and gives each the next saved value."""
    infos = {node.GET_SCHEMA().node_id: node.GET_NODE_INFO_V1() for node in nodes}
    saved = read(SAVED)
    assert sum(map(len, saved.values())) >= 30
    for kind, states in saved.items():
        info = infos[kind]
        assert [name for names in info["input_order"].values() for name in names] == [
            name for inputs in info["input"].values() for name in inputs
        ]
        inputs = {name: each for group in info["input"].values() for name, each in group.items()}
        widgets = [name for name, each in inputs.items() if is_widget(*each)]
        for state in states:
            assert dict(zip(widgets, state.values(), strict=False)) == state, kind
            for name, value in state.items():
                check_taken(value, *inputs[name])


def check_taken(value, kind, options) -> None:
    """Assert that an input takes a value that was saved."""
    choices = kind if isinstance(kind, list) else options.get("options")
    if choices is not None:
        assert value in choices
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        assert options["min"] <= value <= options["max"]
    else:
        assert isinstance(value, type(options["default"]))
