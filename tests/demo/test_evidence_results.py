"""The numbers behind docs/evidence.md: what is compared with what, the best of eight, and the document up to date."""

from __future__ import annotations

import itertools
import json

import pytest
import torch

from evidence import __main__ as command
from evidence.bootstrap import correlation
from evidence.document import DOCUMENT, spell, with_tables
from evidence.results import reference
from evidence.settings import SETTINGS
from evidence.stability_and_quality import PREDICTORS, best_of, plain_correlation, rank_weights


def test_a_setting_with_gamma_is_compared_with_the_same_without():
    found = {setting.name: reference(setting).name for setting in SETTINGS}
    assert found["gamma_0.5"] == found["pag_1"] == found["guidance_4"] == found["plain"] == "plain"
    assert found["gamma_0.5_guidance_4"] == "guidance_4"
    assert found["gamma_2_steps_25"] == "steps_25"
    assert all(reference(setting).count >= setting.count for setting in SETTINGS if not setting.measured)


@pytest.mark.parametrize("choice", [1, 3])
def test_best_of_is_the_mean_over_all_choices(choice):
    predictor, numbers = torch.randn(7, dtype=torch.float64), torch.randn(7, dtype=torch.float64)
    slow = [numbers[max(some, key=lambda place: predictor[place])] for some in itertools.combinations(range(7), choice)]
    found = best_of(predictor, numbers, torch.zeros(7, dtype=torch.long), choice)
    assert found.value == pytest.approx(float(torch.stack(slow).mean()), rel=1e-9)


def test_best_of_takes_categories_one_by_one_and_their_mean():
    labels = torch.arange(20) % 2
    numbers = torch.randn(20, dtype=torch.float64)
    alone = [best_of(numbers[labels == k], numbers[labels == k], torch.zeros(10, dtype=torch.long), 4) for k in (0, 1)]
    together = best_of(numbers, numbers, labels, 4).value
    assert together == pytest.approx((alone[0].value + alone[1].value) / 2, rel=1e-9)


def test_a_constant_predictor_gains_nothing():
    numbers = torch.randn(30, dtype=torch.float64)
    labels = torch.arange(30) % 3
    assert best_of(torch.zeros(30), numbers, labels).value == pytest.approx(float(numbers.mean()), rel=1e-9)


def test_rank_weights_are_probabilities():
    weights = rank_weights(50, 8)
    assert weights.sum() == pytest.approx(1.0)
    assert weights[:7].sum() == 0
    assert (weights.diff()[7:] > 0).all()


def test_the_quick_correlation_is_the_one_with_the_interval():
    left, right, labels = torch.randn(60), torch.randn(60), torch.arange(60) % 3
    right = right + 0.5 * left + labels
    assert plain_correlation(left, right, labels) == pytest.approx(correlation(left, right, labels).value, abs=1e-6)


def test_there_are_eighty_predictors():
    assert len(set(map(str, PREDICTORS))) == 80


@pytest.mark.parametrize(
    ("numbers", "sign", "text"),
    [
        ([0.9123, 0.8911, 0.9333], "", "0.912 [0.891, 0.933]"),
        ([0.01, -0.02, 0.03], "+", "+0.0100 [-0.0200, +0.0300]"),
        ([23.11, 22.2, 24.9], "", "23.1 [22.2, 24.9]"),
    ],
)
def test_numbers_are_spelled_as_fine_as_they_are(numbers, sign, text):
    assert spell(numbers, sign) == text


def test_the_tables_of_the_document_are_those_of_the_committed_numbers():
    text = DOCUMENT.read_text(encoding="utf-8")
    assert with_tables(text, json.loads(command.NUMBERS.read_text(encoding="utf-8"))) == text


def test_a_table_without_a_place_is_refused():
    numbers = json.loads(command.NUMBERS.read_text(encoding="utf-8"))
    with pytest.raises(ValueError, match="places for"):
        with_tables("nothing here", numbers)


def test_every_row_has_an_interval_and_a_number_of_samples():
    numbers = json.loads(command.NUMBERS.read_text(encoding="utf-8"))
    for result in numbers["settings"].values():
        assert result["count"] >= 200
        for value, low, high in result["measures"].values():
            assert low <= high
            assert low - 1e-2 * abs(low) <= value <= high + 1e-2 * abs(high)


def test_the_short_form_draws_the_committed_slice(capsys):
    assert command.main(["--short"]) == 0
    assert "agrees" in capsys.readouterr().out


def test_the_short_form_notices_other_pictures(monkeypatch):
    monkeypatch.setattr(command, "SLICE_SEEDS", range(1, 7))
    assert command.main(["--short"]) == 1
