"""The measures of the evidence, each against a library or a slow plain statement, and the intervals of numbers."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import math

import numpy
import pytest
import scipy.optimize
import scipy.stats
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from prdc import compute_prdc
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from lab.demo.classifier import hits, load_classifier
from lab.demo.data import HELD_OUT_LIST, PICTURE_LIST, read_list
from lab.demo.gamma_sweep import spread
from lab.evidence import bootstrap
from lab.evidence.bootstrap import Estimate, correlation, halves, mean, of_set, resamples
from lab.evidence.measures import (
    Embedded,
    Real,
    agreement,
    embed,
    guards,
    load_real,
    manifold,
    measure,
    memory,
    pairwise,
)
from lab.evidence.measures.features import cosine_distances, efficientnet, imagenet, pixels, squared_distances
from lab.evidence.measures.kernel_distance import kernel_distance, polynomial_kernel
from lab.evidence.measures.sets import blocks
from lab.evidence.measures.vendi import vendi
from sad_core.evaluation.diversity import effective_number as vendi_score
from sad_core.evaluation.diversity import off_diagonal_mean

SEEDS = st.integers(0, 2**31)


def points(count, width=6, seed=0, shift=0.0):
    """(count, width) random points in float64."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, width, generator=generator, dtype=torch.float64) + shift


