"""Traces: what is recorded comes back, cond and uncond apart, in little memory, from a file and in a table."""

from __future__ import annotations

import copy
import csv
import gc
import io
import json
import math
import re
import runpy
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sad_core import StabilityBaseline, StabilityTrace, difference
from sad_core.stability import trace as trace_file
from sad_core.stability.measures import TRACE_MEASURES
from sad_core.stability.run import LARGEST_RUN, StabilityRun
from sad_core.stability.step import Sample
from sad_core.stability.tables import to_csv, to_json
from sad_core.stability.trace import KEPT_RUNS, LARGEST_TRACE

SITES = (("input.1.0", 2), ("middle.0.0", 3))
MEASURES = ("energy", "alignment")
BOTH = (Sample("uncond", 0), Sample("cond", 0))


def numbers(samples: int, seed: int, sites=SITES, measures: int = len(MEASURES)) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {address: torch.randn(samples, measures, heads, generator=generator) for address, heads in sites}


def filled(steps: int = 4, seed: int = 0, model: str = "SD15", shift: float = 0.0) -> StabilityRun:
    run = StabilityRun(model, tuple(address for address, _ in SITES), MEASURES)
    for step in range(steps):
        values = {address: each + shift for address, each in numbers(2, seed + step).items()}
        run.record(10.0 - step, step / steps, BOTH, values)
    run.status = "finished"
    return run


def test_every_number_comes_back_where_it_was_put():
    run = filled()
    assert run.addresses == ("input.1.0", "middle.0.0")
    assert run.passes == ("uncond", "cond")
    for index, step in enumerate(run.steps):
        want = numbers(2, index)
        assert (step.sigma, step.progress, step.samples) == (10.0 - index, index / 4, BOTH)
        for address, _ in SITES:
            assert torch.equal(step.of(address), want[address])
            for place, measure in enumerate(MEASURES):
                for row, chunk in enumerate(("uncond", "cond")):
                    mean = run.matrix(measure, chunk)[run.addresses.index(address), index]
                    torch.testing.assert_close(mean, want[address][row, place].mean())
                    heads = run.heads(address, measure, chunk)[:, index]
                    torch.testing.assert_close(heads, want[address][row, place])
        assert step.of("output.0.0") is None
    assert run.last_step is run.steps[-1]


def test_cond_and_uncond_of_separate_calls_are_one_step():
    together, apart = filled(), StabilityRun("SD15", ("input.1.0", "middle.0.0"), MEASURES)
    for step in range(4):
        values = numbers(2, step)
        for row, sample in enumerate(BOTH):
            part = {address: each[row : row + 1] for address, each in values.items()}
            apart.record(10.0 - step, step / 4, (sample,), part)
    assert len(apart.steps) == 4
    for one, other in zip(together.steps, apart.steps, strict=True):
        assert one.samples == other.samples
        assert torch.equal(one.values, other.values)
    assert apart.nbytes == together.nbytes


def test_a_second_look_at_the_same_noise_level_is_another_step():
    run = StabilityRun("SD15", ("input.1.0",), MEASURES)
    for seed in range(3):
        run.record(5.0, 0.5, BOTH, numbers(2, seed, SITES[:1]))
    assert [step.sigma for step in run.steps] == [5.0] * 3


def test_a_site_that_one_pass_did_not_reach_is_undefined_there():
    run = StabilityRun("SD15", ("input.1.0", "middle.0.0"), MEASURES)
    run.record(5.0, 0.5, BOTH[:1], numbers(1, 0))
    run.record(5.0, 0.5, BOTH[1:], numbers(1, 1, SITES[1:]))
    assert len(run.steps) == 1
    assert run.matrix("energy", "cond")[0].isnan().all()
    torch.testing.assert_close(run.matrix("energy")[0, 0], numbers(1, 0)["input.1.0"][0, 0].mean())
    torch.testing.assert_close(run.matrix("energy", "cond")[1, 0], numbers(1, 1, SITES[1:])["middle.0.0"][0, 0].mean())
    assert len(list(run.table())) == 3


