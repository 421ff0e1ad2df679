"""Stability Plot, Save and Load: pictures that show what was measured, and files only in the output folder."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import folder_paths
import pytest
import torch
from safetensors.torch import save_file
from symmetric_attention.nodes.load_stability_baseline import LoadStabilityBaselineNode
from symmetric_attention.nodes.load_stability_trace import LoadStabilityTraceNode
from symmetric_attention.nodes.plots import stability, stability_layouts
from symmetric_attention.nodes.plots.stability import draw_message
from symmetric_attention.nodes.plots.stability_layouts import LAYOUTS, NO_BASELINE, NOTHING_TO_COMPARE, least_aligned
from symmetric_attention.nodes.plots.style import BLUE, ORANGE
from symmetric_attention.nodes.save_stability_trace import SaveStabilityTraceNode
from symmetric_attention.nodes.stability_plot import StabilityPlotNode
from symmetric_attention.sad_core import StabilityBaseline, StabilityTrace
from symmetric_attention.sad_core.stability.run import StabilityRun
from symmetric_attention.sad_core.stability.step import Sample

from lab.testing.families.rows import STEPS
from lab.testing.made_up_runs import a_run
from lab.testing.run_nodes import execute, probe, skew

MEASURES = ("energy", "alignment")
SITES = ("input.1.0", "middle.0.0", "output.0.0")


def run_with(values: torch.Tensor, steps: int = 6, chunks=("cond", "uncond")) -> StabilityRun:
    """A run whose numbers are `values` by site, the same at every step and in every pass."""
    run = StabilityRun("SD15", SITES, MEASURES)
    samples = [Sample(chunk, 0) for chunk in chunks]
    for step in range(steps):
        by_site = {
            site: torch.full((len(chunks), 2, 4), float(value)) for site, value in zip(SITES, values, strict=True)
        }
        run.record(10.0 - step, step / (steps - 1), samples, by_site)
    return run


def plot(trace, **widgets) -> tuple:
    return execute(StabilityPlotNode, trace=trace, **widgets)


def is_coloured(picture: torch.Tensor) -> torch.Tensor:
    """Return a mask of the coloured pixels."""
    return (picture[0].amax(-1) - picture[0].amin(-1)) > 0.1


@pytest.fixture
def output(tmp_path, monkeypatch) -> Path:
    """ComfyUI's output folder for this test."""
    folder = tmp_path / "output"
    folder.mkdir()
    monkeypatch.setattr(folder_paths, "output_directory", str(folder))
    return folder


@pytest.mark.newest
@pytest.mark.parametrize("layout", LAYOUTS[:4])
def test_every_layout_is_an_image_1024_wide_that_shows_something(layout):
    one, other = (StabilityTrace([run_with(torch.randn(3))]) for _ in range(2))
    picture, summary, table = plot(one, layout=layout, compare_with=other)
    assert picture.dtype == torch.float32
    assert picture.shape[0] == 1
    assert picture.shape[2:] == (1024, 3)
    assert 0 <= picture.min() < 0.3
    assert 0.9 < picture.max() <= 1
    assert is_coloured(picture).sum() > 10000
    assert summary == one.summary()
    assert len(list(csv.DictReader(io.StringIO(table)))) == 6 * 2 * 3


@pytest.mark.newest
def test_equal_numbers_have_equal_colours_and_others_do_not():
    def panel(values):
        picture = plot(StabilityTrace([run_with(torch.tensor(values))]))[0]
        return picture[0, 40:230, 70:440]  # within the first panel

    first = panel([0.1, 0.5, 0.9])
    assert first.equal(panel([0.1, 0.5, 0.9]))
    assert not first.equal(panel([0.9, 0.5, 0.1]))


@pytest.mark.newest
def test_a_run_less_itself_has_no_colour_and_two_runs_are_compared():
    one, other = run_with(torch.tensor([0.1, 0.5, 0.9])), run_with(torch.tensor([0.3, 0.1, 0.9]))
    same = plot(StabilityTrace([one, one]), layout="difference")[0]
    changed = plot(StabilityTrace([other, one]), layout="difference")[0]
    left = slice(0, 440)  # without the colour bar
    assert is_coloured(same[:, :, left]).sum() == 0
    assert is_coloured(changed[:, :, left]).sum() > 5000
    alone = plot(StabilityTrace([one]), layout="difference")[0]
    assert alone.equal(draw_message(NOTHING_TO_COMPARE))


