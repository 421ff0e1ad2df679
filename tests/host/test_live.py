"""The live chart: one point a step, for the right node of the right graph, and never at the cost of a run."""

from __future__ import annotations

import json
import math
import sys
import types
from typing import Any

import comfy.model_management
import pytest
import torch
from symmetric_attention.nodes.host import live_chart as live
from symmetric_attention.nodes.host.live_chart import KEPT_CHARTS, LiveCharts, point_of
from symmetric_attention.nodes.stability_baseline import StabilityBaselineNode
from symmetric_attention.nodes.stability_feedback import StabilityFeedbackNode

from lab.testing.run_nodes import NODE_ID, execute, little_memory, probe, skew
from sad_core.stability.run import StabilityRun
from sad_core.stability.step import Sample, Step

WORKFLOW = "a graph in the editor"


class Browser:
    """ComfyUI's PromptServer, as far as events go (server.py), and its queue while a graph's prompt runs."""

    client_id = "the browser that queued the prompt"

    def __init__(self, workflow: str | None = WORKFLOW):
        self.events: list[dict] = []
        self.addressed: set[tuple] = set()
        extra = {} if workflow is None else {"extra_pnginfo": {"workflow": {"id": workflow}}}
        running: list[tuple] = [(0, "prompt", {}, extra, [])]
        self.prompt_queue = types.SimpleNamespace(get_current_queue_volatile=lambda: (running, []))

    def send_sync(self, event, data, sid=None):
        self.addressed.add((event, sid))
        self.events.append(json.loads(json.dumps(data, allow_nan=False)))

    def send_progress_text(self, *_, **__):
        pass


@pytest.fixture
def connect(monkeypatch):
    """`connect(browser)` puts it in front of the sampler; charts of other tests are gone."""
    charts = LiveCharts()
    monkeypatch.setattr("symmetric_attention.nodes.host.patches.probe_patch.charts", charts)

    def to(browser):
        server = types.SimpleNamespace(PromptServer=types.SimpleNamespace(instance=browser))
        monkeypatch.setitem(sys.modules, "server", server)
        return charts

    return to


def stated(run: StabilityRun, part: str) -> list[list[float]]:
    """By step and measure: the mean of the trace's table over samples and the sites of a part."""
    by_step: dict[Any, list[list[Any]]] = {}
    for row in run.table():
        if part == "all" or str(row["site"]).startswith(f"{part}."):
            by_step.setdefault(row["step"], []).append([row[measure] for measure in run.measures])
    return [torch.tensor(rows, dtype=torch.float64).mean(dim=0).tolist() for rows in by_step.values()]


@pytest.mark.parametrize("name", ["SD15", "Flux"])
def test_every_step_is_one_message_with_the_means_of_the_trace(families, name, connect):
    family = families[name]
    browser = Browser()
    connect(browser)
    model, trace = probe(family.model)
    assert family.sample(model, steps=4).equal(family.sample(steps=4))
    (run,) = trace.runs
    assert browser.addressed == {(live.EVENT, None)}  # every page
    begin, *steps, end = browser.events
    assert (begin["points"], begin["status"]) == ([], "running")
    assert (end["points"], end["status"]) == ([], "finished")
    assert {(event["node"], event["workflow"], event["run"]) for event in browser.events} == {
        (NODE_ID, WORKFLOW, begin["run"])
    }
    points = [point for event in steps for point in event["points"]]
    assert [len(event["points"]) for event in steps] == [1] * 4
    assert [point["step"] for point in points] == [1, 2, 3, 4]
    assert [point["sigma"] for point in points] == pytest.approx([step.sigma for step in run.steps], rel=1e-5)
    assert [point["progress"] for point in points] == pytest.approx([step.progress for step in run.steps], abs=1e-6)
    parts = {"SD15": ["all", "input", "middle", "output"], "Flux": ["all", "double", "single"]}[name]
    for part in parts:
        for point, want in zip(points, stated(run, part), strict=True):
            assert list(point["means"]) == parts
            assert point["means"][part] == pytest.approx(want, rel=1e-4, abs=1e-6)