def pictures(count, seed=0):
    """(count, 3, 32, 32) smooth coloured blots in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    return F.interpolate(torch.rand(count, 3, 4, 4, generator=generator), size=(32, 32), mode="bilinear")


def labels_of(count):
    """The category of seed s is s % 3."""
    return torch.arange(count) % 3


# Feature spaces


def test_a_distance_of_pixels_is_a_root_mean_square():
    one, other = pictures(1), pictures(1, seed=1)
    want = (one - other).double().square().mean().sqrt()
    torch.testing.assert_close(torch.linalg.vector_norm(pixels(one) - pixels(other)), want)


def test_squared_distances_of_equal_points_are_exactly_zero():
    samples = pixels(pictures(30))
    assert torch.equal(squared_distances(samples, samples).diagonal(), torch.zeros(30, dtype=torch.float64))


def test_cosine_distances_are_those_of_scipy():
    samples, others = points(4), points(5, seed=1)
    want = scipy.spatial.distance.cdist(samples.numpy(), others.numpy(), "cosine")
    torch.testing.assert_close(cosine_distances(samples, others), torch.from_numpy(want))


def test_features_of_a_picture_do_not_depend_on_the_others():
    many = pictures(35)
    together = embed(many, labels_of(35))
    alone = embed(many[33:34], labels_of(1))
    for space, features in together.features.items():
        assert features.dtype == torch.float64
        torch.testing.assert_close(features[33:34], alone.features[space], rtol=1e-4, atol=1e-5)
    assert [features.shape[1] for features in together.features.values()] == [3072, 128, 1280]


def test_the_imagenet_features_are_those_of_before():
    """Two ramps and a grey: other weights, another size, or other values than -1 to 1 move the strongest features."""
    ramp = torch.linspace(0, 1, 32).expand(32, 32)
    features = imagenet(torch.stack([ramp.T, ramp, torch.full((32, 32), 0.5)])[None])[0]
    strongest = features.topk(4)
    assert strongest.indices.tolist() == [113, 897, 245, 425]
    assert strongest.values.tolist() == pytest.approx([4.909, 4.498, 4.059, 3.801], abs=0.01)


def test_some_of_the_embedded_pictures():
    all_of_them = embed(pictures(5), labels_of(5))
    some = all_of_them.only(slice(1, 4))
    assert len(some) == 3
    assert some.labels.tolist() == [1, 2, 0]
    assert torch.equal(some.features["pixels"], all_of_them.features["pixels"][1:4])


@pytest.mark.parametrize(("images", "labels"), [(torch.rand(2, 3, 64, 64), labels_of(2)), (pictures(2), labels_of(3))])
def test_pictures_of_another_size_or_without_labels_are_refused(images, labels):
    with pytest.raises(ValueError, match=r"expected \(N, 3, 32, 32\) and N labels"):
        embed(images, labels)


# Memories and mixtures


def plain_mixture_index(sample, memories):
    """By numerical minimisation over the weight, pair by pair."""
    nearest = min(float((sample - known).square().sum()) for known in memories)
    if nearest == 0:
        return 0.0
    best = math.inf
    for one, other in itertools.combinations(memories, 2):

        def error(weight, one=one, other=other):
            return float((sample - (weight * one + (1 - weight) * other)).square().sum())

        best = min(best, scipy.optimize.minimize_scalar(error, bounds=(0, 1), method="bounded").fun, error(0), error(1))
    return 1 - best / nearest


@settings(max_examples=15)
@given(seed=SEEDS)
def test_the_mixture_index_is_its_definition(seed):
    samples, memories = points(4, seed=seed), points(5, seed=seed + 1)
    want = [plain_mixture_index(sample, memories) for sample in samples]
    assert memory.mixture_index(samples, memories).tolist() == pytest.approx(want, abs=1e-6)


@given(seed=SEEDS, weight=st.floats(0.01, 0.99))
def test_a_blend_has_mixture_index_one_and_a_memory_zero(seed, weight):
    memories = points(6, width=20, seed=seed)
    blend = weight * memories[4] + (1 - weight) * memories[2]
    assert memory.mixture_index(torch.stack([blend, memories[3]]), memories).tolist() == pytest.approx([1, 0])
    assert memory.mixture_index(memories, memories).tolist() == [0] * 6


@given(seed=SEEDS, shift=st.floats(-5, 5), scale=st.floats(0.1, 10))
def test_the_mixture_index_knows_no_origin_and_no_unit(seed, shift, scale):
    samples, memories = points(3, seed=seed), points(5, seed=seed + 1)
    want = memory.mixture_index(samples, memories)
    got = memory.mixture_index(samples * scale + shift, memories * scale + shift)
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)


def test_a_memory_that_is_there_twice_does_no_harm():
    samples, memories = points(3), points(4, seed=1)
    twice = torch.cat([memories, memories[:1]])
    torch.testing.assert_close(memory.mixture_index(samples, twice), memory.mixture_index(samples, memories))


def test_the_nearest_memory_of_the_own_category_may_be_further():
    memories = torch.tensor([[0.0, 0.0], [3.0, 4.0]]).double()
    samples, labels = torch.tensor([[0.0, 0.0], [0.0, 1.0]]).double(), torch.tensor([1, 0])
    assert memory.nearest(samples, memories).tolist() == [0, 1]
    assert memory.nearest_own(samples, labels, memories, torch.tensor([0, 1])).tolist() == [5, 1]


def plain_patchwork_index(picture, memories):
    """Patch by patch."""
    votes, voters = [0] * len(memories), 0
    for top, left in itertools.product(range(0, 32, 4), repeat=2):
        patch = picture[:, top : top + 4, left : left + 4].double()
        if (1 - patch).abs().max() <= memory.BACKGROUND:
            continue
        voters += 1
        errors = [
            float((patch - known[:, top : top + 4, left : left + 4].double()).square().mean()) ** 0.5
            for known in memories
        ]
        for place, error in enumerate(errors):
            votes[place] += error <= min(errors) + memory.TIE
    return 1 - max(votes) / voters if voters else 0.0


def test_the_patchwork_index_is_its_definition():
    memories, samples = pictures(5), pictures(8, seed=1)
    samples[:, :, :, 20:] = 1  # some background
    samples[:4] = samples[:4].lerp(memories[:4], 0.7)
    want = [plain_patchwork_index(sample, memories) for sample in samples]
    assert memory.patchwork_index(samples, memories).tolist() == pytest.approx(want)


def test_a_patchwork_is_a_mixture_that_no_blend_explains():
    memories = pictures(6)
    halves_of_two = torch.cat([memories[0][..., :16], memories[3][..., 16:]], dim=-1)
    samples = torch.stack([halves_of_two, memories[2], torch.ones(3, 32, 32)])
    assert memory.patchwork_index(samples, memories).tolist() == [0.5, 0, 0]
    assert memory.mixture_index(pixels(samples[:1]), pixels(memories)) < 0.9


def test_alike_memories_share_their_votes():
    """Two smileys of one yellow: noise must not make a mixture of a memory."""
    memories = pictures(3)
    memories[1] = memories[0]
    memories[1, :, 12:16, 12:16] = 0
    noisy = memories[:1] + 0.001 * torch.randn(1, 3, 32, 32)
    assert memory.patchwork_index(noisy, memories).tolist() == [0]


# Precision, recall, density, coverage


@given(seed=SEEDS, width=st.integers(2, 12))
def test_precision_and_recall_are_those_of_torch_fidelity(seed, width):
    samples, real = points(40, width, seed, shift=0.5), points(50, width, seed + 1)
    options = {"prc_neighborhood": 5, "prc_batch_size": 10000, "save_cpu_ram": False, "verbose": False}
    want = prc_features_to_metric(samples, real, **options)
    one_category = torch.zeros(40, dtype=torch.long)
    assert float(manifold.precision(samples, real).mean()) == pytest.approx(want["precision"])
    got = manifold.recall(samples, one_category, real, size=40)(torch.arange(40))
    assert got == pytest.approx(want["recall"])


@given(seed=SEEDS)
def test_density_and_coverage_are_their_definitions(seed):
    samples, real = points(20, 3, seed), points(15, 3, seed + 1)
    distance = [[float((one - other).norm()) for other in samples] for one in real]
    width = [sorted(float((one - other).norm()) for other in real)[5] for one in real]
    density = [sum(distance[row][place] <= width[row] for row in range(15)) / 5 for place in range(20)]
    coverage = sum(min(distance[row]) <= width[row] for row in range(15)) / 15
    assert manifold.density(samples, real).tolist() == pytest.approx(density)
    one_category = torch.zeros(20, dtype=torch.long)
    assert manifold.coverage(samples, one_category, real, size=20)(torch.arange(20)) == pytest.approx(coverage)


@settings(max_examples=20)
@given(seed=SEEDS, width=st.integers(2, 12), neighbour=st.integers(1, 6))
def test_all_four_are_those_of_prdc(seed, width, neighbour):
    samples, real = points(40, width, seed, shift=0.5), points(50, width, seed + 1)
    with contextlib.redirect_stdout(io.StringIO()):
        want = compute_prdc(real.numpy(), samples.numpy(), neighbour)
    rows, one_category = torch.arange(40), torch.zeros(40, dtype=torch.long)
    found = {
        "precision": float(manifold.precision(samples, real, neighbour).mean()),
        "recall": manifold.recall(samples, one_category, real, 40, neighbour)(rows),
        "density": float(manifold.density(samples, real, neighbour).mean()),
        "coverage": manifold.coverage(samples, one_category, real, 40, neighbour)(rows),
    }
    assert found == pytest.approx(want)


@given(seed=SEEDS)
def test_a_set_covers_itself(seed):
    real = points(30, 4, seed)
    rows, one_category = torch.arange(30), torch.zeros(30, dtype=torch.long)
    assert manifold.precision(real, real).tolist() == [1] * 30
    assert manifold.recall(real, one_category, real, size=30)(rows) == 1
    assert manifold.coverage(real, one_category, real, size=30)(rows) == 1
    assert float(manifold.density(real, real).mean()) == pytest.approx(6 / 5)  # a ball holds its centre and 5 others


def test_points_elsewhere_are_neither_precise_nor_recalled():
    real, samples = points(30), points(30, shift=100.0)
    rows, one_category = torch.arange(30), torch.zeros(30, dtype=torch.long)
    assert manifold.precision(samples, real).sum() == manifold.density(samples, real).sum() == 0
    assert manifold.recall(samples, one_category, real)(rows) == 0
    assert manifold.coverage(samples, one_category, real)(rows) == 0


def test_coverage_of_blocks_is_what_chance_says():
    """A block of 6 of 20 misses a real picture that c samples cover with probability C(20 - c, 6) / C(20, 6)."""
    samples, real = points(20, 3), points(15, 3, seed=1)
    covering = manifold.inside(samples, real, 5).sum(dim=0).tolist()
    want = 1 - sum(math.comb(20 - count, 6) / math.comb(20, 6) for count in covering) / 15
    measure_of = manifold.coverage(samples, torch.zeros(20, dtype=torch.long), real, size=6)
    found = torch.tensor([measure_of(torch.randperm(20)) for _ in range(2000)])
    assert float(found.mean()) == pytest.approx(want, abs=4 * float(found.std()) / 2000**0.5)


def test_too_few_pictures_for_the_neighbours_are_refused():
    with pytest.raises(ValueError, match=r"5 pictures have no 5th neighbour\. Choose at most 4\."):
        manifold.precision(points(3), points(5))


# Kernel distance


@given(seed=SEEDS, width=st.integers(1, 12))
def test_the_kernel_distance_is_that_of_torch_fidelity(seed, width):
    samples, real = points(12, width, seed), points(12, width, seed + 1, shift=0.3)
    found = kid_features_to_metric(real, samples, kid_subsets=1, kid_subset_size=12, verbose=False)
    want = found["kernel_inception_distance_mean"]
    assert kernel_distance(samples, real)(torch.arange(12)) == pytest.approx(want, rel=1e-6, abs=1e-9)


def test_the_kernel_distance_of_some_samples_to_more_real_ones():
    samples, real = points(9), points(14, seed=1)
    rows = torch.tensor([7, 2, 3, 0])
    kernel = lambda one, other: float((one @ other / 6 + 1) ** 3)  # noqa: E731
    chosen = samples[rows]
    among = numpy.mean([kernel(one, other) for one, other in itertools.permutations(chosen, 2)])
    among_real = numpy.mean([kernel(one, other) for one, other in itertools.permutations(real, 2)])
    between = numpy.mean([kernel(one, other) for one, other in itertools.product(chosen, real)])
    assert kernel_distance(samples, real)(rows) == pytest.approx(among + among_real - 2 * between)
    assert polynomial_kernel(samples, real).shape == (9, 14)


def test_the_kernel_distance_of_one_origin_is_zero_within_its_interval():
    samples, real = points(120), points(2000, seed=1)
    low, high = of_set(kernel_distance(samples, real), labels_of(120)).interval
    assert low < 0 < high
    low, _ = of_set(kernel_distance(samples + 0.5, real), labels_of(120)).interval
    assert low > 0


# Diversity


def test_the_vendi_score_counts_what_is_different():
    assert float(vendi_score(torch.ones(7, 7).double())) == pytest.approx(1)
    assert float(vendi_score(torch.eye(7).double())) == pytest.approx(7)
    three_pairs = torch.block_diag(*[torch.ones(2, 2).double()] * 3)
    assert float(vendi_score(three_pairs)) == pytest.approx(3)


@given(seed=SEEDS)
def test_the_vendi_score_is_the_entropy_of_the_matrix(seed):
    unit = F.normalize(points(5, 8, seed), dim=-1)
    shares = (unit @ unit.mT / 5).numpy()
    want = math.exp(-numpy.trace(shares @ scipy.linalg.logm(shares)).real)
    assert float(vendi_score(unit @ unit.mT)) == pytest.approx(want)


def test_vendi_is_taken_of_blocks_of_one_category():
    """Adding copies of everything would raise a score that pooled categories or all samples at once."""
    samples, labels = points(24), labels_of(24)
    rows = torch.arange(24)
    by_hand = []
    for label in range(3):
        own = samples[labels == label]
        for block in own.split(4):
            unit = F.normalize(block, dim=-1)
            by_hand.append(float(vendi_score(unit @ unit.mT)))
    assert vendi(samples, labels, size=4)(rows) == pytest.approx(sum(by_hand) / 6)


def test_apart_is_the_mean_distance_within_categories():
    images, labels = pictures(12), labels_of(12)
    distances = pairwise.distances_among(pixels(images), cosine=False)
    got = pairwise.apart(distances, labels)(torch.arange(12))
    assert got == pytest.approx(spread(images, labels.tolist()), rel=1e-5)
    assert float(pairwise.distance_to_others(distances, labels).mean()) == pytest.approx(got)


def test_apart_weighs_categories_alike():
    positions = torch.tensor([[0.0], [1.0], [2.0], [0.0], [10.0]]).double()
    distances = pairwise.distances_among(positions, cosine=False)
    measure_of = pairwise.apart(distances, torch.tensor([0, 0, 0, 1, 1]))
    assert measure_of(torch.arange(5)) == pytest.approx((4 / 3 + 10) / 2)
    assert measure_of(torch.tensor([2, 0])) == pytest.approx(2)


def test_drift_is_the_distance_to_the_same_seed():
    samples, plain = points(5), points(5, seed=1)
    assert pairwise.drift(samples, samples, cosine=False).tolist() == [0] * 5
    torch.testing.assert_close(pairwise.drift(samples, plain, cosine=False), torch.cdist(samples, plain).diagonal())
    torch.testing.assert_close(pairwise.drift(samples, plain, cosine=True), cosine_distances(samples, plain).diagonal())


@given(count=st.integers(6, 40), size=st.integers(1, 2), seed=SEEDS)
def test_blocks_hold_every_place_and_as_many_of_each_category(count, size, seed):
    labels = labels_of(count)
    rows = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    dealt = blocks(labels, rows, size)
    assert set(dealt.flatten().tolist()) == set(range(count))
    assert dealt.shape[1:] == (3, size)
    for block in dealt:
        assert len(set(block.flatten().tolist())) == 3 * size
        assert labels[block].tolist() == [[label] * size for label in range(3)]


def test_a_category_smaller_than_a_block_is_refused():
    with pytest.raises(ValueError, match=r"block: 5 samples of each category wanted, but one has 3\. Choose at most 3"):
        blocks(labels_of(11), torch.arange(11), 5)


# Agreement and guards


def test_the_judge_judges_from_its_features():
    images, labels = pictures(12), labels_of(12)
    features = embed(images, labels).features["classifier"]
    judge = load_classifier()
    assert torch.equal(agreement.agreement(features, labels).bool(), hits(judge, images, labels))
    want = judge(images).softmax(dim=-1)[torch.arange(12), labels].double()
    torch.testing.assert_close(agreement.probability(features, labels), want, rtol=1e-4, atol=1e-5)


def test_saturation_leaves_white_background_out():
    image = torch.ones(1, 3, 4, 4)
    assert guards.saturation(image).tolist() == [0]
    image[0, :, 0, 0] = torch.tensor([1.0, 0.8, 0.2])  # one of three
    image[0, :, 0, 1] = torch.tensor([0.0, 0.0, 0.5])  # two of three
    assert guards.saturation(image).tolist() == [0.5]
    assert guards.saturation(torch.full((1, 3, 4, 4), 0.5)).tolist() == [0]


@given(seed=SEEDS)
def test_high_frequency_is_a_mean_over_the_power_spectrum(seed):
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    power = torch.fft.fft2(images).abs().square()
    power[:, :, 0, 0] = 0
    frequency = 2 * math.pi * torch.arange(8, dtype=torch.float64) / 8
    response = (4 - 2 * frequency.cos()[:, None] - 2 * frequency.cos()) / 8
    want = (power * response.square()).sum(dim=(1, 2, 3)) / power.sum(dim=(1, 2, 3))
    torch.testing.assert_close(guards.high_frequency(images), want)


def test_a_checkerboard_is_all_high_frequency_and_a_flat_colour_none():
    board = (torch.arange(32)[:, None] + torch.arange(32)) % 2
    images = torch.stack([board.expand(3, 32, 32).float(), torch.full((3, 32, 32), 0.3)])
    assert guards.high_frequency(images).tolist() == pytest.approx([1, 0])


# Intervals


def test_resamples_keep_every_category_as_large_as_it_is():
    labels = torch.tensor([0, 1, 1, 2, 2, 2, 0])
    for rows in resamples(labels)[:20]:
        assert labels[rows].bincount().tolist() == [2, 2, 3]
    for rows in halves(labels)[:20]:
        assert labels[rows].bincount().tolist() == [1, 1, 1]
        assert len(set(rows.tolist())) == 3
    assert torch.equal(resamples(labels), resamples(labels.clone()))


def test_the_interval_of_a_mean_is_that_of_scipy():
    numbers = points(80, 1).exp().flatten()
    estimate = mean(numbers, torch.zeros(80, dtype=torch.long))
    found = scipy.stats.bootstrap((numbers.numpy(),), numpy.mean, method="percentile", n_resamples=20000, rng=0)
    want = found.confidence_interval
    width = want.high - want.low
    assert estimate.value == pytest.approx(float(numbers.mean()))
    assert estimate.interval == pytest.approx((want.low, want.high), abs=0.06 * width)


def test_categories_are_strata():
    """A difference only between categories has no uncertainty, however large it is."""
    labels = labels_of(30)
    estimate = mean(labels * 100.0, labels)
    assert estimate.interval == (estimate.value, estimate.value) == (100, 100)


def test_differences_and_ratios_are_paired_by_seed():
    labels, numbers = labels_of(60), points(60, 1).flatten().exp()
    plain = mean(numbers, labels)
    assert (mean(numbers + 0.25, labels) - plain).interval == pytest.approx((0.25, 0.25))
    assert (mean(numbers * 1.5, labels) / plain).interval == pytest.approx((1.5, 1.5))
    assert str(mean(torch.full((60,), 0.5), labels)) == "0.5 [0.5, 0.5], n = 60"


def test_estimates_of_other_seeds_are_not_subtracted():
    of_numbers, of_more = mean(points(60, 1).flatten(), labels_of(60)), mean(points(90, 1).flatten(), labels_of(90))
    of_halves = of_set(lambda rows: 1.0, labels_of(60))
    for other in (of_more, of_halves):
        with pytest.raises(ValueError, match="were not drawn alike"):
            of_numbers - other
        with pytest.raises(ValueError, match="were not drawn alike"):
            of_numbers / other


def test_each_seed_needs_its_number():
    with pytest.raises(ValueError, match=r"\(5,\) given for \(6,\) labels; give one for each"):
        mean(torch.rand(5), labels_of(6))


@pytest.mark.parametrize("ranks", [False, True])
def test_correlations_are_those_of_scipy(ranks):
    numbers, noise = points(70, 2).T
    others = (numbers + noise).round()  # with ties
    plain = scipy.stats.spearmanr if ranks else scipy.stats.pearsonr
    estimate = correlation(numbers, others, torch.zeros(70, dtype=torch.long), ranks=ranks)
    assert estimate.value == pytest.approx(plain(numbers, others).statistic)
    pooled = correlation(numbers, others, labels_of(70), ranks=ranks, within=False)
    assert pooled.value == pytest.approx(estimate.value)
    z = math.atanh(estimate.value)
    fisher = (math.tanh(z - 1.96 / 67**0.5), math.tanh(z + 1.96 / 67**0.5))
    assert estimate.interval == pytest.approx(fisher, abs=0.05)


@pytest.mark.parametrize("ranks", [False, True])
def test_what_differs_between_categories_is_no_correlation_of_seeds(ranks):
    labels = labels_of(300)
    numbers, others = points(300, 2).T + 10 * labels
    assert correlation(numbers, others, labels, ranks=ranks, within=False).value > 0.8
    low, high = correlation(numbers, others, labels, ranks=ranks).interval
    assert low < 0 < high


def test_halves_give_a_mean_the_interval_of_the_bootstrap():
    numbers, labels = points(240, 1).flatten(), labels_of(240)
    by_halves = of_set(lambda rows: float(numbers[rows].mean()), labels)
    drawn_anew = mean(numbers, labels)
    assert by_halves.value == pytest.approx(drawn_anew.value, abs=0.1 * float(drawn_anew.resampled.std()))
    assert float(by_halves.resampled.std()) == pytest.approx(float(drawn_anew.resampled.std()), rel=0.1)


def set_measures(samples, labels):
    """One of each kind, small."""
    real = points(40, 3, seed=99)
    return {
        "apart": pairwise.apart(pairwise.distances_among(samples, cosine=False), labels),
        "kernel distance": kernel_distance(samples, real),
        "vendi": vendi(samples, labels, size=10),
        "recall": manifold.recall(samples, labels, real, size=10),
        "coverage": manifold.coverage(samples, labels, real, size=10),
    }


@pytest.fixture
def few_resamples(monkeypatch):
    monkeypatch.setattr(bootstrap, "RESAMPLES", 150)
    bootstrap.drawn.cache_clear()
    yield
    bootstrap.drawn.cache_clear()


@pytest.mark.usefixtures("few_resamples")
def test_halves_vary_as_new_seeds_do():
    """The deviation over halves of one set against that over 150 independent sets; and both mean the same."""
    labels, rows = labels_of(66), torch.arange(66)
    sets = [points(66, 3, seed) for seed in range(150)]
    new = {name: [] for name in set_measures(sets[0], labels)}
    for samples in sets:
        for name, measure_of in set_measures(samples, labels).items():
            new[name].append(measure_of(rows))
    for name in new:
        estimates = [of_set(set_measures(samples, labels)[name], labels) for samples in sets[:12]]
        deviation = torch.stack([estimate.resampled.var() for estimate in estimates]).mean().sqrt()
        truth = torch.tensor(new[name])
        assert 0.85 < float(deviation / truth.std()) < 1.6, name
        whole = [set_measures(samples, labels)[name](torch.arange(len(labels))) for samples in sets[:12]]
        centre = sum(estimate.value - value for estimate, value in zip(estimates, whole, strict=True)) / 12
        assert abs(centre) < 0.5 * float(truth.std()), name


# All together


def test_real_pictures_are_what_the_model_knows_and_what_it_does_not(tmp_path):
    """A made-up package: five listed pictures, two of them held out, and three more of the same categories."""
    held_out = sorted(read_list(HELD_OUT_LIST))[:2]
    trained_on = sorted(read_list(PICTURE_LIST) - read_list(HELD_OUT_LIST))[:3]
    others = ["a.png", "b.png", "c.png"]
    (tmp_path / "img" / "google" / "64").mkdir(parents=True)
    for name in [*held_out, *trained_on, *others, "flag.png"]:
        Image.new("RGBA", (64, 64), (255, 0, 0, 128)).save(tmp_path / "img" / "google" / "64" / name)
    entries = [{"image": name, "category": "Food & Drink"} for name in [*held_out, *trained_on, *others]]
    entries.append({"image": "flag.png", "category": "Flags"})
    (tmp_path / "emoji.json").write_text(json.dumps(entries), encoding="utf-8")
    found = load_real(tmp_path)
    assert (len(found.memories), len(found.held_out), len(found.unseen)) == (3, 2, 3)
    assert found.unseen.features["imagenet"].shape == (3, 1280)


@pytest.fixture(scope="module")
def real():
    return Real(*(embed(pictures(count, seed=count), labels_of(count)) for count in (12, 6, 20)))


@pytest.mark.usefixtures("few_resamples")
def test_everything_is_measured(real):
    labels = labels_of(24)
    plain = embed(pictures(24, seed=1), labels)
    samples = embed(pictures(24, seed=2), labels)
    measures = measure(samples, plain, real, block=4, given={"outside range": torch.arange(24) / 24})
    spaces, sets = ("pixels", "classifier", "imagenet"), ("memories", "unseen")
    wanted = {"patchwork/pixels", "agreement", "probability", "saturation", "high frequency", "outside range"}
    for name in ("nearest memory", "nearest own memory", "nearest held out", "nearest unseen", "mixture", "drift"):
        wanted |= {f"{name}/{space}" for space in spaces}
    for name in ("precision", "density"):
        wanted |= {f"{name}/{space}/{real_set}" for space, real_set in itertools.product(spaces, sets)}
    assert set(measures.samples) == wanted
    assert set(measures.others) == {f"distance to others/{space}" for space in spaces}
    of_sets = {f"apart/{space}" for space in spaces} | {f"vendi/{space}" for space in spaces[1:]}
    of_sets |= {f"kernel distance/{space}/{real_set}" for space, real_set in itertools.product(spaces[1:], sets)}
    for name in ("recall", "coverage"):
        of_sets |= {f"{name}/{space}/{real_set}" for space, real_set in itertools.product(spaces, sets)}
    assert set(measures.sets) == of_sets
    for name, numbers in (measures.samples | measures.others).items():
        assert numbers.shape == (24,), name
        assert numbers.dtype == torch.float64, name
        assert numbers.isfinite().all(), name
    for name, measure_of in measures.sets.items():
        estimate = of_set(measure_of, labels)
        assert isinstance(estimate, Estimate)
        assert estimate.resampled.isfinite().all(), name


def test_real_pictures_are_measured_without_a_plain_model(real):
    measures = measure(real.unseen, None, real, block=4)
    assert not [name for name in measures.samples if name.startswith("drift")]
    assert measures.samples["nearest unseen/pixels"].tolist() == pytest.approx([0] * 20, abs=1e-6)
    assert measures.samples["precision/imagenet/unseen"].tolist() == [1] * 20


@pytest.mark.usefixtures("few_resamples")
def test_a_set_measure_takes_only_the_first_seeds(real):
    """So that a long run of the plain model is compared with a short one of another setting."""
    long = embed(pictures(24), labels_of(24))
    short = long.only(slice(0, 15))
    of_long, of_short = measure(long, None, real, block=2).sets, measure(short, None, real, block=2).sets
    for name, measure_of in of_long.items():
        gap = of_set(measure_of, short.labels) - of_set(of_short[name], short.labels)
        assert gap.resampled.abs().max() < 1e-9, name


def test_a_plain_model_of_other_seeds_is_refused(real):
    samples = Embedded(torch.rand(4, 3, 32, 32), labels_of(4), {})
    with pytest.raises(ValueError, match="plain: 3 samples for 4, or other categories"):
        measure(samples, Embedded(torch.rand(3, 3, 32, 32), labels_of(3), {}), real)


def test_off_diagonal_mean():
    assert float(off_diagonal_mean(torch.tensor([[9.0, 1.0], [3.0, 9.0]]))) == 2
    assert off_diagonal_mean(torch.ones(2, 1, 1)).isnan().all()


def test_loading_the_network_draws_no_random_numbers():
    efficientnet.cache_clear()
    before = torch.random.get_rng_state()
    imagenet(pictures(1))
    assert torch.equal(torch.random.get_rng_state(), before)
