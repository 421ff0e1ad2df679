"""The gates and their measures, on toy data and against slower statements of the same."""

from __future__ import annotations

import numpy
import pytest
import torch
from torch_fidelity.metric_fid import fid_statistics_to_metric

from lab.demo.classifier import save_classifier
from lab.evidence.measures.features import imagenet
from lab.testbed import gates
from lab.testbed.data import divide, load_split
from lab.testbed.features import IMAGENET_PIXELS
from lab.testbed.frechet import frechet_distance
from lab.testbed.gates import IN_PHOTOGRAPHS, NOISE, Real, baselines, decide, gaussian_like, nearness
from lab.testbed.judges import DESIGNS, accuracy, augment, features_of, judge_file, load_judge, train_judge
from lab.testbed.kept_samples import kept_samples
from lab.testbed.model import build_model
from lab.testing.made_up_pictures import write_data


def cloud(count, width=5, shift=0.0):
    mix = torch.randn(width, width, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    return torch.randn(count, width, dtype=torch.float64) @ mix + shift


@pytest.fixture
def real(tmp_path):
    known = write_data(tmp_path)
    parts, test = divide(load_split(tmp_path, "training", known), held_out=20), load_split(tmp_path, "test", known)
    torch.manual_seed(0)
    guide = DESIGNS["guide"].build().eval().requires_grad_(False)
    features = (features_of(guide, part.images()) for part in (parts.training, test))
    return guide, Real(parts.training, parts.validation, test, *features)


def test_the_frechet_distance_is_that_of_torch_fidelity():
    samples, others = cloud(60, shift=0.3), 1.5 * cloud(80)
    statistics = [{"mu": each.mean(0).numpy(), "sigma": each.mT.cov().numpy()} for each in (samples, others)]
    want = fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    assert frechet_distance(samples, others)(torch.arange(60)) == pytest.approx(want, rel=1e-6)


def test_the_frechet_distance_of_known_gaussians():
    """On a line it is (m − n)² + (s − t)²; here 0 and 4, √2 and 3√2. The third sample is not among the rows."""
    samples = torch.tensor([[-1.0, 0], [1, 0], [50, 9]], dtype=torch.float64)
    real = torch.tensor([[1.0, 0], [7, 0]], dtype=torch.float64)
    distance = frechet_distance(samples, real)
    assert distance(torch.tensor([0, 1])) == pytest.approx(16 + 2 * (3 - 1) ** 2)
    assert frechet_distance(real, real)(torch.arange(2)) == pytest.approx(0, abs=1e-9)


def test_gaussian_draws_have_the_mean_and_covariance():
    features = cloud(500, shift=2.0)
    draws = gaussian_like(features, 20_000)
    torch.testing.assert_close(draws.mean(0), features.mean(0), rtol=0, atol=0.1)
    torch.testing.assert_close(draws.mT.cov(), features.mT.cov(), rtol=0.1, atol=0.15)


def test_copies_are_found_and_fresh_draws_are_not():
    training, test, fresh = torch.randn(400, 3), torch.randn(300, 3), torch.randn(300, 3)
    copied = nearness(training[:300], test, training)
    honest = nearness(fresh, test, training)
    assert copied["copy share"] == 1
    assert copied["samples"] == pytest.approx([0] * len(copied["samples"]), abs=1e-3)
    assert honest["copy share"] < 0.05
    assert honest["kolmogorov-smirnov"] < 0.15 < copied["kolmogorov-smirnov"]
    slow = sorted(min(float((one - other).norm()) for other in training) for one in test)
    assert honest["test"][3] == pytest.approx((slow[149] + slow[150]) / 2, rel=1e-4)


def test_kept_samples_are_drawn_once_and_go_on(tmp_path):
    asked = []

    def draw_some(seeds):
        asked.append(list(seeds))
        return torch.stack([torch.full((1, 28, 28), seed / 255) for seed in seeds])

    path = tmp_path / "samples.safetensors"
    kept_samples(path, range(120), draw_some)
    again = kept_samples(path, range(130), draw_some)
    assert [(some[0], some[-1]) for some in asked] == [(0, 99), (100, 119), (120, 129)]
    torch.testing.assert_close(again[:, 0, 0, 0] * 255, torch.arange(130.0))


def test_the_baselines_are_what_they_are_called(real):
    _, parts = real
    rows = baselines(parts, 40)
    training, noisy, memories = (rows[name][0] for name in rows if "training" in name)
    assert torch.equal(training, parts.training.images()[:40])
    assert (noisy - training).abs().mean() == pytest.approx(NOISE * (2 / torch.pi) ** 0.5, rel=0.2)
    assert torch.equal(rows["validation pictures"][0], parts.validation.images())
    assert len(memories.flatten(1).unique(dim=0)) == 40


def test_the_sheet_has_samples_left_and_test_pictures_right(real):
    _, parts = real
    labels = torch.arange(40) % 10
    pixels = numpy.asarray(gates.sheet(torch.ones(40, 1, 28, 28), labels, parts.test, per_class=2))
    cell = 3 * 28 + 4
    for label in range(10):
        row = pixels[4 + label * cell + 40, :, 0]
        assert row[4 + 40] == row[4 + cell + 40] == 255
        assert abs(row[4 + 3 * cell + 40].item() - 25 * label) < 26, "not the brightness of that class"


ROWS = {
    "samples": {"coverage": 0.8, "judge": 0.91, "frechet": 1.0},
    "training pictures": {"coverage": 0.96, "judge": 0.99, "frechet": 0.1},
    f"training pictures, noise {NOISE}": {"coverage": 0.5, "judge": 0.9, "frechet": 2.0},
}
NEAR = {"pixels": {"copy share": 0.01}, "features": {"copy share": 0.02}}


@pytest.mark.parametrize(
    ("spoiled", "failing"),
    [
        ({}, set()),
        ({"coverage": 0.5}, {"generalises"}),
        ({"copies": 0.2}, {"generalises"}),
        ({"ratio": 1.2}, {"attention matters"}),
        ({"judge": 0.85}, {"right class"}),
        ({"frechet": 3.0}, {"near enough"}),
    ],
)
def test_each_gate_fails_on_its_own(spoiled, failing):
    samples = {**ROWS["samples"], **{name: number for name, number in spoiled.items() if name in ROWS["samples"]}}
    near = {**NEAR, "features": {"copy share": spoiled.get("copies", 0.02)}}
    found = decide({**ROWS, "samples": samples}, near, (spoiled.get("ratio", 2.0), 4.0), 0.92)
    assert {gate.name for gate in found if not gate.passed} == failing
    assert len(found) == 4


def slow_kernel_distance(real):
    """Of the validation pictures from as many test pictures, seen by the network of photographs."""
    ours, theirs = (
        imagenet(part.images()[:40].expand(-1, 3, -1, -1), IMAGENET_PIXELS) for part in (real.validation, real.test)
    )
    ours, theirs = ours[: len(real.validation.labels)], theirs[: len(real.validation.labels)]
    kernel = [[((x @ y.mT / len(x[0]) + 1) ** 3) for y in (ours, theirs)] for x in (ours, theirs)]
    count = len(ours)
    within = sum((kernel[i][i].sum() - kernel[i][i].trace()) / (count * (count - 1)) for i in (0, 1))
    return within - 2 * kernel[0][1].mean()


def test_everything_runs_on_toy_data(real, tmp_path, monkeypatch):
    monkeypatch.setattr(gates, "GUIDANCES", (1.0, 2.0))
    monkeypatch.setattr("lab.evidence.bootstrap.RESAMPLES", 10)
    monkeypatch.setattr(gates, "draw", lambda model, seeds, guidance: torch.rand(len(seeds), 1, 28, 28) / guidance)
    guide, parts = real
    judge = DESIGNS["judge"].build().eval()
    result = gates.measure(build_model().eval(), guide, judge, parts, tmp_path, 40)
    assert set(result["guidance choice"]) == {"1.0", "2.0"}
    assert result["guidance choice"][str(result["guidance"])] == min(result["guidance choice"].values())
    assert result["rows"]["training pictures"]["frechet"] < result["rows"]["samples"]["frechet"]
    inner = result["rows"]["validation pictures"][IN_PHOTOGRAPHS]
    assert inner == pytest.approx(1000 * float(slow_kernel_distance(parts)), rel=1e-2)
    assert IN_PHOTOGRAPHS not in result["rows"]["Gaussian in feature space"], "it has no pictures"
    assert (tmp_path / "sheet.png").exists()
    text = gates.table(result)
    assert all(name in text for name in (*result["rows"], "right class", "FAIL"))


def test_a_judge_learns_and_its_file_gives_it_back(real, tmp_path):
    _, parts = real
    model = train_judge("judge", parts.training, epochs=30)
    images, labels = parts.training.images(), parts.training.labels
    assert accuracy(model, images, labels) > 0.3
    save_classifier(model, judge_file(tmp_path, "judge"))
    again = load_judge("judge", tmp_path)
    torch.testing.assert_close(features_of(again, images), features_of(model, images), rtol=0.02, atol=0.02)


def test_augmentation_mirrors_some_and_shifts_all():
    picture = torch.zeros(200, 1, 28, 28)
    picture[:, :, 14, 5] = 1
    moved = augment(picture)
    places = moved.flatten(1).argmax(dim=1)
    assert moved.sum() == 200
    assert len(places.unique()) == 2
    assert all(abs(int(place) // 28 - 14) <= 2 for place in places)
