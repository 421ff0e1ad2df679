"""The baseline against plain loops over all values, updates one by one against all at once, the file, the shift."""

from __future__ import annotations

import json
import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lab.testing.made_up_runs import MEASURES, SITES, a_run
from sad_core import StabilityBaseline, StabilityTrace
from sad_core.stability.baseline import ALL, PARTS, part_of
from sad_core.stability.baseline_file import HEADER, load_baseline, save_baseline
from sad_core.stability.run import StabilityRun
from sad_core.stability.shift import describe_shift, shifts
from sad_core.stability.value_counts import ValueCounts


def all_values(runs) -> dict[tuple, list[float]]:
    """Every mean over the heads by site, pass, tenth and measure, in plain loops."""
    found: dict[tuple, list[float]] = {}
    for run in runs:
        for step in run.steps:
            for address in run.addresses:
                for row, sample in enumerate(step.samples):
                    for column, measure in enumerate(run.measures):
                        value = float(step.of(address)[row, column].mean())
                        place = (address, sample.pass_name, part_of(step.progress), measure)
                        found.setdefault(place, []).append(value)
    return found


def in_table(baseline: StabilityBaseline, table: torch.Tensor, place: tuple) -> float:
    site, name, part, measure = place
    where = baseline.sites.index(site), baseline.passes.index(name), part, baseline.measures.index(measure)
    return float(table[where])


def test_mean_spread_and_quantiles_are_those_of_all_values():
    runs = [a_run(0), a_run(1, steps=30), a_run(2, samples=1)]
    baseline = StabilityBaseline.from_runs(runs)
    low, high = baseline.band
    values = all_values(runs)
    assert len(values) == 2 * 2 * PARTS * 2
    for place, each in values.items():
        assert in_table(baseline, baseline.count, place) == len(each)
        assert in_table(baseline, baseline.mean, place) == pytest.approx(statistics.fmean(each), abs=1e-9)
        assert in_table(baseline, baseline.deviation, place) == pytest.approx(statistics.stdev(each), rel=1e-9)
        for table, share in ((low, 0.05), (high, 0.95)):
            want = float(torch.tensor(each).quantile(share))
            assert in_table(baseline, table, place) == pytest.approx(want, rel=2e-3, abs=1e-3)
    assert (baseline.runs, baseline.samples, baseline.steps) == (3, 5, (20, 30))


def test_the_mean_over_sites_and_passes_of_a_sample_has_statistics_too():
    run = a_run(3, steps=10)
    baseline = StabilityBaseline.from_runs([run])
    for number, step in enumerate(run.steps):
        want = [
            statistics.fmean(
                float(step.of(address)[2 * row + sample, 0].mean()) for address, _ in SITES for row in (0, 1)
            )
            for sample in (0, 1)
        ]
        assert in_table(baseline, baseline.mean, (ALL, ALL, number, "energy")) == pytest.approx(statistics.fmean(want))
        assert in_table(baseline, baseline.count, (ALL, ALL, number, "energy")) == 2
    course = baseline.curve("energy", None)
    assert [point[0] for point in course] == pytest.approx([(part + 0.5) / 10 for part in range(10)])
    assert all(low <= mean <= high for _, low, mean, high in course)


MANY = [
    a_run(10),
    a_run(11, steps=7),
    a_run(12, samples=3),
    a_run(13, passes=("positive",)),
    a_run(14, sites=SITES[1:]),
]


