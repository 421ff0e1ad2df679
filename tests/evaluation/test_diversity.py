"""Diversity of sets against slow plain statements in float64, and an interval that holds what it promises."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sad_core.evaluation.diversity import (
    Estimate,
    cosines,
    jackknife,
    mean_distance,
    rms_distances,
    student,
    vendi_score,
)

SETS = st.tuples(st.integers(2, 7), st.integers(1, 9), st.integers(0, 2**16))


def drawn(n: int, d: int, seed: int) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- plain statements


def plain_cosine(first: torch.Tensor, second: torch.Tensor) -> float:
    lengths = math.sqrt(sum(float(x) ** 2 for x in first)) * math.sqrt(sum(float(x) ** 2 for x in second))
    return sum(float(x) * float(y) for x, y in zip(first, second, strict=True)) / lengths


def plain_rms(first: torch.Tensor, second: torch.Tensor) -> float:
    return math.sqrt(sum((float(x) - float(y)) ** 2 for x, y in zip(first, second, strict=True)) / len(first))


def plain_mean_distance(distances: torch.Tensor) -> float:
    pairs = [float(distances[i, j]) for i, j in itertools.permutations(range(len(distances)), 2)]
    return sum(pairs) / len(pairs)


def plain_vendi(features: torch.Tensor) -> float:
    """The exponential of the von Neumann entropy of the density matrix Σ ffᵀ/n, in the space of the features."""
    unit = features / features.norm(dim=1, keepdim=True)
    density = sum(torch.outer(row, row) for row in unit) / len(unit)
    shares = [float(share) for share in torch.linalg.eigvals(density).real if share > 1e-12]
    return math.exp(-sum(share * math.log(share) for share in shares))


@settings(max_examples=60)
@given(SETS, st.integers(1, 5))
def test_distances_are_those_of_the_plain_statement(drawing, m):
    n, d, seed = drawing
    first, second = drawn(n, d, seed), drawn(m, d, seed + 1)
    for got, plain in ((cosines(first, second), plain_cosine), (rms_distances(first, second), plain_rms)):
        assert got.shape == (n, m)
        for i, j in itertools.product(range(n), range(m)):
            assert float(got[i, j]) == pytest.approx(plain(first[i], second[j]), abs=1e-10)


@settings(max_examples=60)
@given(SETS)
def test_vendi_and_mean_distance_are_those_of_the_plain_statement(drawing):
    features = drawn(*drawing)
    assert vendi_score(cosines(features, features)) == pytest.approx(plain_vendi(features), rel=1e-8)
    distances = rms_distances(features, features)
    assert mean_distance(distances) == pytest.approx(plain_mean_distance(distances), rel=1e-10)


@pytest.mark.parametrize("n", [2, 3, 8, 40])
def test_equal_pictures_count_as_one_and_unlike_ones_as_all_of_them(n):
    same, unlike = torch.ones(n, n), torch.eye(n)
    assert vendi_score(same) == pytest.approx(1.0)
    assert vendi_score(unlike) == pytest.approx(n)
    two_kinds = torch.block_diag(torch.ones(n, n), torch.ones(n, n))
    assert vendi_score(two_kinds) == pytest.approx(2.0)


def test_one_picture_has_no_diversity_to_measure():
    for n in (0, 1):
        assert math.isnan(vendi_score(torch.ones(n, n)))
        assert math.isnan(mean_distance(torch.zeros(n, n)))


def test_a_picture_without_a_direction_is_unlike_every_other():
    features = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    assert cosines(features, features)[0].tolist() == [0.0, 0.0, 0.0]
    assert vendi_score(cosines(features, features)) == pytest.approx(math.exp(math.log(3) - 2 / 3 * math.log(2)))


@settings(max_examples=40)
@given(SETS, st.floats(1e-3, 1e3))
def test_order_of_pictures_and_size_of_features_change_nothing(drawing, scale):
    features = drawn(*drawing)
    turned = scale * features.flip(0)
    assert vendi_score(cosines(turned, turned)) == pytest.approx(vendi_score(cosines(features, features)), rel=1e-8)
    distances = 1 - cosines(turned, turned)
    assert mean_distance(distances) == pytest.approx(mean_distance(1 - cosines(features, features)), abs=1e-10)


def test_features_in_half_precision_are_summed_in_full():
    features = 200 * drawn(4, 3000, 0)
    assert cosines(features.half(), features.half()).diagonal().tolist() == pytest.approx([1.0] * 4, abs=1e-12)


# --- the interval


@settings(max_examples=40)
@given(st.lists(st.floats(-10, 10), min_size=2, max_size=12))
def test_of_a_mean_it_is_the_interval_of_the_textbook(numbers):
    """The jackknife of a mean is the standard error s / √n."""
    values = torch.tensor(numbers, dtype=torch.float64)
    n = len(values)
    got = jackknife(lambda kept: float(values[kept].mean()), n)
    reach = student(n - 1) * float(values.std(correction=1)) / n**0.5
    assert got.value == pytest.approx(float(values.mean()), abs=1e-9)
    assert got.low == pytest.approx(got.value - reach, abs=1e-7)
    assert got.high == pytest.approx(got.value + reach, abs=1e-7)


@pytest.mark.parametrize("n", [5, 12])
def test_of_a_distance_it_holds_the_truth_about_as_often_as_it_says(n):
    """Normal features: two of them lie √2 · √(d/2) · … apart, which many draws tell."""
    generator = torch.Generator().manual_seed(0)
    many = torch.randn(2000, 6, generator=generator, dtype=torch.float64)
    truth = mean_distance(rms_distances(many, many))
    held = 0
    for _ in range(300):
        features = torch.randn(n, 6, generator=generator, dtype=torch.float64)
        distances = rms_distances(features, features)
        got = jackknife(lambda kept, distances=distances: mean_distance(distances[kept][:, kept]), n)
        held += got.low <= truth <= got.high
    assert 0.90 <= held / 300 <= 0.99


def test_the_interval_stays_where_the_number_can_be():
    values = torch.tensor([0.0, 0.0, 1.0])
    got = jackknife(lambda kept: float(values[kept].mean()), 3, 0.0, 0.9)
    assert got == Estimate(pytest.approx(1 / 3), 0.0, 0.9)


def test_without_enough_pictures_there_is_a_number_and_no_interval():
    assert not jackknife(lambda kept: 1.0, 0).exists
    one = jackknife(lambda kept: 1.0, 1)
    assert one.exists
    assert not one.has_interval
    distances = torch.tensor([[0.0, 3.0], [3.0, 0.0]])
    two = jackknife(lambda kept: mean_distance(distances[kept][:, kept]), 2)  # leaving one out leaves no pair
    assert two.value == 3.0
    assert not two.has_interval


def test_a_number_that_does_not_exist_has_no_interval():
    for value in (math.nan, math.inf):
        got = jackknife(lambda kept, value=value: value, 4)
        assert not got.exists
        assert not got.has_interval
    assert not Estimate().exists


@pytest.mark.parametrize(("freedom", "want"), [(1, 12.7062), (2, 4.3027), (7, 2.3646), (20, 2.0860), (200, 1.9719)])
def test_students_t_is_that_of_the_tables(freedom, want):
    assert student(freedom) == pytest.approx(want, abs=1e-3)


def test_students_t_leaves_a_fortieth_above_it():
    """Against the density, summed up numerically."""
    for freedom in (1, 3, 10, 20, 21, 30, 64):
        scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(freedom * math.pi)
        places = torch.linspace(0.0, student(freedom), 20_001, dtype=torch.float64)
        inside = torch.trapezoid(scale * (1 + places**2 / freedom) ** (-(freedom + 1) / 2), places)
        assert float(inside) == pytest.approx(0.475, abs=2e-4)
