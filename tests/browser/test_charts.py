"""The charts on the nodes, in a real browser: the stability of a run as it goes on, and the curve of a schedule."""

from __future__ import annotations

import itertools

import pytest

from lab.demo.gamma_sweep import workflow
from lab.testing.editor import READY, RENDERERS, open_page, render
from lab.testing.editor_graphs import HANGING, OPEN, numbered, put_probe

fresh = itertools.count(1000)
PATIENCE, OFTEN = 200_000, 200  # milliseconds; asking at every frame would take the time from the sampler

# The chart of the node of a class: what it says, and how many points its first line has in every panel.
CHART = """kind => {
    const find = graph => graph._nodes.flatMap(n => n.comfyClass === kind ? [n] : n.subgraph ? find(n.subgraph) : []);
    const node = find(window.app.rootGraph)[0];
    const chart = node?.widgets.find(w => w.name === 'chart')?.element;
    if (!chart?.isConnected) return null;
    return {
        note: chart.querySelector('.sad-chart-note').textContent,
        label: chart.getAttribute('aria-label'),
        isProblem: chart.classList.contains('sad-chart-problem'),
        heard: chart.querySelector('.sad-chart-heard').textContent,
        cursors: chart.querySelectorAll('.sad-chart-cursor').length,
        lines: [...chart.querySelectorAll('.sad-chart-panel')].map(
            panel => [...panel.querySelectorAll('.sad-chart-line')].at(-1).getAttribute('d')),
    };
}"""
QUEUE = "() => window.app.queuePrompt(0)"
# What a field lacks, in which shape, and what the chart says of it.
REFUSED = (
    ("values", "", "values", "values is empty. Write at least one γ, as in 1, 1.05, 1."),
    ("curve", None, "curve", "curve is empty. Draw one in the curve widget, wire a CURVE, or choose another shape."),
    (
        "start",
        1.0,
        "linear",
        "start is 1 and end is 1, but start must be smaller than end, and both from 0 to 1.",
    ),
)
INTERRUPT = "async () => (await import('/scripts/api.js')).api.interrupt()"
DISCONNECT = "async () => (await import('/scripts/api.js')).api.socket.close()"  # the editor connects again by itself


@pytest.fixture
def complaints(page) -> list[str]:
    """Errors and warnings of our scripts in the console."""
    found: list[str] = []
    page.on("console", lambda told: found.append(told.text) if is_ours(told) else None)
    return found


def is_ours(told) -> bool:
    """Return whether the pack may have caused an error or a warning. Offline, pictures of templates are missing."""
    about_us = "symmetric" in told.text.lower() or "symmetric" in told.location.get("url", "")
    return told.type in ("error", "warning") and (about_us or "Unknown message type" in told.text)


def prompt(steps: int) -> dict:
    """The demo model behind a schedule and in front of a probe, never seen before by the server."""
    nodes = workflow(1.5, "food", next(fresh), steps=steps)
    put_probe(nodes)
    nodes["schedule"] = {
        "class_type": "SADGammaSchedule",
        "inputs": {"shape": "linear", "start_gamma": 1.3, "end_gamma": 0.8, "start": 0.0, "end": 1.0}
        | {"keyframes": "0:1, 0.3:1.05, 1:1", "curve_min": 0.5, "curve_max": 1.5, "values": "1, 1.05, 1"},
    }
    nodes["skew"]["inputs"]["schedule"] = ["schedule", 0]
    return numbered(nodes)


def chart(page, kind: str) -> dict | None:
    return page.evaluate(CHART, kind)


def probed(page, condition: str, **values) -> dict:
    """The stability chart, once a condition on `chart` and `points` (of its first line) holds."""
    return wait_for(page, "SADStabilityProbe", condition, **values)


def wait_for(page, kind: str, condition: str, **values) -> dict:
    """The chart of a node, once a condition on `chart`, `points` and the values in `v` holds."""
    test = f"""([kind, v]) => {{
        const chart = ({CHART})(kind);
        const points = (chart?.lines[0] ?? '').split(/[ML]/).length - 1;
        return chart && ({condition});
    }}"""
    page.wait_for_function(test, arg=[kind, values], timeout=PATIENCE, polling=OFTEN)
    shown = chart(page, kind)
    assert shown is not None
    return shown