@given(order=st.permutations(range(len(MANY))), cut=st.integers(1, len(MANY) - 1))
@settings(max_examples=25)
def test_adding_one_by_one_in_any_order_is_adding_all_at_once(order, cut):
    whole = StabilityBaseline.from_runs(MANY)
    shuffled = [MANY[index] for index in order]
    one_by_one = StabilityBaseline.from_runs(shuffled[:1])
    for run in shuffled[1:cut]:
        one_by_one = one_by_one.with_runs([run])
    got = one_by_one.merged(StabilityBaseline.from_runs(shuffled[cut:]))
    same = ("model", "measures", "sites", "passes", "runs", "samples", "steps", "tokens")
    assert all(getattr(got, name) == getattr(whole, name) for name in same)
    assert got.count.equal(whole.count)
    assert got.seen.codes.equal(whole.seen.codes)
    assert got.seen.counts.equal(whole.seen.counts)
    torch.testing.assert_close(got.mean, whole.mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(got.squares, whole.squares, rtol=1e-11, atol=1e-11)


@given(st.lists(st.floats(-(2.0**90), 2.0**90, width=32), min_size=1, max_size=20))
def test_counted_values_come_back_to_four_digits_in_order(values):
    counts = ValueCounts.of(torch.zeros(len(values), dtype=torch.int64), torch.tensor(values))
    assert int(counts.counts.sum()) == len(values)
    for share in (0.0, 0.3, 1.0):
        want = float(torch.tensor(values, dtype=torch.float64).quantile(share))
        scale = max(map(abs, values))
        assert float(counts.quantile(share, 1)) == pytest.approx(want, rel=2e-4, abs=2e-4 * scale + 1e-38)


def test_a_baseline_can_have_fewer_measures_than_a_run_that_is_added():
    both = StabilityBaseline.from_runs([a_run(0)])
    few = StabilityRun("SD15", ("input.1.0", "middle.0.0"), MEASURES[1:])
    for step in a_run(1).steps:
        values = {address: step.of(address)[:, 1:] for address, _ in SITES}
        few.record(step.sigma, step.progress, step.samples, values)
    small = StabilityBaseline.from_runs([few])
    joined = small.with_runs([a_run(0)])
    want = StabilityBaseline.from_runs([a_run(1), a_run(0)])
    torch.testing.assert_close(joined.mean[..., 0], want.mean[..., 1], rtol=1e-12, atol=1e-12)
    for got, wanted in zip(joined.band, want.band, strict=True):
        torch.testing.assert_close(got[..., 0], wanted[..., 1], rtol=0, atol=0, equal_nan=True)
    with pytest.raises(ValueError, match="but the other baseline was made on SD15 with alignment"):
        both.merged(small)


def test_a_file_brings_everything_back(tmp_path):
    baseline = StabilityBaseline.from_runs([a_run(0, tokens=64), a_run(1, steps=9, tokens=256)])
    path = tmp_path / "baseline.safetensors"
    save_baseline(baseline, path)
    again = load_baseline(path)
    names = ("model", "patterns", "measures", "sites", "passes", "runs", "samples", "tokens", "steps")
    assert all(getattr(again, name) == getattr(baseline, name) for name in names)
    assert all(getattr(again, name).equal(getattr(baseline, name)) for name in ("count", "mean", "squares"))
    assert again.seen.codes.equal(baseline.seen.codes)
    assert again.summary() == baseline.summary()
    assert "2 runs at 2 sites, with 9 … 20 steps, 64 … 256 tokens" in again.summary()


def rewritten(path, change) -> None:
    """Change the header and the tensors of a file."""
    with safe_open(str(path), "pt") as file:
        header = json.loads(file.metadata()[HEADER])
    tensors = load_file(path)
    change(header, tensors)
    save_file(tensors, str(path), metadata={HEADER: json.dumps(header)})


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda header, _: header.update(version=2), "has format 2, but this version reads 1"),
        (lambda header, _: header.pop("sites"), "is damaged"),
        (lambda header, _: header.update(measures=["calm", "energy"]), "is damaged"),
        (lambda header, _: header.update(sites=["a", "b", "c"]), "is damaged"),
        (lambda header, _: header.update(passes=[]), "is damaged"),
        (lambda header, _: header.update(samples="many"), "is damaged"),
        (lambda _, tensors: tensors.pop("mean"), "is damaged"),
        (lambda _, tensors: tensors.update(count=tensors["count"].int()), "is damaged"),
        (lambda _, tensors: tensors.update(codes=tensors["codes"].flip(0).clone()), "is damaged"),
        (lambda _, tensors: tensors.update(counts=tensors["counts"] + 1), "is damaged"),
        (lambda _, tensors: tensors.update(codes=tensors["codes"] + 2**50), "is damaged"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path, change, sentence):
    path = tmp_path / "baseline.safetensors"
    save_baseline(StabilityBaseline.from_runs([a_run(0)]), path)
    rewritten(path, change)
    with pytest.raises(ValueError, match=sentence):
        load_baseline(path)


