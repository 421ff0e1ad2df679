"""The list of planted faults fits the code: each text is there once, and the tests that should notice exist."""

from __future__ import annotations

from lab.mutation.__main__ import problems
from lab.mutation.mutants import MUTANTS, Mutant


def test_every_fault_can_be_planted():
    assert problems(MUTANTS) == []
    assert len(MUTANTS) >= 60


def test_a_fault_that_no_longer_fits_is_named():
    stale = Mutant("sad_core/attention.py", "no such text", "", "nothing", ("core/no_such_test.py",))
    assert len(problems([stale])) == 2