@pytest.mark.newest
def test_curves_are_blue_and_orange_and_apart_by_pass():
    def has(picture, colour):
        wanted = torch.tensor([int(colour[place : place + 2], 16) for place in (1, 3, 5)]) / 255
        return bool(((picture[0] - wanted).abs().amax(-1) < 0.02).any())

    blue, orange = BLUE, ORANGE
    run = run_with(torch.tensor([0.1, 0.5, 0.9]))
    drawn = plot(StabilityTrace([run]), layout="curves")[0]
    assert has(drawn, blue)
    assert has(drawn, orange)
    alone = plot(StabilityTrace([run]), layout="curves", passes="cond")[0]
    assert (has(alone, blue), has(alone, orange)) == (True, False)
    both = plot(StabilityTrace([run]), layout="curves", passes="cond", compare_with=StabilityTrace([run]))[0]
    assert has(both, orange)


@pytest.mark.newest
def test_the_least_aligned_site_shows_its_heads_where_none_is_named():
    trace = StabilityTrace([run_with(torch.tensor([0.5, 0.1, 0.9]))])
    assert least_aligned(trace.runs[0]) == "middle.0.0"
    drawn = plot(trace, layout="heads")[0]
    assert drawn.equal(plot(trace, layout="heads", site=" middle.0.0 ")[0])
    assert not drawn.equal(plot(trace, layout="heads", site="input.1.0")[0])
    with pytest.raises(ValueError, match=r'site is "double", but it must be one of input\.1\.0, middle'):
        plot(trace, layout="heads", site="double")


@pytest.mark.newest
@pytest.mark.parametrize("layout", LAYOUTS[:4])
def test_a_pass_that_was_not_there_is_said_and_not_drawn(layout, monkeypatch):
    monkeypatch.setattr(stability_layouts, "draw_message", lambda text: text)
    trace = StabilityTrace([run_with(torch.randn(3), chunks=("cond",)) for _ in range(2)])
    said = plot(trace, layout=layout, passes="uncond")[0]
    assert said == (
        'This run had no uncond pass, only cond. "cond" is the positive prompt, "uncond" the negative one. At CFG 1 '
        "ComfyUI leaves uncond out."
    )
    assert plot(trace, layout=layout, passes="cond")[0].shape[2] == 1024


@pytest.mark.newest
def test_undefined_numbers_are_drawn_as_grey():
    run = run_with(torch.tensor([0.5, float("nan"), 0.9]), chunks=("cond",))
    drawn = {layout: plot(StabilityTrace([run]), layout=layout, site="input.1.0")[0] for layout in LAYOUTS[:3]}
    drawn["one pass"] = plot(StabilityTrace([run]), layout=LAYOUTS[1], site="input.1.0", passes="cond")[0]
    assert all(picture.isfinite().all() for picture in drawn.values())
    grey = torch.full((3,), 0xCC / 255)
    picture = drawn["heat map"]
    assert ((picture[0] - grey).abs().amax(-1) < 0.005).sum() > 2000


@pytest.mark.newest
def test_one_step_and_one_measure_can_be_drawn():
    run = StabilityRun("SD15", SITES[:1], ("alignment",))
    run.record(1.0, 0.5, [Sample("cond", 0)], {SITES[0]: torch.zeros(1, 1, 1)})
    for layout in ("heat map", "curves", "heads"):
        assert plot(StabilityTrace([run]), layout=layout)[0].shape[2] == 1024


