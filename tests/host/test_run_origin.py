"""The sampling run that made the input of a node, on synthetic prompts."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
from comfy_execution.graph import DynamicPrompt
from comfy_execution.progress import reset_progress_state
from comfy_execution.utils import CurrentNodeContext
from hypothesis import given
from hypothesis import strategies as st
from symmetric_attention.nodes.host.run_origin import (
    Origin,
    Upstream,
    current_origin,
    index_of_maker,
    not_made_by,
    origin_of,
    trace_of_maker,
    upstream_of,
    upstream_of_input,
)
from symmetric_attention.nodes.host.run_report import SkewReport
from symmetric_attention.nodes.report import NOT_WAITING, ReportNode
from symmetric_attention.nodes.save_stability_trace import SaveStabilityTraceNode
from symmetric_attention.nodes.shared import NOTHING_MEASURED, NOTHING_PATCHED, PROBE
from symmetric_attention.nodes.stability_plot import StabilityPlotNode
from symmetric_attention.sad_core import StabilityTrace
from symmetric_attention.sad_core.stability.run import StabilityRun
from symmetric_attention.sad_core.stability.step import Sample

from lab.testing.run_nodes import execute


def graph(**changes) -> dict:
    """A sampler behind Skew Attention, its image, and a report; `changes` replace inputs, as `sampler__seed=5`."""
    prompt: dict[str, dict[str, Any]] = {
        "model": {"class_type": "Loader", "inputs": {"name": "a.safetensors"}},
        "skew": {"class_type": "SADSkewAttention", "inputs": {"model": ["model", 0], "gamma": 1.5}},
        "sampler": {"class_type": "KSampler", "inputs": {"model": ["skew", 0], "seed": 4, "cfg": 2.5}},
        "decode": {"class_type": "VAEDecode", "inputs": {"samples": ["sampler", 0]}},
        "report": {"class_type": "SADReport", "inputs": {"report": ["skew", 2], "after": ["decode", 0]}},
    }
    for name, value in changes.items():
        node, _, name = name.partition("__")
        prompt.setdefault(node, copy.deepcopy(prompt["sampler"]))["inputs"][name] = value
    return prompt


def began(prompt: dict, node: str = "sampler", index: int | None = 0) -> Origin:
    origin = origin_of(DynamicPrompt(prompt), node, index)
    assert origin is not None
    return origin


def wired(prompt: dict, node: str = "report", index: int | None = 0, name: str = "after") -> Upstream | None:
    return upstream_of(DynamicPrompt(prompt), node, index, name)


def test_a_run_made_what_its_sampler_leads_to():
    assert index_of_maker([began(graph())], wired(graph())) == 0


@pytest.mark.parametrize(
    "changed",
    [
        graph(sampler__model=["model", 0]),
        graph(merge__model=["skew", 0], merge__seed=0, sampler__model=["merge", 0]),
        graph(sampler__seed=5),
        graph(skew__gamma=1.6),
        graph(model__name="b.safetensors"),
        graph(report__after=["model", 0]),
        graph(report__after=["nowhere", 0]),
    ],
    ids=["plain model", "merge", "seed", "gamma", "checkpoint", "no sampler", "no node"],
)
def test_a_run_of_another_graph_did_not_make_it(changed):
    assert index_of_maker([began(graph())], wired(changed)) is None


def test_the_sampler_upstream_is_taken_and_the_nearer_of_two():
    two = graph(other__seed=7)
    runs = [began(two), began(two, "other")]
    assert index_of_maker(runs, wired(two)) == 0
    assert index_of_maker(runs, wired({**two, **graph(report__after=["other", 0], other__seed=7)})) == 1
    stages = graph(other__latent=["sampler", 0], decode__samples=["other", 0])
    for order in (["sampler", "other"], ["other", "sampler"]):
        runs = [began(stages, node) for node in order]
        assert index_of_maker(runs, wired(stages)) == order.index("other")


def test_ids_of_subgraphs_and_copies_of_a_sampler_are_known():
    """ComfyUI's cache gives the latent of a sampler to its copy, whatever the id."""
    renamed = json.loads(json.dumps(graph()).replace('"sampler"', '"10:3"'))
    assert index_of_maker([began(graph())], wired(renamed)) == 0
    assert index_of_maker([began(renamed, "10:3")], wired(graph())) == 0