def test_a_long_run_on_a_large_model_stays_under_32_megabytes():
    trace = StabilityTrace()
    sites = tuple((f"input.{number}.0", 20) for number in range(70))
    names = tuple(address for address, _ in sites)
    values = numbers(2, 0, sites, len(TRACE_MEASURES))
    for _ in range(2):
        run = trace.begin(StabilityRun("SDXL", names, TRACE_MEASURES))
        for step in range(200):
            run.record(200.0 - step, step / 200, BOTH, values)
        assert (len(run.steps), run.stride) == (200, 1)
    gc.collect()
    storages = {step.values.untyped_storage().data_ptr(): step.values for run in trace.runs for step in run.steps}
    assert sum(each.untyped_storage().nbytes() for each in storages.values()) == trace.nbytes < 32 * 2**20
    assert len({id(step.columns) for step in run.steps}) == 1
    for step in range(2000):
        run.record(float(-step), 1.0, BOTH, values)
    assert trace.nbytes <= LARGEST_TRACE < 32 * 2**20
    assert run.nbytes <= LARGEST_RUN
    assert run.stride > 1
    assert run.step_count == 2200
    assert run.last_step.sigma == -1999
    kept = [step.sigma for step in run.steps]
    assert kept == [200.0 - place for place in range(0, 2200, run.stride)]
    assert f"one of every {run.stride} kept" in run.summary()


def test_only_the_last_runs_are_kept():
    trace = StabilityTrace()
    runs = [trace.begin(filled()) for _ in range(KEPT_RUNS + 3)]
    assert all(one is other for one, other in zip(trace.runs, runs[3:], strict=True))
    trace.record(1.0, 0.9, BOTH, numbers(2, 9))
    assert trace.last_step.sigma == 1.0
    assert runs[-1].last_step is trace.last_step


def test_a_copy_of_a_trace_keeps_what_was_measured_until_then():
    trace = StabilityTrace([filled()])
    copied = copy.deepcopy(trace)
    values = numbers(2, 9)
    trace.record(1.0, 1.0, BOTH, values)
    trace.begin(filled())
    assert len(copied.runs) == 1
    assert [step.sigma for step in copied.runs[0].steps] == [10.0, 9.0, 8.0, 7.0]
    for one, other in zip(copied.runs[0].steps, trace.runs[0].steps, strict=False):
        assert torch.equal(one.values, other.values)
    copied.record(1.0, 1.0, BOTH, values)
    assert torch.equal(copied.runs[0].last_step.values, trace.runs[0].last_step.values)
    assert copied.runs[0] is not trace.runs[0]


def test_a_trace_without_runs_says_so():
    trace = StabilityTrace()
    assert trace.is_empty
    assert "No sampling run has gone through this probe yet" in trace.summary()
    assert trace.to_table() == []
    assert trace.last_step is None
    with pytest.raises(ValueError, match="no run to record in"):
        trace.record(1.0, 0.0, BOTH, numbers(2, 0))
    with pytest.raises(ValueError, match="trace is empty, so there is nothing to save"):
        trace.save("nowhere.safetensors")
    run = trace.begin(StabilityRun("SD15", ("a",)))
    run.note("It was compiled.")
    run.note("It was compiled.")
    assert trace.is_empty
    assert trace.summary() == "SD15, running: nothing was measured.\nIt was compiled."


def test_it_can_be_read_while_it_grows():
    run = StabilityRun("SD15", ("input.1.0", "middle.0.0"), MEASURES)
    wrong = []
    done = threading.Event()

    def read():
        while not done.is_set():
            step = run.last_step
            if step is not None and step.values.shape != (len(step.samples), 2, 5):
                wrong.append(step)
            wrong.extend(step for step in run.steps if len(step.samples) not in (1, 2))

    reader = threading.Thread(target=read)
    reader.start()
    for step in range(300):
        for row in range(2):
            run.record(float(step), 0.0, BOTH[row : row + 1], numbers(1, step))
    done.set()
    reader.join()
    assert not wrong
    assert len(run.steps) == 300