def test_a_model_of_one_part_has_one_line(sd3, connect):
    browser = Browser()
    connect(browser)
    sd3.sample(probe(sd3.model)[0])
    assert [list(point["means"]) for event in browser.events for point in event["points"]] == [["all"]] * 2


def test_cond_and_uncond_in_calls_of_their_own_are_one_point(sd15, connect):
    browser = Browser()
    charts = connect(browser)
    model, trace = probe(sd15.model)
    with little_memory(model):
        sd15.sample(model)
    sent = [point["step"] for event in browser.events for point in event["points"]]
    assert sent == [1, 1, 2, 2]
    (chart,) = charts.of_workflow({"workflow": WORKFLOW})
    for point, want in zip(chart["points"], stated(trace.runs[0], "all"), strict=True):
        assert point["means"]["all"] == pytest.approx(want, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (comfy.model_management.InterruptProcessingException(), "interrupted"),
        (ArithmeticError("boom"), "failed (ArithmeticError)"),
    ],
)
def test_a_run_that_ends_early_says_how(sd15, connect, error, status):
    browser = Browser()
    charts = connect(browser)

    def callback(step, *_):
        if step == 1:
            raise error

    with pytest.raises(type(error)):
        sd15.sample(probe(sd15.model)[0], steps=4, callback=callback)
    assert browser.events[-1]["status"] == status
    (chart,) = charts.of_workflow({"workflow": WORKFLOW})
    assert (chart["status"], len(chart["points"])) == (status, 2)


def test_a_second_run_takes_the_place_of_the_first(sd15, connect):
    browser = Browser()
    charts = connect(browser)
    model, _ = probe(sd15.model)
    sd15.sample(model, steps=3)
    first = browser.events[-1]["run"]
    sd15.sample(model, steps=2)
    (chart,) = charts.of_workflow({"workflow": WORKFLOW})
    assert chart["run"] > first
    assert [point["step"] for point in chart["points"]] == [1, 2]


def test_a_page_opened_while_the_run_goes_on_gets_the_points_so_far(sd15, connect):
    browser = Browser()
    charts = connect(browser)
    seen = []

    def callback(step, *_):
        seen.append((charts.of_workflow({"workflow": WORKFLOW}), charts.of_workflow({"workflow": "another"})))
        sent = [point for event in browser.events for point in event["points"]]
        assert seen[-1][0][0]["points"] == sent

    sd15.sample(probe(sd15.model)[0], steps=3, callback=callback)
    assert [(len(ours[0]["points"]), ours[0]["status"], others) for ours, others in seen] == [
        (1, "running", []),
        (2, "running", []),
        (3, "running", []),
    ]


class SilentBrowser(Browser):
    """A browser whose connection is broken."""

    def send_sync(self, *_, **__):
        raise ConnectionResetError("the browser is gone")


def broken(*_, **__):
    raise RuntimeError("a mean is broken")


@pytest.mark.parametrize("what", ["no server", "no graph", "connection", "queue", "means"])
def test_what_goes_wrong_with_a_chart_costs_neither_picture_nor_trace(sd15, connect, monkeypatch, what):
    browser = SilentBrowser() if what == "connection" else Browser(None if what == "no graph" else WORKFLOW)
    if what == "queue":
        del browser.prompt_queue
    if what == "means":
        monkeypatch.setattr(live, "point_of", broken)
    if what != "no server":
        connect(browser)
    model, trace = probe(sd15.model)
    assert sd15.sample(model).equal(sd15.picture)
    assert (trace.runs[0].status, len(trace.runs[0].steps)) == ("finished", 2)
    if what in ("no graph", "queue"):
        assert browser.events == []


def step(value: float) -> Step:
    values = torch.tensor([[[value]], [[3.0]]])
    return Step(1.0, 0.5, (Sample("cond", 0), Sample("uncond", 0)), (("middle.0.0", 1),), values)