def test_two_nodes_that_are_alike_are_two():
    renamed = json.loads(json.dumps(graph()).replace('"skew"', '"twin"'))
    assert index_of_maker([began(renamed)], wired(graph())) is None


def test_numbers_that_the_cache_does_not_tell_apart_are_one():
    ones = [{"a": 1, "b": [2]}, {"b": [2.0], "a": 1.0}, {"a": True, "b": [2]}]
    assert len({began(graph(sampler__widget=one)) for one in ones}) == 1
    assert began(graph(sampler__widget="1")) != began(graph(sampler__widget=1))


def test_of_the_items_of_a_list_each_has_its_run():
    runs = [began(graph(), index=index) for index in (0, 1, 2, 0, 1, 2)]
    assert [index_of_maker(runs, wired(graph(), index=index)) for index in (0, 1, 2, 3)] == [3, 4, 5, 5]


def test_a_run_inside_a_node_made_at_run_time_is_found_from_both_sides():
    prompt = DynamicPrompt(
        graph(sampler__model=["model", 0], report__after=["loop", 0], loop__model=["skew", 0], loop__seed=0)
    )
    prompt.add_ephemeral_node("loop.1", graph()["sampler"], "loop", "loop")
    prompt.add_ephemeral_node("loop.2", {"class_type": "A", "inputs": {"after": ["loop.1", 0]}}, "loop", "loop")
    run = origin_of(prompt, "loop.1", 0)
    assert index_of_maker([run], upstream_of(prompt, "report", 0, "after")) == 0
    assert index_of_maker([run], upstream_of(prompt, "loop.2", 0, "after")) == 0
    cached = DynamicPrompt(prompt.original_prompt)  # then nothing is made at run time
    assert index_of_maker([run], upstream_of(cached, "report", 0, "after")) == 0
    assert index_of_maker([run], upstream_of(cached, "decode", 0, "samples")) is None


def test_where_nothing_is_known_the_newest_run_counts():
    other = began(graph(sampler__seed=5))
    assert index_of_maker([], None) is None
    assert index_of_maker([other, other], None) == 1
    assert index_of_maker([None, None, other], wired(graph())) == 1
    assert index_of_maker([], wired(graph())) is None
    assert wired(graph(report__after=3)) is None
    assert wired(graph(), node="nowhere") is None
    assert wired(graph(), name="other") is None


def test_a_circle_and_a_graph_deeper_than_the_stack_are_read():
    assert wired(graph(model__back=["decode", 0])) is not None  # ComfyUI refuses it before a node runs
    deep = graph() | {
        f"{place}": {"class_type": "Reroute", "inputs": {"any": [f"{place - 1}" if place else "decode", 0]}}
        for place in range(5000)
    }
    deep["report"]["inputs"]["after"] = ["4999", 0]
    assert wired(deep).distances[began(deep).digests[0]] == 5002


@st.composite
def prompts(draw) -> dict:
    """Nodes of four classes whose links go to nodes before them, under ids in any order."""
    ids = draw(st.permutations([str(number) for number in range(draw(st.integers(2, 8)))]))
    kinds = st.sampled_from(["KSampler", "Merge", "SADSkewAttention", "Reroute"])
    prompt = {}
    for place, node_id in enumerate(ids):
        links = st.tuples(st.sampled_from(ids[:place]), st.integers(0, 1)).map(list) if place else st.nothing()
        values = st.one_of(st.integers(-2, 2), st.text(max_size=2), st.floats(allow_nan=False), links)
        inputs = draw(st.dictionaries(st.sampled_from(["a", "b", "c"]), values, max_size=3))
        prompt[node_id] = {"class_type": draw(kinds), "inputs": inputs}
    return prompt