@pytest.mark.newest
def test_a_map_shows_the_place_over_the_picture():
    run = StabilityRun("SD15", SITES, MEASURES)
    for step in range(3):
        values = {SITES[0]: torch.zeros(1, 2, 1)}
        maps = torch.zeros(1, 8, 12)
        maps[0, :4, :6] = -1.0  # the top left is unstable
        run.record(2.0 - step, step / 2, [Sample("cond", 0)], values, {SITES[0]: maps})
    trace = StabilityTrace([run])
    drawn = plot(trace, layout="map")[0]
    assert drawn.shape[2] == 1024
    orange = ((drawn[0, :, :, 0] - drawn[0, :, :, 2]) > 0.3).nonzero()
    first = orange[orange[:, 1] < 300]  # within the first of three panels
    assert len(first) > 1000
    assert first[:, 1].max() < 200  # its left half
    assert first[:, 0].float().max() < 0.75 * drawn.shape[1]
    over = plot(trace, layout="map", after=torch.rand(1, 64, 96, 3))[0]
    assert not over.equal(drawn)
    assert plot(trace, layout="map", after={"samples": None}, passes="uncond", site=SITES[0])[0].equal(drawn)
    with pytest.raises(ValueError, match=r'The trace has maps only of input\.1\.0\. Name the site in "map_site"'):
        plot(trace, layout="map", site="middle.0.0")
    with pytest.raises(ValueError, match=r"The trace has no map. Name"):
        plot(StabilityTrace([run_with(torch.randn(3))]), layout="map")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_empty_trace_says_so_in_every_layout(layout):
    picture, summary, table = plot(StabilityTrace(), layout=layout)
    assert picture.shape == (1, 512, 768, 3)
    assert picture.min() < 0.5
    assert "No sampling run has gone through this probe yet" in summary
    assert table.strip() == ""


def test_without_matplotlib_there_is_a_sentence_and_pyplot_is_never_used(monkeypatch):
    trace = StabilityTrace([run_with(torch.randn(3))])
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    assert plot(trace)[0].shape[2] == 1024
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    picture, summary, _ = plot(trace)
    assert picture.shape == (1, 512, 768, 3)
    assert summary.startswith("SD15")


def test_from_the_model_to_the_picture_and_back_from_a_file(sd15, output):
    model, trace = probe(skew(sd15.model)[0])
    latent = {"samples": sd15.sample(model)}
    wanted = plot(trace, after=latent)
    (name,) = execute(SaveStabilityTraceNode, trace=trace, after=latent)
    assert name == "stability/trace_00001_.safetensors"
    assert (output / name).is_file()
    loaded, summary = execute(LoadStabilityTraceNode, file=name)
    assert summary == wanted[1]
    again = plot(loaded)
    assert again[0].equal(wanted[0])
    assert again[2] == wanted[2]
    assert len(loaded.runs[0].steps) == STEPS
    assert execute(SaveStabilityTraceNode, trace=trace, after=latent) == ("stability/trace_00002_.safetensors",)


def test_tables_are_saved_as_csv_and_json(output):
    trace = StabilityTrace([run_with(torch.randn(3))])
    (name,) = execute(SaveStabilityTraceNode, trace=trace, after=None, filename_prefix="numbers", format="CSV")
    assert name == "numbers_00001_.csv"
    assert (output / name).read_text() == plot(trace)[2]
    (name,) = execute(SaveStabilityTraceNode, trace=trace, after=None, filename_prefix="a/b/numbers", format="JSON")
    assert json.loads((output / name).read_text())["summary"] == trace.summary()


def test_an_empty_trace_is_not_saved(output):
    with pytest.raises(ValueError, match="No sampling run has gone through this probe yet"):
        execute(SaveStabilityTraceNode, trace=StabilityTrace(), after=None)
    assert not list(output.iterdir())


@pytest.mark.parametrize(
    "name",
    [
        "../trace",
        "stability/../../trace",
        "/etc/trace",
        "~/trace",
        "C:/trace",
        "a\\..\\..\\trace",
        "link/trace",
        ".",
        "",
        "a\0b",
        "\ud800",
        "\u202egnp",
        "x" * 201,
        "é" * 101,
        "a/" * 501,
    ],
)
def test_names_that_lead_out_of_the_output_folder_are_refused(output, name):
    outside = output.parent / "outside"
    outside.mkdir()
    (output / "link").symlink_to(outside, target_is_directory=True)
    trace = StabilityTrace([run_with(torch.randn(3))])
    for safe in (output.parent / "trace", outside / "trace"):
        trace.save(safe)  # so that a load that got there would work
    with pytest.raises(ValueError, match="it must be a name inside ComfyUI's output folder"):
        execute(SaveStabilityTraceNode, trace=trace, after=None, filename_prefix=name)
    with pytest.raises(ValueError, match="it must be a name inside ComfyUI's output folder"):
        execute(LoadStabilityTraceNode, file=name)
    assert sorted(path.name for path in output.parent.rglob("*")) == ["link", "output", "outside", "trace", "trace"]