def greyed(page, kind: str) -> list[str]:
    """The widgets of a node that are grey, in their order."""
    node = "window.app.rootGraph._nodes.find(n => n.comfyClass === kind)"
    names: list[str] = page.evaluate(f"kind => {node}.widgets.filter(w => w.disabled).map(w => w.name)", kind)
    return names


def put_steps(page, steps: int) -> None:
    """Set the steps of the sampler."""
    sampler = "window.app.rootGraph._nodes.find(n => n.comfyClass === 'KSampler')"
    page.evaluate(f"steps => {{ {sampler}.widgets.find(w => w.name === 'steps').value = steps; }}", steps)


def count(line: str) -> int:
    return line.count("M") + line.count("L")


@pytest.mark.parametrize("renderer", RENDERERS)
def test_the_chart_gets_a_point_a_step_and_is_read_with_the_keyboard(page, server, complaints, tmp_path, renderer):
    steps = 30  # more than a slow browser draws frames for
    render(page, renderer)
    graph_id = page.evaluate(OPEN, prompt(steps))
    probed(page, "chart.note.startsWith('The measures of every step appear here')")
    page.evaluate(
        """kind => {
        window.counted = [];
        const panels = window.app.rootGraph._nodes.find(n => n.comfyClass === kind).widgets
            .find(w => w.name === 'chart').element.querySelector('.sad-chart-panels');
        const look = () => {
            const lines = [...panels.querySelectorAll('.sad-chart-panel:first-child .sad-chart-line')];
            window.counted.push((lines.at(-1)?.getAttribute('d') ?? '').split(/[ML]/).length - 1);
        };
        new MutationObserver(look).observe(panels, {childList: true});
    }""",
        "SADStabilityProbe",
    )
    page.evaluate(QUEUE)
    shown = probed(page, "chart.note.startsWith('finished')")
    counted = page.evaluate("() => window.counted")
    assert counted == sorted(counted)
    assert len(set(counted)) > 2  # it grew while the run went on
    assert [count(line) for line in shown["lines"]] == [steps] * 4
    (run,) = server.post("/symmetric_attention/stability", {"workflow": graph_id})
    assert [point["step"] for point in run["points"]] == list(range(1, steps + 1))
    alignment = run["points"][-1]["means"]["all"][run["measures"].index("alignment")]
    assert f"finished, step {steps} at " in shown["label"]
    assert f"alignment {alignment:.4g}".replace("-", "−") in shown["label"]

    element = page.locator(".sad-chart", has_text="alignment")
    element.focus()
    assert chart(page, "SADStabilityProbe")["cursors"] == 0
    for key, step in (("ArrowLeft", steps - 1), ("Home", 1), ("ArrowLeft", 1), ("ArrowRight", 2), ("End", steps)):
        page.keyboard.press(key)
        now = chart(page, "SADStabilityProbe")
        assert f", step {step} at " in now["label"]
        assert now["label"].endswith(now["heard"])
        assert now["cursors"] == 4
    page.keyboard.press("Escape")
    assert chart(page, "SADStabilityProbe")["cursors"] == 0
    assert page.evaluate("() => window.app.rootGraph._nodes.length") == len(prompt(steps))
    page.screenshot(path=tmp_path / "stability.png")
    assert page.problems == []
    assert complaints == []


def test_a_page_reloaded_during_a_run_shows_all_points_and_goes_on(page, complaints):
    page.evaluate(OPEN, prompt(500))
    page.evaluate(QUEUE)
    before = count(probed(page, "points >= 5")["lines"][0])
    page.reload()
    page.wait_for_function(READY, timeout=PATIENCE)
    # Steps numbered without a gap from the first on: those of before, those that nobody heard, those that came after.
    after = probed(page, "points > v.before", before=before)
    assert after["note"].startswith("running · step ")
    assert int(after["note"].split()[3]) == count(after["lines"][0])
    probed(page, "points > v.after", after=count(after["lines"][0]))

    page.evaluate(INTERRUPT)
    probed(page, "chart.note.startsWith('interrupted')")

    put_steps(page, 3)
    page.evaluate(QUEUE)
    second = probed(page, "chart.note.startsWith('finished')")
    assert [count(line) for line in second["lines"]] == [3] * 4
    assert page.problems == []
    assert complaints == []