def text_of(prompt: dict, node_id: str) -> str:
    """A node and all upstream of it written out as a tree: the plain statement of what a digest means."""
    node = prompt[node_id]
    own = node_id if node["class_type"] == "SADSkewAttention" else ""
    inputs = [
        f"{name}=({text_of(prompt, value[0])})[{value[1]}]" if isinstance(value, list) else f"{name}={_plain(value)!r}"
        for name, value in sorted(node["inputs"].items())
    ]
    return f"{node['class_type']}{own}({', '.join(inputs)})"


def _plain(value):
    return int(value) if isinstance(value, float) and value.is_integer() else value


def above(prompt: dict, node_id: str) -> set[str]:
    found = {node_id}
    for value in prompt[node_id]["inputs"].values():
        found |= above(prompt, value[0]) if isinstance(value, list) else set()
    return found


@given(prompts(), prompts())
def test_digests_are_equal_where_the_written_out_graphs_are(one, other):
    for left in one:
        for right in other:
            same = text_of(one, left) == text_of(other, right)
            assert (began(one, left) == began(other, right)) is same


@given(prompts(), st.data())
def test_runs_are_accepted_where_only_their_graph_is_upstream(prompt, data):
    reader = data.draw(st.sampled_from(list(prompt)))
    inputs = {"after": [reader, 0]}
    upstream = wired({**prompt, "reader": {"class_type": "SADReport", "inputs": inputs}}, "reader")
    trees = {text_of(prompt, node_id) for node_id in above(prompt, reader)}
    for node_id in prompt:
        accepted = index_of_maker([began(prompt, node_id)], upstream) is not None
        assert accepted is (text_of(prompt, node_id) in trees)


# The nodes that read a handle, while ComfyUI runs a prompt


@pytest.fixture
def at():
    """Runs a block as ComfyUI runs a node of a prompt; afterwards no prompt is known again."""

    def enter(prompt: dict, node: str, index: int = 0):
        reset_progress_state("made up", DynamicPrompt(prompt))
        return CurrentNodeContext("made up", node, index)

    yield enter
    reset_progress_state("", DynamicPrompt({}))


def test_outside_of_a_prompt_nothing_is_known(at):
    assert current_origin() is None
    assert upstream_of_input("after") is None
    with at(graph(), "sampler"):
        assert current_origin() == began(graph())
    with at(graph(), "report"):
        assert upstream_of_input("after") == wired(graph())
        with CurrentNodeContext("another prompt", "report"):
            assert upstream_of_input("after") is None


def run_of(report: SkewReport, model: str) -> None:
    run = report.begin(model, ["a.0"])
    run.status, run.model_calls = "finished", 1


def test_the_report_describes_the_run_that_made_what_is_wired(at):
    report = SkewReport("the plan")
    with at(graph(), "sampler"):
        run_of(report, "first")
    with at(graph(sampler__seed=5), "sampler"):
        run_of(report, "second")
    with at(graph(), "report"):
        (text,) = execute(ReportNode, report=report, after={})
    assert text.startswith('the plan\n\nRun 1 of 2 through this node. It made what is wired to "after".\nfirst,')
    with at(graph(sampler__seed=5), "report"):
        (text,) = execute(ReportNode, report=report, after={})
    assert text.startswith("the plan\n\nRun 2 of 2 through this node, the newest one.\nsecond,")
    with at(graph(sampler__model=["model", 0]), "report"):
        (text,) = execute(ReportNode, report=report, after={})
    assert text.startswith('the plan\n\nThe input "after" did not come from a run through this Skew Attention (SAD). ')
    assert "finished" not in text
    (text,) = execute(ReportNode, report=report, after={})  # in a script
    assert "\nsecond, finished" in text
    assert NOT_WAITING not in text
    assert execute(ReportNode, report=report)[0].endswith(NOT_WAITING)


