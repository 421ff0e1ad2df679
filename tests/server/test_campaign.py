"""A slice of the campaign that needs a server (`python -m lab.campaign`); its other slices lie beside what they try."""

from __future__ import annotations

from lab.campaign.bad_inputs import BAD, FIELDS, TEXTS, try_bad_inputs, try_texts
from lab.campaign.ledger import Ledger


def test_every_bad_input_is_answered_with_a_sentence(server):
    ledger = Ledger()
    try_bad_inputs(server, ledger)
    assert not ledger.faults
    assert ledger.counts.total() == len(BAD) >= 40


def test_texts_of_any_characters_are_accepted_or_refused_in_a_sentence(server):
    ledger = Ledger()
    cases = [(field, text) for index, field in enumerate(FIELDS) for text in TEXTS[index :: len(FIELDS)]]
    try_texts(server, ledger, cases)
    assert not ledger.faults
    assert "Logging error" not in server.log