def test_a_file_that_is_no_baseline_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"There is no file a.safetensors. Choose a saved stability baseline"):
        load_baseline(tmp_path / "a.safetensors")
    trace, text = tmp_path / "trace.safetensors", tmp_path / "text.safetensors"
    StabilityTrace([a_run(0)]).save(trace)
    text.write_text("no tensors")
    for path in (trace, text):
        with pytest.raises(ValueError, match="is not a stability baseline of this pack"):
            load_baseline(path)


# --- the shift


def test_the_share_outside_is_counted_as_in_plain_loops():
    baseline = StabilityBaseline.from_runs([a_run(seed) for seed in range(6)])
    run = a_run(50, shift=0.4)
    values, band = all_values([run]), baseline.band
    for found in shifts(baseline, run):
        inside = outside = 0
        for place, each in values.items():
            if place[3] == found.measure:
                low, high = (in_table(baseline, table, place) for table in band)
                out = sum(not low - 1e-3 * abs(low) <= value <= high + 1e-3 * abs(high) for value in each)
                inside, outside = inside + len(each) - out, outside + out
        assert found.share == pytest.approx(outside / (inside + outside), abs=0.02)
        assert found.looks == 2 * PARTS


def test_a_shifted_run_is_named_with_its_site_and_its_part():
    baseline = StabilityBaseline.from_runs([a_run(seed, samples=8) for seed in range(5)])
    run = a_run(60, samples=8)
    moved = StabilityRun(run.model, run.sites, run.measures)
    for step in run.steps:
        late = 6.0 if 0.4 <= step.progress < 0.5 else 1.0
        values = {address: step.of(address).clone() for address, _ in SITES}
        values["middle.0.0"][:, 1] += late
        moved.record(step.sigma, step.progress, step.samples, values)
    text = describe_shift(baseline, moved)
    assert text.startswith("alignment leaves the normal band: ")
    assert "The furthest are at middle.0.0 from 40% to 50% of the run" in text
    assert "standard deviations above the mean.\nInside the normal band: energy (" in text
    assert describe_shift(baseline, run).startswith("Inside the normal band: energy (")


def test_normal_runs_leave_the_band_as_often_as_chance_says():
    baseline = StabilityBaseline.from_runs([a_run(seed, samples=1) for seed in range(10)])
    found = [shift for seed in range(100, 130) for shift in shifts(baseline, a_run(seed, samples=1))]
    assert statistics.fmean(shift.share for shift in found) < found[0].chance
    assert not any(shift.is_shifted for shift in found)


def test_a_run_of_another_size_or_with_other_sites_is_told_apart():
    baseline = StabilityBaseline.from_runs([a_run(seed, tokens=64) for seed in range(3)])
    assert "has 256 tokens at its largest site, and the baseline has no run of this size" in describe_shift(
        baseline, a_run(9, tokens=256)
    )
    assert "has no run" not in describe_shift(baseline, a_run(9, tokens=64))
    with pytest.raises(
        ValueError, match=r"has none of the sites of the run \(output.3.0\), only input.1.0, middle.0.0"
    ):
        describe_shift(baseline, a_run(9, sites=(("output.3.0", 2),)))
    assert "no value for the sites" in describe_shift(baseline, a_run(9, passes=("middle",)))
    assert baseline.z_scores(a_run(9, passes=("middle",))).matrix("energy").isnan().all()