def traced(trace: StabilityTrace, model: str, steps: int = 2) -> None:
    run = trace.begin(StabilityRun(model, ("a.0",), origin=current_origin()))
    for step in range(steps):
        run.record(2.0 - step, step / 2, [Sample("cond", 0)], {"a.0": torch.full((1, len(run.measures), 1), step / 2)})


def test_the_plot_and_the_file_hold_the_run_that_made_what_is_wired(at, tmp_path, monkeypatch):
    monkeypatch.setattr("folder_paths.output_directory", str(tmp_path))
    trace = StabilityTrace()
    with at(graph(), "sampler"):
        traced(trace, "first")
    with at(graph(sampler__seed=5), "sampler"):
        traced(trace, "second")
    with at(graph(), "report"):
        picture, summary, table = execute(StabilityPlotNode, trace=trace, after={})
        (name,) = execute(SaveStabilityTraceNode, trace=trace, after={})
    assert "first" in summary
    assert "second" not in summary + table
    assert [run.model for run in StabilityTrace.load(tmp_path / name).runs] == ["first"]
    with at(graph(sampler__seed=5), "report"):
        _, summary, table = execute(StabilityPlotNode, trace=trace, after={})
    assert summary.startswith("Run 2 of 2. second")
    assert "first" in summary
    with at(graph(sampler__model=["model", 0]), "report"):
        picture, summary, table = execute(StabilityPlotNode, trace=trace, after={})
        (blocked,) = execute(SaveStabilityTraceNode, trace=trace, after={})
    assert (summary, table) == (not_made_by(PROBE), "")
    assert picture.shape[-1] == 3
    assert type(blocked).__name__ == "ExecutionBlocker"
    assert len(list(tmp_path.rglob("*.safetensors"))) == 1


def test_a_run_without_steps_is_not_drawn_as_the_one_before_it(at, monkeypatch):
    monkeypatch.setattr("symmetric_attention.nodes.plots.stability_layouts.draw_message", lambda text: text)
    trace = StabilityTrace()
    with at(graph(), "sampler"):
        traced(trace, "first")
    with at(graph(sampler__seed=5), "sampler"):
        traced(trace, "second", steps=0)
    with at(graph(sampler__seed=5), "report"):
        picture, _, _ = execute(StabilityPlotNode, trace=trace, after={})
    assert picture == "second, running: nothing was measured."


def test_the_origin_of_a_run_is_no_part_of_its_file(at, tmp_path):
    trace = StabilityTrace()
    with at(graph(), "sampler"):
        traced(trace, "first")
    trace.save(tmp_path / "trace")
    loaded = StabilityTrace.load(tmp_path / "trace")
    assert [run.origin for run in loaded.runs] == [None]
    assert trace_of_maker(loaded, wired(graph(sampler__seed=5))) is loaded


@pytest.mark.parametrize("layout", ["heat map", "difference", "map"])
def test_where_no_probe_is_wired_the_plot_says_so(layout):
    picture, summary, table = execute(StabilityPlotNode, layout=layout)
    assert (summary, table) == (NOTHING_MEASURED, "")
    assert picture.min() < 0.5


def test_where_no_node_is_wired_the_report_says_so():
    assert execute(ReportNode, after={}) == (NOTHING_PATCHED,)
    assert execute(ReportNode) == (NOTHING_PATCHED,)


def test_where_no_probe_is_wired_no_file_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr("folder_paths.output_directory", str(tmp_path))
    shown = []
    monkeypatch.setattr(
        "symmetric_attention.nodes.save_stability_trace.show_on_node", lambda text, node: shown.append(text)
    )
    (blocked,) = execute(SaveStabilityTraceNode, after={})
    assert type(blocked).__name__ == "ExecutionBlocker"
    assert shown == [f"{NOTHING_MEASURED} Nothing was saved."]
    assert not list(tmp_path.iterdir())