def test_the_summary_names_the_extremes_and_what_was_missed():
    run = StabilityRun("SD15", ("input.1.0", "middle.0.0", "output.0.0"), ("alignment",))
    for step, (low, high) in enumerate([(0.1, 0.5), (0.3, 0.9)]):
        values = {"input.1.0": torch.full((1, 1, 2), high), "middle.0.0": torch.full((1, 1, 2), low)}
        run.record(2.0 - step, step / 2, BOTH[1:], values)
    text = run.summary()
    assert "2 of 3 sites × 2 steps, cond; sigma 2 … 1; value patterns." in text
    assert "alignment: mean 0.45; from 0.3 to 0.6 over the run; lowest at middle.0.0 (0.2), highest at input.1" in text
    assert "Not measured: output.0.0." in text


# --- files and tables


def test_a_saved_trace_comes_back_bit_by_bit(tmp_path):
    trace = StabilityTrace([filled(), filled(3, seed=50, model="Flux")])
    trace.runs[1].note("compiled")
    trace.save(tmp_path / "trace.safetensors")
    again = StabilityTrace.load(tmp_path / "trace.safetensors")
    assert again.summary() == trace.summary()
    for one, other in zip(trace.runs, again.runs, strict=True):
        for name in ("model", "sites", "measures", "patterns", "kind", "status", "stride", "notes", "nbytes"):
            assert getattr(one, name) == getattr(other, name), name
        for before, after in zip(one.steps, other.steps, strict=True):
            assert (before.sigma, before.progress) == (after.sigma, after.progress)
            assert (before.samples, before.columns) == (after.samples, after.columns)
            assert torch.equal(before.values, after.values)
    assert b"pickle" not in (tmp_path / "trace.safetensors").read_bytes()


def saved(path, change=lambda header: None, tensors=None) -> None:
    """A trace file with its header or its tensors changed."""
    StabilityTrace([filled()]).save(path)
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        header = json.loads(file.metadata()["stability_trace"])
        kept = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(header)
    save_file(tensors or kept, path, metadata={"stability_trace": json.dumps(header)})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda header: header.update(version=2), "has format 2, but this version reads 1. Update"),
        (lambda header: header.pop("version"), "is damaged"),
        (lambda header: header["runs"][0].pop("model"), "is damaged"),
        (lambda header: header["runs"][0].update(measures=["energy"]), "is damaged"),
        (lambda header: header["runs"][0].update(measures=["energy", "mood"]), "is damaged"),
        (lambda header: header["runs"][0].update(layouts=[[["input.1.0", 4]]]), "is damaged"),
        (lambda header: header["runs"][0].update(layouts=[]), "is damaged"),
        (lambda header: header["runs"][0]["steps"].append([0, 0, [], 0, []]), "is damaged"),
        (lambda header: header["runs"][0].update(steps="abc"), "is damaged"),
        (lambda header: header["runs"][0]["steps"][0][4].append("input.1.0"), "is damaged"),
        (lambda header: header.update(runs=7), "is damaged"),
    ],
)
def test_a_file_whose_header_does_not_fit_is_refused(tmp_path, change, words):
    path = tmp_path / "trace.safetensors"
    saved(path, change)
    with pytest.raises(ValueError, match=r"trace\.safetensors") as refusal:
        StabilityTrace.load(path)
    assert words in str(refusal.value)


