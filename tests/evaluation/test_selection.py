"""The selection of samples: the plan of the decisions, and each choice against a slow statement of it."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sad_core.evaluation.diversity import rms_distances
from sad_core.evaluation.selection import (
    CHOICES,
    Round,
    choose,
    most_different,
    plan_rounds,
    rows_through_model,
    separations,
)

sizes = st.integers(2, 7).flatmap(lambda n: st.tuples(st.just(n), st.integers(2, n)))
seeds = st.integers(0, 2**32 - 1)


def drawn_distances(n: int, seed: int) -> torch.Tensor:
    points = torch.randn(n, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return rms_distances(points, points)


def greedy(distances: torch.Tensor, keep: int) -> list[int]:
    """State `most_different` slowly, one number after the other."""
    n, table = len(distances), distances.tolist()
    if keep == 1:
        means = [math.fsum(row) for row in table]
        return [means.index(max(means))]
    pairs = [(i, j) for i in range(n) for j in range(n) if i != j]
    farthest = max(pairs, key=lambda pair: table[pair[0]][pair[1]])
    found = list(farthest)
    while len(found) < keep:
        others = [i for i in range(n) if i not in found]
        found.append(max(others, key=lambda i: min(table[i][j] for j in found)))
    return found


def smallest(distances: torch.Tensor, rows: list[int]) -> float:
    return min(float(distances[i, j]) for i, j in itertools.combinations(rows, 2))


@given(sizes, seeds)
def test_the_most_different_are_those_of_the_slow_statement(size, seed):
    n, keep = size
    distances = drawn_distances(n, seed)
    assert most_different(distances, keep) == greedy(distances, keep)
    assert most_different(distances, 1) == greedy(distances, 1)


@given(sizes, seeds)
def test_the_most_different_come_within_half_of_the_best(size, seed):
    n, keep = size
    distances = drawn_distances(n, seed)
    best = max(smallest(distances, list(rows)) for rows in itertools.combinations(range(n), keep))
    assert smallest(distances, most_different(distances, keep)) >= best / 2 - 1e-12


@given(sizes, seeds, st.sampled_from(CHOICES))
def test_the_order_of_the_seeds_does_not_matter(size, seed, choice):
    n, keep = size
    distances = drawn_distances(n, seed)
    generator = torch.Generator().manual_seed(seed)
    stability = torch.randn(n, generator=generator, dtype=torch.float64)
    order = torch.randperm(n, generator=generator)
    there = choose(choice, keep, stability[order], distances[order][:, order])
    assert sorted(order[there].tolist()) == choose(choice, keep, stability, distances)


@given(sizes, seeds)
def test_the_most_stable_have_the_highest_scores(size, seed):
    n, keep = size
    stability = torch.randn(n, generator=torch.Generator().manual_seed(seed))
    ranked = sorted(range(n), key=lambda row: -float(stability[row]))
    assert choose("most stable", keep, stability) == sorted(ranked[:keep])


@given(sizes, seeds)
def test_stable_and_different_are_the_most_different_of_the_stabler_half(size, seed):
    n, keep = size
    distances, stability = drawn_distances(n, seed), torch.randn(n, generator=torch.Generator().manual_seed(seed))
    pool = choose("most stable", max(keep, math.ceil(n / 2)), stability)
    want = sorted(pool[row] for row in greedy(distances[pool][:, pool], keep))
    assert choose("stable and different", keep, stability, distances) == want


@pytest.mark.parametrize("choice", CHOICES)
def test_all_kept_is_no_choice(choice):
    assert choose(choice, 5, torch.randn(5), drawn_distances(5, 1)) == [0, 1, 2, 3, 4]


def test_of_equal_ones_the_first_are_kept():
    assert choose("most stable", 2, torch.zeros(4)) == [0, 1]
    assert choose("most different", 3, distances=torch.zeros(4, 4)) == [0, 1, 2]


def test_a_separation_is_the_distance_to_the_nearest_other_kept_one():
    distances = torch.tensor([[0.0, 3.0, 1.0], [3.0, 0.0, 2.0], [1.0, 2.0, 0.0]])
    assert separations(distances, [0, 1]).tolist() == [3.0, 3.0, 1.0]
    assert separations(distances, [0]).tolist() == [math.inf, 3.0, 1.0]


@given(st.integers(1, 30), st.data())
def test_the_rounds_end_with_what_is_kept_and_only_ever_drop(candidates, data):
    keep, steps = data.draw(st.integers(1, candidates)), data.draw(st.integers(1, 60))
    decide_at, rounds = data.draw(st.floats(0.01, 0.99)), data.draw(st.integers(1, 8))
    planned = plan_rounds(candidates, keep, decide_at, rounds, steps)
    assert planned[-1].keep == keep
    assert planned[-1].after == max(1, math.floor(decide_at * steps + 1e-9))
    assert all(one.after < other.after and one.keep >= other.keep for one, other in itertools.pairwise(planned))
    assert all(keep <= each.keep <= candidates for each in planned)
    alive, slow = candidates, 0
    for step in range(steps):
        alive = next((each.keep for each in planned if each.after == step), alive)
        slow += alive
    assert rows_through_model(planned, candidates, steps) == slow
    assert slow <= rows_through_model(plan_rounds(candidates, keep, decide_at, 1, steps), candidates, steps)


def test_halving_halves():
    assert plan_rounds(8, 2, 0.4, 2, 20) == (Round(4, 4), Round(8, 2))
    assert plan_rounds(8, 1, 0.3, 3, 30) == (Round(3, 4), Round(6, 2), Round(9, 1))


@pytest.mark.parametrize("steps", range(3, 61))
def test_eight_begun_and_two_finished_cost_less_than_four_images(steps):
    assert rows_through_model(plan_rounds(8, 2, 0.3, 1, steps), 8, steps) <= 4.0 * steps


def test_a_long_run_costs_what_the_shares_say():
    assert rows_through_model(plan_rounds(8, 2, 0.3, 1, 20), 8, 20) == round((8 * 0.3 + 2 * 0.7) * 20)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"candidates": 0}, '"candidates" is 0, but there must be at least 1'),
        ({"keep": 0}, '"keep" is 0, but it must be from 1 to 8, the number of candidates'),
        ({"keep": 9}, '"keep" is 9, but it must be from 1 to 8, the number of candidates'),
        ({"decide_at": 0.0}, '"decide_at" is 0, but it must lie between 0 and 1'),
        ({"decide_at": 1.0}, '"decide_at" is 1, but it must lie between 0 and 1'),
        ({"decide_at": math.nan}, '"decide_at" is nan, but it must lie between 0 and 1'),
        ({"rounds": 0}, '"rounds" is 0, but there must be at least 1'),
        ({"steps": 0}, '"sigmas" has no step'),
    ],
)
def test_a_number_out_of_its_range_is_refused(wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        plan_rounds(**{"candidates": 8, "keep": 2, "decide_at": 0.3, "rounds": 1, "steps": 20, **wrong})


def test_what_is_not_a_number_is_refused():
    with pytest.raises(ValueError, match="stability of 2 of 3 candidates is not a number"):
        choose("most stable", 1, torch.tensor([0.0, math.nan, math.nan]))
    with pytest.raises(ValueError, match="distance between two images is not a number"):
        choose("most different", 2, distances=torch.full((3, 3), math.nan))
    with pytest.raises(ValueError, match='choose is "any"'):
        choose("any", 1)