def test_a_folder_that_cannot_be_made_is_said_in_a_sentence(output):
    (output / "table.csv").write_text("in the way")
    trace = StabilityTrace([run_with(torch.randn(3))])
    with pytest.raises(ValueError, match=r'^filename_prefix is "table\.csv/trace", but its folder cannot be made \('):
        execute(SaveStabilityTraceNode, trace=trace, after=None, filename_prefix="table.csv/trace")


@pytest.mark.newest
def test_the_lists_have_all_files_and_other_names_are_taken_too(output):
    loaders = {"trace": LoadStabilityTraceNode, "baseline": LoadStabilityBaselineNode}
    for kind, loader in loaders.items():
        assert loader.GET_SCHEMA().inputs[0].options == [f"stability/{kind}_00001_.safetensors"]
    trace = StabilityTrace([run_with(torch.randn(3))])
    for prefix in ("b", "a/deep/one"):
        execute(SaveStabilityTraceNode, trace=trace, filename_prefix=prefix)
    save_file({}, str(output / "normal.safetensors"), metadata={"stability_baseline": "{}"})
    (output / "weights.safetensors").write_bytes(b"something else")
    names = {kind: sorted(loader.GET_SCHEMA().inputs[0].options) for kind, loader in loaders.items()}
    assert names == {
        "trace": ["a/deep/one_00001_.safetensors", "b_00001_.safetensors"],
        "baseline": ["normal.safetensors"],
    }
    for kind, loader in loaders.items():
        told = loader.validate_inputs
        assert told(names[kind][0], {}) is told("not/saved/yet.safetensors", {}) is True
        assert told(None, {"file": "STRING"}) is True
        assert "a name inside ComfyUI's output folder" in told("../b_00001_.safetensors", {})
        refused = told(None, {"file": "IMAGE"})
        assert refused.startswith("file comes from an output of type IMAGE. Wire it to an output of type STRING")