def test_what_was_not_done_has_its_reason_and_a_chart_outlives_a_reload(page, complaints):
    nodes = workflow(1.5, "food", next(fresh), steps=2)
    put_probe(nodes)
    widgets = {"model": nodes["sampler"]["inputs"]["model"], "scale": 0.5, "blur_sigma": 2.0}
    nodes["guided"] = {"class_type": "SelfAttentionGuidance", "inputs": widgets}
    nodes["sampler"]["inputs"]["model"] = ["guided", 0]
    page.evaluate(OPEN, numbered(nodes))
    find = "window.app.rootGraph._nodes.find(n => n.comfyClass === '{}')".format
    text = f"{find('SADSkewAttention')}.widgets.find(w => w.name === 'last_run')?.value"
    page.evaluate(QUEUE)
    wait = {"timeout": PATIENCE, "polling": OFTEN}
    page.wait_for_function(f"() => {text}?.includes('Not reached: middle.0.0. Reason: ')", **wait)

    page.evaluate(f"""() => {{
        const put = (node, name, value) => {{ node.widgets.find(w => w.name === name).value = value; }};
        {find("SelfAttentionGuidance")}.mode = 4;
        put({find("SADSkewAttention")}, 'apply_to', 'uncond');
        put({find("KSampler")}, 'cfg', 1);
    }}""")
    page.evaluate(QUEUE)
    page.wait_for_function(f"() => {text}?.includes('This run had no uncond pass')", **wait)
    said = page.evaluate(f"() => {text}")
    assert "the image is that of the unpatched model. ComfyUI leaves uncond out where CFG is 1." in said
    assert "γ 1.5 from" not in said

    before = probed(page, "chart.note.startsWith('finished · step 2')")
    page.reload()
    page.wait_for_function(READY, timeout=PATIENCE)
    after = probed(page, "chart.note.startsWith('finished · step 2')")
    assert after["lines"] == before["lines"]
    assert [count(line) for line in after["lines"]] == [2] * 4
    assert page.problems == []
    assert complaints == []


def test_every_page_with_the_graph_draws_the_run_and_no_page_with_another(page, server, complaints):
    """Node ids are the same in both graphs; that of the graph tells them apart."""
    page.evaluate(OPEN, prompt(3))
    other = open_page(page.context.browser, server)
    other.evaluate(OPEN, prompt(3))
    page.evaluate(QUEUE)
    probed(page, "chart.note.startsWith('finished')")
    assert chart(other, "SADStabilityProbe")["note"].startswith("The measures of every step appear here")

    graph = page.evaluate("() => JSON.parse(JSON.stringify(window.app.rootGraph.serialize()))")
    other.evaluate("graph => window.app.loadGraphData(graph, true, true)", graph)
    probed(other, "chart.note.startsWith('finished · step 3')")
    put_steps(page, 4)
    page.evaluate(QUEUE)
    for each in (page, other):
        shown = probed(each, "chart.note.startsWith('finished · step 4')")
        assert [count(line) for line in shown["lines"]] == [4] * 4
        assert each.problems == []
    assert complaints == []


def test_a_lost_connection_is_reported_and_the_chart_goes_on_after_it(page, complaints):
    page.evaluate(OPEN, prompt(500))
    page.evaluate(QUEUE)
    probed(page, "points >= 3")
    page.evaluate("""() => {
        window.told = [];
        const note = document.querySelector('.sad-chart[aria-label^="Stability"] .sad-chart-note');
        new MutationObserver(() => window.told.push(note.textContent)).observe(note, {childList: true});
    }""")
    page.evaluate(DISCONNECT)
    told = "note => window.told.some(each => each.startsWith(note))"
    page.wait_for_function(told, arg="connection lost · step ", timeout=PATIENCE, polling=OFTEN)
    lost = probed(page, "chart.note.startsWith('running')")
    probed(page, "points > v.lost", lost=count(lost["lines"][0]))
    page.evaluate(INTERRUPT)
    probed(page, "chart.note.startsWith('interrupted')")
    assert page.problems == []
    assert complaints == []


