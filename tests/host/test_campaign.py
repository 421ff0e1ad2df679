"""Slices of the campaign's parts that run inside this process (`python -m lab.campaign graphs` and `memory`)."""

from __future__ import annotations

import pytest

from lab.campaign.ledger import Ledger
from lab.campaign.out_of_memory import try_graph
from lab.campaign.random_graphs import drawn
from lab.campaign.random_graphs import try_graph as try_random_graph

# Of SD1.5: tiles and an adaptive γ in one pass; two of our nodes and three prompts.
SEEDS = (18, 21)


@pytest.mark.newest
@pytest.mark.parametrize("seed", SEEDS)
def test_a_random_pile_of_neighbours_is_what_the_definition_says(seed):
    ledger = Ledger()
    ended = try_random_graph(seed, drawn(seed), ledger)
    assert not ledger.faults
    assert ended == "graphs in which γ acts as defined"


@pytest.mark.newest
@pytest.mark.parametrize("name", ["γ and β", "γ and a probe"])
def test_where_memory_runs_out_the_host_sees_it_and_nothing_stays(name):
    ledger = Ledger()
    assert try_graph(name, ledger, most=4) > 4
    assert not ledger.faults
    assert ledger.counts["errors that reached the host"]