@pytest.mark.parametrize(("value", "mean"), [(1.0, 2.0), (math.nan, 3.0), (math.inf, None)])
def test_numbers_that_json_cannot_hold_are_left_out(value, mean):
    point = point_of(step(value), 7)
    assert point == {"step": 7, "sigma": 1.0, "progress": 0.5, "means": {"all": [mean]}}
    assert json.loads(json.dumps(point, allow_nan=False)) == point


def test_long_runs_and_many_nodes_stay_small(connect, monkeypatch):
    monkeypatch.setattr(live, "MOST_POINTS", 50)
    charts = connect(Browser())
    for number in range(KEPT_CHARTS + 5):
        chart = charts.begin(str(number), ("alignment",))
    kept = charts.of_workflow({"workflow": WORKFLOW})
    assert [each["node"] for each in kept] == [str(number) for number in range(5, KEPT_CHARTS + 5)]
    run = StabilityRun("SD15", ("middle.0.0",), ("alignment",))
    for number in range(200):
        run.record(200.0 - number, number / 200, [Sample("cond", 0)], {"middle.0.0": torch.ones(1, 1, 1)})
        chart.add(run)
    points = [point["step"] for point in chart.message()["points"]]
    assert len(points) <= 50
    assert (points[0], points[-1], sorted(points)) == (1, 200, points)


def test_a_graph_without_an_id_tells_only_the_page_that_queued_it(connect):
    """Every such graph has the same id, so another page would take it for its own."""
    browser = Browser(live.NO_ID)
    connect(browser).begin("3", ("alignment",)).close("finished")
    assert len(browser.events) == 2
    assert browser.addressed == {(live.EVENT, browser.client_id)}


def test_two_graphs_with_the_same_node_id_have_charts_of_their_own(connect):
    charts = connect(Browser("one"))
    charts.begin("3", ("alignment",))
    connect(Browser("two"))
    charts.begin("3", ("alignment",))
    assert [len(charts.of_workflow({"workflow": name})) for name in ("one", "two", "three")] == [1, 1, 0]
    assert charts.begin(None, ("alignment",)) is None  # a node that no prompt named


def test_feedback_draws_its_gamma_and_the_band_of_its_baseline(sd15, connect):
    browser = Browser()
    connect(browser)
    model, trace = probe(sd15.model)
    sd15.sample(model, steps=4, noise=sd15.noise(2))
    baseline, _ = execute(StabilityBaselineNode, trace=trace)
    browser.events.clear()
    model = skew(sd15.model)[0]
    model, trace = execute(StabilityFeedbackNode, model=model, gain=0.5, dead_band=0.0, baseline=baseline)
    sd15.sample(model, steps=4, noise=sd15.noise(2))
    message = browser.events[1]
    assert message["measures"] == ["alignment", "gamma"]
    assert len(message["bands"]) == 2
    assert message["bands"][1] == []
    want = baseline.curve("alignment", None)
    assert message["bands"][0] == [pytest.approx([place, low, high], rel=1e-5) for place, low, _, high in want]
    points = [point for event in browser.events for point in event["points"]]
    assert [point["step"] for point in points] == [1, 2, 3, 4]
    for point, step in zip(points, trace.runs[-1].steps, strict=True):
        gammas = step.gamma_by_sample()
        assert point["means"]["all"][1] == pytest.approx(sum(gammas.values()) / 2, rel=1e-5)
        assert point["means"]["image 2"] == [None, pytest.approx(gammas[1], rel=1e-5)]


def test_a_probe_shades_its_band_only_where_the_sites_are_the_same(sd15, connect):
    browser = Browser()
    connect(browser)
    model, trace = probe(sd15.model)
    sd15.sample(model, steps=2)
    baseline, _ = execute(StabilityBaselineNode, trace=trace)
    for widgets, count in (({}, 4), ({"blocks": "middle"}, 0)):
        browser.events.clear()
        sd15.sample(probe(sd15.model, baseline=baseline, **widgets)[0], steps=1)
        assert len(browser.events[0]["bands"]) == count