def test_a_run_that_the_server_forgot_does_not_stay_running(page, complaints):
    """The charts of a page after a restart of its server."""
    graph_id = page.evaluate(OPEN, prompt(3))
    node = page.evaluate("() => String(window.app.rootGraph._nodes.find(n => n.comfyClass === 'SADStabilityProbe').id)")
    point = {"step": 1, "sigma": 7.0, "progress": 0.2, "means": {"all": [0.5]}}
    page.evaluate(
        """async detail => {
            const {api} = await import('/scripts/api.js');
            api.dispatchEvent(new CustomEvent('symmetric_attention.stability', {detail}));
        }""",
        {"node": node, "workflow": graph_id, "run": 1.0, "status": "running"}
        | {"measures": ["alignment"], "points": [point]},
    )
    probed(page, "chart.note.startsWith('running · step 1')")
    page.evaluate(DISCONNECT)
    gone = probed(page, "chart.note.startsWith('server restarted · step 1')")
    assert count(gone["lines"][0]) == 1
    page.evaluate(QUEUE)
    probed(page, "chart.note.startsWith('finished · step 3')")
    assert page.problems == []
    assert complaints == []


def test_a_subgraph_has_chart_and_text_whichever_graph_is_open(page, complaints, tmp_path):
    page.evaluate(OPEN, prompt(3))
    page.evaluate("""() => {
        const graph = window.app.rootGraph;
        const inner = ['SADStabilityProbe', 'SADSkewAttention', 'SADGammaSchedule'];
        const {subgraph} = graph.convertToSubgraph(new Set(graph._nodes.filter(n => inner.includes(n.comfyClass))));
        window.inner = subgraph;
    }""")
    page.evaluate(QUEUE)
    told = """() => window.inner._nodes.find(n => n.comfyClass === 'SADSkewAttention').widgets
        .some(w => w.name === 'last_run' && w.value.includes('attention calls changed in 3 model calls'))"""
    page.wait_for_function(told, timeout=PATIENCE, polling=OFTEN)
    page.evaluate("() => window.app.canvas.setGraph(window.inner)")
    shown = probed(page, "chart.note.startsWith('finished')")
    assert [count(line) for line in shown["lines"]] == [3] * 4
    page.wait_for_function(f"() => ({HANGING})().length === 0", timeout=PATIENCE, polling=OFTEN)
    page.screenshot(path=tmp_path / "subgraph.png")
    assert page.problems == []
    assert complaints == []