def test_files_that_are_no_trace_are_refused_in_a_sentence(tmp_path, monkeypatch):
    path = tmp_path / "other.safetensors"
    with pytest.raises(ValueError, match=r"There is no file other\.safetensors"):
        StabilityTrace.load(path)
    save_file({"weight": torch.ones(3)}, path)
    with pytest.raises(ValueError, match="not a stability trace"):
        StabilityTrace.load(path)
    for content in (b"", b"\x80\x04pickle", b"\xff" * 64, (2**40).to_bytes(8, "little") + b"{}"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="not a stability trace"):
            StabilityTrace.load(path)
    saved(path, tensors={"0.0": torch.ones(2, 2, 5, dtype=torch.float16)})
    with pytest.raises(ValueError, match="is damaged"):
        StabilityTrace.load(path)
    monkeypatch.setattr(trace_file, "LARGEST_FILE", 2**10)
    StabilityTrace([filled(20)]).save(path)
    with pytest.raises(ValueError, match="but a stability trace may be at most"):
        StabilityTrace.load(path)


def test_the_table_has_a_row_for_every_step_sample_and_site():
    trace = StabilityTrace([filled(2), filled(1, seed=7)])
    rows = list(csv.DictReader(io.StringIO(to_csv(trace))))
    assert len(rows) == (2 + 1) * 2 * 2
    assert " ".join(rows[0]) == "run model step sigma progress pass sample site energy alignment"
    for row in rows:
        seed = int(row["step"]) + (7 if row["run"] == "1" else 0)
        values = numbers(2, seed)[row["site"]][["uncond", "cond"].index(row["pass"])]
        for place, measure in enumerate(MEASURES):
            assert float(row[measure]) == pytest.approx(float(values[place].mean()), rel=1e-5)
    content = json.loads(to_json(trace))
    assert content["summary"] == trace.summary()
    assert len(content["table"]) == len(rows)
    assert content["table"][0]["energy"] == pytest.approx(float(rows[0]["energy"]), rel=1e-5)


def test_undefined_numbers_are_empty_in_the_table_and_null_in_json():
    run = StabilityRun("SD15", ("input.1.0",), MEASURES)
    values = numbers(2, 0, SITES[:1])
    values["input.1.0"][0, 1] = float("nan")
    run.record(1.0, 0.5, BOTH, values)
    trace = StabilityTrace([run])
    assert next(csv.DictReader(io.StringIO(to_csv(trace))))["alignment"] == ""
    assert json.loads(to_json(trace))["table"][0]["alignment"] is None


# --- two runs, and what is usual


def test_the_difference_of_two_runs_is_taken_number_by_number():
    one, other = filled(4), filled(4, seed=100)
    found = difference(one, other)
    assert found.kind == "difference"
    for mine, theirs, got in zip(one.steps, other.steps, found.steps, strict=True):
        assert torch.equal(got.values, mine.values - theirs.values)
    assert not any(step.values.any() for step in difference(one, one).steps)


def test_runs_of_different_lengths_are_compared_where_they_are_as_far():
    one, other = filled(4), filled(8, seed=100)
    found = difference(one, other)
    for place, step in enumerate(found.steps):
        assert torch.equal(step.values, one.steps[place].values - other.steps[2 * place].values)


def test_a_difference_keeps_what_both_have():
    one = filled(2)
    other = StabilityRun("SD15", ("middle.0.0", "output.0.0"), ("alignment", "instability"))
    values = numbers(1, 3, (("middle.0.0", 3), ("output.0.0", 2)))
    other.record(10.0, 0.0, (Sample("cond", 0),), values)
    found = difference(one, other)
    assert (found.measures, found.addresses, found.passes) == (("alignment",), ("middle.0.0",), ("cond",))
    want = one.steps[0].of("middle.0.0")[1, 1] - values["middle.0.0"][0, 0]
    assert torch.equal(found.steps[0].values[0, 0], want)
    for bad in (StabilityRun("SD15", ()), StabilityRun("SD15", ("input.1.0",), ("depth",))):
        with pytest.raises(ValueError, match="cannot be compared"):
            difference(one, bad)
    other = StabilityRun("SD15", ("middle.0.0",), MEASURES)
    other.record(1.0, 0.0, (Sample("cond", 5),), numbers(1, 3, SITES[1:]))
    with pytest.raises(ValueError, match="no sample in common"):
        difference(one, other)


