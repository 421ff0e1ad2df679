"""A slice of the campaign that needs a server (`python -m lab.campaign`); its other slices lie beside what they try."""

from __future__ import annotations

import random

import pytest

from lab.campaign.bad_inputs import BAD, FIELDS, TEXTS, try_bad_inputs, try_texts
from lab.campaign.ledger import Ledger
from lab.campaign.queue_runs import Watch, cancelled_run, failing_run, plain_run, two_clients_run, unloaded_run


def test_every_bad_input_is_answered_with_a_sentence(server):
    ledger = Ledger()
    try_bad_inputs(server, ledger)
    assert not ledger.faults
    assert ledger.counts.total() == len(BAD) >= 40


@pytest.mark.newest
def test_texts_of_any_characters_are_accepted_or_refused_in_a_sentence(server):
    ledger = Ledger()
    cases = [(field, text) for index, field in enumerate(FIELDS) for text in TEXTS[index :: len(FIELDS)]]
    try_texts(server, ledger, cases)
    assert not ledger.faults
    assert "Logging error" not in server.log


def test_prompts_of_all_sorts_leave_the_plain_picture_as_it_was(server):
    ledger = Ledger()
    watch = Watch(server, ledger)
    draw = random.Random(0)
    for kind in (plain_run, failing_run, plain_run, two_clients_run, unloaded_run, cancelled_run, plain_run):
        kind(watch, draw)
    assert not ledger.faults
    assert all(sum(objects.values()) for objects, _ in watch.looks)
