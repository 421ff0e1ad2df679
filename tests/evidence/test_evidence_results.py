"""Behind docs/evidence_emoji.md: what is compared with what, the best of eight, and the document up to date."""

from __future__ import annotations

import itertools
import json
import re

import pytest
import torch

from lab.evidence import __main__ as command
from lab.evidence.bootstrap import correlation
from lab.evidence.document import DOCUMENT, spell, with_tables
from lab.evidence.results import reference
from lab.evidence.settings import SETTINGS
from lab.evidence.stability_and_quality import PREDICTORS, best_of, mean_of_best, plain_correlation, rank_weights


def test_a_setting_with_gamma_is_compared_with_the_same_without():
    found = {setting.name: reference(setting).name for setting in SETTINGS}
    assert found["gamma_0.5"] == found["pag_1"] == found["guidance_4"] == found["plain"] == "plain"
    assert found["gamma_0.5_guidance_4"] == "guidance_4"
    assert found["gamma_2_steps_25"] == "steps_25"
    assert all(reference(setting).count >= setting.count for setting in SETTINGS if not setting.measured)


@pytest.mark.parametrize("choice", [1, 3])
def test_the_mean_of_the_best_is_that_over_all_choices(choice):
    predictor, numbers = torch.randn(7, dtype=torch.float64), torch.randn(7, dtype=torch.float64)
    slow = [numbers[max(some, key=lambda place: predictor[place])] for some in itertools.combinations(range(7), choice)]
    assert mean_of_best(predictor, numbers, choice) == pytest.approx(float(torch.stack(slow).mean()), rel=1e-9)


def test_equal_predictors_share_the_choice():
    numbers = torch.randn(6, dtype=torch.float64)
    found = mean_of_best(torch.tensor([0.0, 1, 1, 1, 0, 0]), numbers, 6)
    assert found == pytest.approx(float(numbers[1:4].mean()), rel=1e-9)
    assert mean_of_best(torch.zeros(6), numbers, 3) == pytest.approx(float(numbers.mean()), rel=1e-9)


def test_the_best_is_chosen_in_each_category():
    labels = torch.arange(60) % 3
    numbers = torch.randn(60, dtype=torch.float64) + 10 * labels
    estimate = best_of(numbers, numbers, labels, 4)
    alone = [mean_of_best(numbers[labels == k], numbers[labels == k], 4) for k in range(3)]
    assert estimate.value == pytest.approx(sum(alone) / 3, abs=0.05)
    assert estimate.interval[0] < estimate.value < estimate.interval[1]


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
            assert low <= value <= high


def test_the_short_form_draws_the_committed_slice(capsys):
    assert command.main(["--short"]) == 0
    assert "agrees" in capsys.readouterr().out


def test_the_short_form_notices_other_pictures(monkeypatch):
    monkeypatch.setattr(command, "SLICE_SEEDS", range(1, 7))
    assert command.main(["--short"]) == 1


def test_an_interrupted_run_writes_nothing(monkeypatch, tmp_path):
    monkeypatch.setattr(command, "draw", lambda *_, **__: False)
    monkeypatch.setattr(command, "measure_all", lambda *_: pytest.fail("measured what is not all there"))
    assert command.main(["--data", str(tmp_path), "--folder", str(tmp_path)]) == 1


def intervals_of(content) -> set[tuple[float, float]]:
    """Every (low, high) of the committed numbers."""
    if isinstance(content, dict):
        return set().union(*map(intervals_of, content.values()))
    if isinstance(content, list) and len(content) == 3 and all(isinstance(number, float) for number in content):
        return {(content[1], content[2])}
    return set()


def claimed_intervals() -> list[tuple[str, str]]:
    claims = DOCUMENT.read_text(encoding="utf-8").partition("## How it was measured")[0]
    return re.findall(r"\[([−\d.]+), ([−\d.]+)\]", claims)


def test_the_claims_quote_many_intervals():
    assert len(claimed_intervals()) >= 15


@pytest.mark.parametrize("quoted", claimed_intervals(), ids=" … ".join)
def test_every_interval_of_the_claims_is_one_of_the_numbers(quoted):
    numbers = json.loads(command.NUMBERS.read_text(encoding="utf-8"))
    digits = len(quoted[0].partition(".")[2])
    wanted = tuple(float(end.replace("−", "-")) for end in quoted)
    known = intervals_of(numbers["settings"]) | intervals_of(numbers["stability"])
    assert wanted in {(round(low, digits) + 0.0, round(high, digits) + 0.0) for low, high in known}