def test_z_scores_count_standard_deviations_from_the_usual():
    runs = [filled(4, seed=10 * index, shift=index) for index in range(5)]
    baseline = StabilityBaseline.from_runs(runs)
    scored = baseline.z_scores(runs[3])
    assert scored.kind == "z-scores"
    for place, step in enumerate(scored.steps):
        for address, _ in SITES:
            for row in range(2):
                for measure in range(2):
                    usual = [float(run.steps[place].of(address)[row, measure].double().mean()) for run in runs]
                    mean = sum(usual) / 5
                    deviation = math.sqrt(sum((each - mean) ** 2 for each in usual) / 4)
                    got = float(step.of(address)[row, measure, 0])
                    assert got == pytest.approx((usual[3] - mean) / deviation, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("change", [{"patterns": "input"}, {"model": "Flux"}, {"kind": "difference"}])
def test_runs_whose_numbers_do_not_compare_are_not_compared(change):
    with pytest.raises(ValueError, match="cannot be compared with"):
        difference(filled(), replace(filled(seed=3), **change))


def test_a_baseline_says_what_it_is_not_for():
    baseline = StabilityBaseline.from_runs([filled(), filled(seed=9)])
    for other in (filled(model="Flux"), replace(filled(), patterns="input")):
        with pytest.raises(
            ValueError, match=r"This baseline was made on SD15 with energy, alignment and value patterns, but"
        ):
            baseline.z_scores(other)
    for runs in ([], [filled(), filled(model="Flux")], [StabilityRun("SD15", ("a",))]):
        with pytest.raises(ValueError, match="A baseline needs measured runs of one model"):
            StabilityBaseline.from_runs(runs)
    alone = StabilityBaseline.from_runs([filled()]).z_scores(filled())
    assert all(step.values.isnan().all() for step in alone.steps)


def test_the_example_of_the_tour_runs(tmp_path, monkeypatch, capsys):
    for number in (1, 2, 3):
        StabilityTrace([filled(seed=10 * number)]).save(tmp_path / f"trace_0000{number}_.safetensors")
    monkeypatch.chdir(tmp_path)
    tour = Path(__file__).resolve().parents[2] / "docs" / "tour.md"
    (example,) = re.findall(r"```python\n(.+?)```", tour.read_text(encoding="utf-8"), re.DOTALL)
    Path("example.py").write_text(example, encoding="utf-8")
    runpy.run_path("example.py")
    assert capsys.readouterr().out.startswith("SD15, finished, z-scores: 2 of 2 sites × 4 steps")


def test_merging_keeps_the_runs_of_both():
    one, other = StabilityTrace([filled()]), StabilityTrace([filled(seed=3), filled(seed=4)])
    merged = one.merged(other)
    assert [id(run) for run in merged.runs] == [id(run) for run in (*one.runs, *other.runs)]
    assert merged.summary().startswith("Run 3 of 3. SD15")


# --- maps over the picture


def test_maps_are_kept_joined_and_saved(tmp_path):
    run = StabilityRun("SD15", ("input.1.0", "middle.0.0"), MEASURES)
    maps = torch.rand(2, 3, 4)
    for row in range(2):
        part = {"middle.0.0": maps[row : row + 1]}
        run.record(1.0, 0.5, BOTH[row : row + 1], numbers(1, row), part)
    (step,) = run.steps
    assert torch.equal(step.maps["middle.0.0"], maps.half())
    assert run.nbytes == step.values.numel() * 4 + 2 * 3 * 4 * 2
    StabilityTrace([run]).save(tmp_path / "trace.safetensors")
    (again,) = StabilityTrace.load(tmp_path / "trace.safetensors").runs[0].steps
    assert torch.equal(again.maps["middle.0.0"], maps.half())
    run.record(0.5, 0.6, BOTH[:1], numbers(1, 5), {"middle.0.0": maps[:1]})
    run.record(0.5, 0.6, BOTH[1:], numbers(1, 6), {})
    assert run.steps[-1].maps == {}


def test_a_file_with_a_map_of_another_shape_is_refused(tmp_path):
    path = tmp_path / "trace.safetensors"
    saved(path)
    tensors = {f"0.{place}": step.values for place, step in enumerate(filled().steps)}
    for wrong in (torch.ones(2, 3), torch.ones(1, 3, 4).half(), torch.ones(2, 3, 4)):
        add = tensors | {"0.0.input.1.0": wrong}
        saved(path, lambda header: header["runs"][0]["steps"][0][4].append("input.1.0"), add)
        with pytest.raises(ValueError, match="is damaged"):
            StabilityTrace.load(path)


def test_the_mean_of_a_part_leaves_out_other_sites_and_what_is_missing():
    sites = (("input.1.0", 2), ("input.1.0#2", 2), ("middle.0.0", 3))
    values = numbers(2, 0, sites)
    values["input.1.0"][0] = math.nan
    run = StabilityRun("SD15", tuple(address for address, _ in sites), MEASURES)
    run.record(1.0, 0.5, BOTH, values)
    heads = {address: each.double().mean(dim=-1) for address, each in values.items()}
    there = [heads["input.1.0"][1], *heads["input.1.0#2"]]
    means = run.steps[0].part_means()
    assert list(means) == ["all", "input", "middle"]
    torch.testing.assert_close(means["input"].double(), torch.stack(there).mean(dim=0), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(means["middle"].double(), heads["middle.0.0"].mean(dim=0), rtol=1e-5, atol=1e-6)
    everything = torch.stack([*there, *heads["middle.0.0"]]).mean(dim=0)
    torch.testing.assert_close(means["all"].double(), everything, rtol=1e-5, atol=1e-6)


def test_gamma_is_kept_in_files_named_in_differences_and_may_be_missing(tmp_path):
    one, other = filled(), filled(seed=9)
    one.gamma, other.gamma = "γ 1.5", "γ 1"
    assert difference(one, other).gamma == "γ 1.5 minus γ 1"
    assert "value patterns; γ 1.5." in one.summary()
    path = tmp_path / "trace.safetensors"
    StabilityTrace([one, other]).save(path)
    assert [run.gamma for run in StabilityTrace.load(path).runs] == ["γ 1.5", "γ 1"]
    saved(path, lambda header: header["runs"][0].pop("gamma"))  # a file of before
    assert StabilityTrace.load(path).runs[0].gamma == ""


def test_older_traces_keep_their_names_and_compare_with_new_ones():
    older, today = filled(), StabilityRun("SD15", ("input.1.0", "middle.0.0"), MEASURES)
    for step in older.steps:
        samples = [{"cond": Sample("positive", 0), "uncond": Sample("negative", 0)}[each[0]] for each in step.samples]
        values = {address: 2 * step.of(address) for address, _ in SITES}
        today.record(step.sigma, step.progress, samples, values)
    assert (older.passes, today.passes) == (("uncond", "cond"), ("negative", "positive"))
    for earlier, name in (("cond", "positive"), ("uncond", "negative")):
        for run in (older, today):
            assert torch.equal(run.matrix("energy", earlier), run.matrix("energy", name))
        less = difference(today, older)
        torch.testing.assert_close(less.matrix("energy", name), older.matrix("energy", earlier))
        assert less.passes == today.passes
    scored = StabilityBaseline.from_runs([older, filled(seed=9)]).z_scores(today)
    assert scored.matrix("energy").isfinite().any()


def test_a_further_prompt_of_a_name_is_part_of_it_and_another_name_is_not():
    run = StabilityRun("SD15", ("input.1.0", "middle.0.0"), MEASURES)
    names = ("positive", "positive 2", "positive prompt", "middle")
    run.record(1.0, 0.5, [Sample(name, 0) for name in names], numbers(4, 0))
    (step,) = run.steps
    rows = {name: step.rows(name) for name in ("positive", "cond", "positive 2", "cond 2", "middle", "uncond")}
    assert rows == {"positive": [0, 1], "cond": [0, 1], "positive 2": [1], "cond 2": [1], "middle": [3], "uncond": []}
