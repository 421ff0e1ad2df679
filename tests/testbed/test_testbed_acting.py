"""The parts of the measurement of acting, against the pack's own statements and slow ones."""

from __future__ import annotations

import pytest
import torch

from lab.testbed.acting import correlations as relating
from lab.testbed.acting.altered import alterations, in_int8, merged, with_lora
from lab.testbed.acting.best_of import gains, images_worth, of_whole_groups
from lab.testbed.acting.feedback_arms import gamma_of_drift
from lab.testbed.acting.feedback_numbers import worst_tenth
from lab.testbed.acting.kept import keep, load
from lab.testbed.acting.records import SITES, about_run, by_sample, run_of, scores_of
from lab.testbed.acting.seeds import PARTS, groups
from lab.testbed.model import classes_of
from lab.testing.made_up_runs import a_run
from sad_core.stability.baseline import StabilityBaseline
from sad_core.stability.score import StabilityScore
from sad_core.stability.shift import shifts

ONE_HEAD = (("input.1.0", 1), ("middle.0.0", 1))


def test_scores_of_all_samples_are_those_of_the_score():
    sites = (("input.1.0", 2), ("middle.0.0", 3), ("output.4.0", 2))
    run = a_run(1, steps=4, samples=3, sites=sites)
    found = scores_of(run, (2, 4))
    for place, group in enumerate(SITES.values()):
        for column, measure in enumerate(run.measures):
            expected = StabilityScore(measure, sites=group, sign=1, end=0.5).of_run(run)
            assert found[:, 0, place, column].tolist() == pytest.approx([expected[number] for number in range(3)])
    assert found.shape == (3, 2, len(SITES), len(run.measures))


def test_a_run_out_of_a_table_is_called_shifted_as_the_run_is():
    run, other = (a_run(seed, samples=6, sites=ONE_HEAD) for seed in (1, 2))
    about = about_run(run)
    baseline = StabilityBaseline.from_runs([run])
    again = StabilityBaseline.from_runs([run_of(by_sample(run), about)])
    assert torch.equal(again.mean, baseline.mean)
    found, expected = shifts(again, run_of(by_sample(other), about)), shifts(baseline, other)
    assert [(each.share, each.looks, each.site, each.part) for each in found] == [
        (each.share, each.looks, each.site, each.part) for each in expected
    ]
    assert [each.distance for each in found] == pytest.approx([each.distance for each in expected], abs=1e-5)


def test_some_samples_of_a_table_are_a_run_of_these():
    run = a_run(3, samples=6, sites=ONE_HEAD)
    part = run_of(by_sample(run)[:, :, 2:5], about_run(run))
    expected = StabilityScore("energy").of_run(run)
    assert StabilityScore("energy").of_run(part) == pytest.approx({place: expected[place + 2] for place in range(3)})


def test_groups_are_of_one_class_and_hold_every_seed_once():
    seeds = PARTS["candidates"].figure[:160]
    places = groups(160)
    classes = classes_of(seeds)[places]
    assert places.shape == (20, 8)
    assert sorted(places.flatten().tolist()) == list(range(160))
    assert torch.equal(classes, classes[:, :1].expand(-1, 8))


def test_no_seed_is_used_by_two_parts_or_for_a_choice_and_a_figure():
    used = [seed for part in PARTS.values() for seed in (*part.choice, *part.figure)]
    assert len(set(used)) == len(used)
    assert all(part.figure[0] % 10 == 0 == part.choice[0] % 10 for part in PARTS.values())


def test_a_gain_is_over_the_mean_of_the_group():
    scores = torch.tensor([[0.1, 0.9, 0.3], [0.5, 0.2, 0.1]])
    numbers = torch.tensor([[3.0, 6.0, 0.0], [1.0, 2.0, 3.0]])
    assert gains(scores, numbers).tolist() == [3.0, -1.0]


def test_what_best_of_eight_costs():
    assert images_worth(3, 2) == pytest.approx(3.8)
    assert images_worth(10, 1) == pytest.approx(8)


def test_the_gamma_of_a_drift_is_read_between_two_known_ones():
    known = [(0.9, 0.05), (1.2, 0.1), (1.4, 0.3)]
    assert gamma_of_drift(0.2, known) == 1.3
    assert gamma_of_drift(0.05, known) == 1.1
    assert gamma_of_drift(0.9, known) == 1.4
    assert gamma_of_drift(0.0, known) == 1.0


def test_the_worst_tenth_is_the_mean_of_the_lowest():
    found = worst_tenth(torch.arange(20.0), torch.zeros(20, dtype=torch.long))
    assert found.value == pytest.approx(0.5)