@pytest.mark.parametrize("renderer", RENDERERS)
def test_the_curve_follows_the_widgets_and_so_does_the_prompt(page, complaints, tmp_path, renderer):
    render(page, renderer)
    page.evaluate(OPEN, prompt(3))
    node = "window.app.rootGraph._nodes.find(n => n.comfyClass === 'SADGammaSchedule')"
    drawn = wait_for(page, "SADGammaSchedule", "chart.lines.length")
    assert drawn["note"] == "γ 0.8 … 1.3"
    page.evaluate(
        f"() => {{ {node}.widgets.find(w => w.name === 'chart').width = 298; }}"
    )  # as the editor's search does
    page.wait_for_function(f"() => ({HANGING})().length === 0", timeout=PATIENCE, polling=OFTEN)
    assert greyed(page, "SADGammaSchedule") == ["keyframes", "curve_min", "curve_max", "values", "curve"]
    assert greyed(page, "SADSkewAttention") == ["gamma", "norm"]
    page.evaluate(f"""async () => {{
        {node}.mode = 4;
        (await import('/scripts/api.js'))
            .api.dispatchEvent(new CustomEvent('graphChanged', {{detail: window.app.rootGraph.serialize()}}));
    }}""")
    assert greyed(page, "SADSkewAttention") == ["norm"]  # a bypassed schedule gives no gamma
    page.evaluate(f"() => {{ {node}.mode = 0; }}")
    values = page.evaluate(f"() => JSON.stringify({node}.serialize().widgets_values)")

    def put(name: str, value) -> None:
        """Give a widget a value the way its rendering does."""
        if renderer == "nodes 2.0" and isinstance(value, float):
            field = page.get_by_label(name, exact=True).locator("input").first
            field.fill(str(value))
            field.press("Enter")
        else:
            page.evaluate(
                f"""([name, value]) => {node}.widgets.find(w => w.name === name)
                    .setValue(value, {{e: new PointerEvent('click'), node: {node}, canvas: window.app.canvas}})""",
                [name, value],
            )

    put("start_gamma", 1.7)
    changed = wait_for(page, "SADGammaSchedule", "chart.note === 'γ 0.8 … 1.7'")
    assert "from 1.7 to 0.8" in changed["label"]
    queued = page.evaluate("async () => Object.values((await window.app.graphToPrompt()).output)")
    (inputs,) = (each["inputs"] for each in queued if each["class_type"] == "SADGammaSchedule")
    assert inputs["start_gamma"] == 1.7
    assert "chart" not in inputs

    page.locator(".sad-chart", has_text="unpatched model").focus()
    page.keyboard.press("Home")
    assert chart(page, "SADGammaSchedule")["heard"].endswith("1.7 at 0 %.")
    page.screenshot(path=tmp_path / "curve.png")

    put("keyframes", "0:1, oops")
    put("shape", "keyframes")
    wrong = wait_for(page, "SADGammaSchedule", "chart.isProblem")
    assert "keyframes" not in greyed(page, "SADGammaSchedule")
    assert "start_gamma" in greyed(page, "SADGammaSchedule")
    page.screenshot(path=tmp_path / "keyframes.png")
    assert wrong["note"] == 'The keyframe "oops" is not understood. Write progress:gamma, as in 0:1, 0.3:1.05, 1:1.'

    for field, nothing, shape, sentence in REFUSED:
        before = page.evaluate(f"name => {node}.widgets.find(w => w.name === name).value", field)
        put("shape", shape)
        put(field, nothing)
        wait_for(page, "SADGammaSchedule", "chart.isProblem && chart.note === v.sentence", sentence=sentence)
        put(field, before)

    page.evaluate(f"""() => {{
        const source = LiteGraph.createNode('PrimitiveFloat');
        window.app.rootGraph.add(source);
        source.connect(0, {node}, 'start_gamma');
        const shape = {node}.widgets.find(w => w.name === 'shape');
        shape.setValue('linear', {{e: new PointerEvent('click'), node: {node}, canvas: window.app.canvas}});
    }}""")
    wired = wait_for(page, "SADGammaSchedule", "chart.note.startsWith('The curve comes from the wire at start_gamma.')")
    assert not wired["isProblem"]

    saved = page.evaluate(f"() => JSON.stringify({node}.serialize().widgets_values)")
    assert saved == values.replace("1.3", "1.7", 1).replace("0:1, 0.3:1.05, 1:1", "0:1, oops")
    assert page.problems == []
    assert complaints == []


@pytest.fixture
def _without_our_scripts(context):
    """Pages that are opened from now on load no script of the pack."""
    scripts = "**/symmetric-attention/*.js"
    context.route(scripts, lambda route: route.abort())
    yield
    context.unroute(scripts)


@pytest.mark.usefixtures("_without_our_scripts")  # first, so that the page is opened without them
def test_without_the_scripts_the_nodes_work_as_before(fresh_page):
    page = fresh_page
    page.evaluate(OPEN, prompt(2))
    assert page.evaluate("() => document.querySelectorAll('.sad-chart').length") == 0
    # Looked at when the text comes: since front end 1.58 the editor takes its preview away when the run ends.
    page.evaluate("""() => {
        window.told = [];
        const look = () => window.told.push(...window.app.rootGraph._nodes
            .find(n => n.comfyClass === 'SADStabilityProbe').widgets.map(w => w.value));
        window.app.api.addEventListener('progress_text', () => queueMicrotask(look));
    }""")
    page.evaluate(QUEUE)
    told = "() => window.told.some(each => String(each).includes('10 of 10 sites × 2 steps'))"
    page.wait_for_function(told, timeout=PATIENCE)
    # The editor tells of the scripts that were blocked, and since front end 1.58 of messages that nobody listens to.
    expected = ("Failed to fetch dynamically imported module", "Unknown message type symmetric_attention.")
    assert [each for each in page.problems if not any(words in each for words in expected)] == []