def test_a_file_that_is_no_trace_is_refused_a_changed_one_read_again(output):
    (output / "other.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"other\.safetensors is not a stability trace"):
        execute(LoadStabilityTraceNode, file="other.safetensors")
    before = LoadStabilityTraceNode.fingerprint_inputs(file="other.safetensors")
    assert before == LoadStabilityTraceNode.fingerprint_inputs(file="other.safetensors")
    os.utime(output / "other.safetensors", ns=(1, 1))
    assert before != LoadStabilityTraceNode.fingerprint_inputs(file="other.safetensors")
    with pytest.raises(ValueError, match="There is no file"):
        execute(LoadStabilityTraceNode, file="nowhere.safetensors")


def test_every_node_has_a_help_page():
    from symmetric_attention.nodes import NODES

    from lab.testing.in_process_host import ROOT

    for node in NODES:
        schema = node.GET_SCHEMA()
        page = (ROOT / "web" / "docs" / f"{schema.node_id}.md").read_text()
        assert page.startswith(f"# {schema.display_name}\n")


def test_plots_call_passes_as_the_run_does(monkeypatch):
    titles = []
    monkeypatch.setattr(stability, "_panels", lambda measures, draw, title, height: titles.append(title))
    named = StabilityTrace([run_with(torch.randn(3), chunks=("positive", "middle", "negative"))])
    older = StabilityTrace([run_with(torch.randn(3))])
    for trace in (named, older):
        for passes in ("cond", "uncond", "both"):
            plot_of(trace, passes)
    parts = [title.split(" · ")[-2] for title in titles]
    assert parts == ["positive", "negative", "positive and middle and negative", "cond", "uncond", "cond and uncond"]
    curves = []
    monkeypatch.setattr(
        stability_layouts, "draw_curves", lambda runs, _: curves.append([legend for legend, *_ in runs])
    )
    for trace in (named, older):
        stability_layouts.draw_layout(trace, "curves", "both", "", None)
    assert curves == [["positive", "negative", "middle"], ["cond", "uncond"]]


def plot_of(trace, passes: str) -> None:
    stability_layouts.draw_layout(trace, "heat map", passes, "", None)


@pytest.mark.newest
@pytest.mark.parametrize("layout", ["heat map", "curves", "heads", "difference"])
def test_a_name_with_dollar_signs_is_drawn_as_it_is(layout):
    run = run_with(torch.tensor([0.1, 0.5, 0.9]), chunks=("$\\bad$", "uncond"))
    run.model = "$\\frac{$"
    assert is_coloured(plot(StabilityTrace([run, run]), layout=layout)[0]).any()


# --- what is normal


def normal(seeds: int = 6) -> StabilityBaseline:
    runs: list[Any] = [a_run(seed, steps=10) for seed in range(seeds)]
    return StabilityBaseline.from_runs(runs)


@pytest.mark.newest
def test_z_scores_are_drawn_and_the_summary_says_what_leaves_the_band():
    trace, baseline = StabilityTrace([a_run(40, steps=10, shift=3.0)]), normal()
    picture, summary, _ = plot(trace, layout="z-scores", baseline=baseline)
    assert picture.shape[2] == 1024
    assert is_coloured(picture).any()
    assert "energy leaves the normal band: " in summary.partition("\n\n")[0]
    assert summary.endswith(trace.summary())
    without, told, _ = plot(trace, layout="z-scores")
    assert without.equal(draw_message(NO_BASELINE))
    assert told == trace.summary()


@pytest.mark.newest
def test_curves_have_the_normal_band_where_a_baseline_says_it():
    trace, baseline = StabilityTrace([a_run(41, steps=10)]), normal()
    picture = plot(trace, layout="curves")[0]
    banded = plot(trace, layout="curves", baseline=baseline)[0]
    assert banded.shape == picture.shape
    assert not banded.equal(picture)


def test_a_baseline_of_one_image_has_no_band_and_the_curves_are_drawn():
    trace, few = StabilityTrace([a_run(42, steps=10)]), StabilityBaseline.from_runs([a_run(1, steps=5, samples=1)])
    assert not few.curve("energy", None)
    assert plot(trace, layout="curves", baseline=few)[0].shape[0] == 1


def test_a_baseline_of_another_model_is_refused_by_the_plot():
    other = StabilityBaseline.from_runs([a_run(0, model="Flux")])
    for layout in ("curves", "z-scores", "heat map"):
        with pytest.raises(ValueError, match=r"This baseline was made on Flux .* but the run was made on SD15"):
            plot(StabilityTrace([a_run(1)]), layout=layout, baseline=other)


@pytest.mark.newest
def test_gamma_by_image_has_a_panel_where_feedback_gave_it():
    run = a_run(2, steps=10)
    followed = StabilityRun(run.model, run.sites, run.measures)
    for step in run.steps:
        values = {address: step.of(address) for address in run.addresses}
        gammas = [1.2 + 0.1 * sample.number for sample in step.samples]
        followed.record(step.sigma, step.progress, step.samples, values, gammas=gammas)
    trace = StabilityTrace([followed])
    for layout in ("curves", "heat map"):
        assert plot(trace, layout=layout)[0].shape[1] > plot(StabilityTrace([run]), layout=layout)[0].shape[1]
    (first, *_) = csv.DictReader(io.StringIO(plot(trace)[2]))
    assert float(first["gamma"]) == 1.2


def test_the_gamma_of_feedback_comes_back_from_a_file(tmp_path):
    run = a_run(3, steps=4)
    followed = StabilityRun(run.model, run.sites, run.measures, tokens=96)
    for step in run.steps:
        values = {address: step.of(address) for address in run.addresses}
        followed.record(step.sigma, step.progress, step.samples, values, gammas=[1.1, 1.2, 1.1, 1.2])
    StabilityTrace([run, followed]).save(tmp_path / "trace.safetensors")
    plain, again = StabilityTrace.load(tmp_path / "trace.safetensors").runs
    assert [step.gammas for step in again.steps] == [(1.1, 1.2, 1.1, 1.2)] * 4
    assert [step.gammas for step in plain.steps] == [()] * 4
    assert (plain.tokens, again.tokens) == (0, 96)