def test_alterations_change_the_network_and_nothing_else():
    generator = torch.Generator().manual_seed(1)
    names = ("unet.attn1.to_q.weight", "unet.conv.weight", "unet.norm.bias", "context")
    shapes = ((8, 8), (4, 4, 3, 3), (4,), (11, 4, 64))
    one, other = (
        {name: torch.randn(shape, generator=generator) for name, shape in zip(names, shapes, strict=True)}
        for _ in range(2)
    )
    for alter in alterations(other).values():
        altered = alter(one)
        assert torch.equal(altered["context"], one["context"])
        assert not torch.equal(altered["unet.attn1.to_q.weight"], one["unet.attn1.to_q.weight"])
    half = merged(one, other, 0.5)["unet.norm.bias"]
    assert torch.allclose(half, (one["unet.norm.bias"] + other["unet.norm.bias"]) / 2)
    lora = with_lora(one, other, rank=2)["unet.attn1.to_q.weight"] - one["unet.attn1.to_q.weight"]
    assert int(torch.linalg.matrix_rank(lora, atol=1e-4)) == 2
    whole = with_lora(one, other, rank=8)["unet.attn1.to_q.weight"]
    assert torch.allclose(whole, other["unet.attn1.to_q.weight"], atol=1e-5)
    rounded = in_int8(one)["unet.conv.weight"].flatten(1)
    scale = one["unet.conv.weight"].flatten(1).abs().amax(dim=1, keepdim=True) / 127
    assert torch.all((rounded / scale - (rounded / scale).round()).abs() < 1e-3)


def test_a_part_comes_back_from_its_file(tmp_path):
    tensors = {"pixels": torch.randint(256, (2, 1, 28, 28), dtype=torch.uint8), "scores": torch.rand(3)}
    keep(tmp_path / "part.npz", tensors, {"γ": [1.5]})
    found, about = load(tmp_path / "part.npz")
    assert about == {"γ": [1.5]}
    assert all(torch.equal(found[name], each) for name, each in tensors.items())


def test_what_is_kept_of_a_group_is_resampled_as_a_whole():
    numbers = torch.tensor([1.0, 2.0, 10.0, 20.0, 100.0, 200.0])  # of three groups of two
    of_groups = of_whole_groups(lambda rows: float(numbers[rows].sum()), 2)
    assert of_groups(torch.tensor([0, 2])) == 303.0
    assert of_groups(torch.tensor([1])) == 30.0


class Judged:
    """Stands in for the reference: the pixels of a sample hold its features, its density and its probability."""

    test = torch.zeros(1, 2, dtype=torch.float64)

    def features(self, pixels):
        return pixels.flatten(1)[:, :2].double()

    def probability(self, pixels, labels):
        return pixels.flatten(1)[:, 2].double()

    def density(self, features):
        return features[:, 0]


def test_stability_is_related_to_the_images_seed_by_seed(monkeypatch):
    """One of two scores is the density, class means aside; it is found on other seeds and judged on these."""
    monkeypatch.setattr("lab.evidence.bootstrap.RESAMPLES", 50)
    torch.manual_seed(0)
    parts = []
    for count in (80, 160):
        pixels = torch.rand(count, 1, 2, 2)
        scores = torch.randn(count, 2, len(SITES), 2)
        scores[:, 1, 0, 1] = -pixels[:, 0, 0, 0] + 9 * classes_of(range(count))
        parts.append(({"pixels": pixels, "scores": scores}, {"measures": ["alignment", "depth"], "after": [3, 10]}))
    found = relating.correlations(*parts, Judged())
    assert found["images"] == 160
    assert found["ranks"]["depth"]["density"][0] == pytest.approx(-1)
    assert abs(found["ranks"]["alignment"]["density"][0]) < 0.3
    chosen = found["chosen"]["density"]
    assert chosen["score"] == "depth, all sites, first 10 steps"
    assert (chosen["where it was chosen"], chosen["here"][0]) == pytest.approx((-1, -1))
    assert found["chosen"]["distance to the nearest test image"]["here"][0] < -0.3


def test_a_gate_keeps_what_reaches_the_threshold_of_its_class():
    scores, labels = torch.tensor([*range(16), *range(100, 116)]).double(), torch.arange(32) // 16
    limits = relating.thresholds(scores, labels)
    assert limits.tolist() == pytest.approx([13.125, 113.125])
    passed = scores >= limits[labels]
    numbers = torch.where(labels == 0, scores, 3 * scores)  # kept are 14 and 15 of 0 ... 15, the mean of which is 7.5
    assert relating.through_gate(passed, numbers, labels).value == pytest.approx((7 + 21) / 2)
