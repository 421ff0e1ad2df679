"""The commands behind docs/evidence.md: the slice, its tolerance, the pairs, and the second pass."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lab.evidence.bootstrap import Estimate
from lab.testbed import evidence
from lab.testbed.arms import PLAIN, Arm, all_arms
from lab.testbed.comparisons import best_of, is_rival, nearest, on_top_arms, pairs
from lab.testbed.networks import NETWORKS, named
from lab.testbed.results import write_numbers
from lab.testbed.second_pass import best_rivals, with_second_pass, write_best_rival
from lab.testbed.slices import LARGEST_DIFFERENCE, difference, slice_of
from lab.testing.hosts import find_host

pytestmark = pytest.mark.newest

ELSEWHERE = {"networks": "--network --model", "data": "--data"}  # options that several commands take from a module
ARMS = all_arms()
PLANES = {arm.name: torch.tensor([[0.1, arm.strength / 100]]).double() for arm in ARMS}
DRIFTS = {arm.name: abs(arm.strength - 1) for arm in ARMS if arm.knob != PLAIN.knob}
PICKED = {"γ": "γ 1.5", "CFG": "CFG 3", "CADS": "CADS 0.7", "CFG, ancestral": "CFG 8, ancestral"}


def found(question: int) -> list[tuple[str, str]]:
    every = pairs(PLANES, DRIFTS, PICKED, with_second_pass("unet", ARMS))
    return [(pair.arm, pair.against) for pair in every if pair.question == question]


def test_gamma_is_held_against_the_temperature_of_equal_drift():
    assert ("γ 1.5", "temperature of attention 1.5") in found(3)
    assert [arm for arm, _ in found(3)] == ["γ 0.5", "γ 0.8", "γ 1.2", "γ 1.5"]


def test_what_drifts_less_by_more_than_a_quarter_is_no_equal_drift():
    gamma, other = Arm("γ 1.5", "γ", 1.5), Arm("temperature of attention 0.9", "temperature of attention", 0.9)
    for drift, found in ((0.07, None), (0.08, other), (0.12, other), (0.13, None)):
        assert nearest(gamma, [other], {gamma.name: 0.1, other.name: drift}) == found


def test_the_best_of_ours_is_held_against_every_rival_under_its_sampler():
    assert found(4) == [("γ 1.5", "CFG 3"), ("γ 1.5", "CADS 0.7")]
    assert found(9) == [("γ 1.5", "γ, β 3 1.05")]


def test_without_a_choice_of_ours_no_strength_is_compared():
    every = list(pairs(PLANES, DRIFTS, {"CFG": "CFG 3"}, ARMS))
    assert {pair.question for pair in every} == {3, 7}


def test_the_best_rival_is_the_most_diverse_of_the_chosen():
    assert best_of(PLANES, PICKED, is_rival) == "CFG 3"
    assert best_of(PLANES, {"γ": "γ 1.5"}, is_rival) is None


def test_gamma_on_top_keeps_the_rival_and_changes_no_other_arm(tmp_path):
    path = tmp_path / "best.json"
    assert with_second_pass("unet", ARMS, path) == ARMS
    write_best_rival("unet", "CFG 3", path)
    write_best_rival("dit", "APG 6", path)
    assert best_rivals(path) == {"unet": "CFG 3", "dit": "APG 6"}
    both = with_second_pass("unet", ARMS, path)
    assert both[: len(ARMS)] == ARMS
    added = both[len(ARMS) :]
    assert {arm.guidance for arm in added} == {3.0}
    assert all(arm.uses[-1].node == "SADSkewAttention" for arm in added)
    assert len({arm.fingerprint for arm in both}) == len({arm.fingerprint for arm in ARMS}) + len(added)
    write_best_rival("unet", None, path)
    assert with_second_pass("unet", ARMS, path) == ARMS


def test_gamma_comes_after_the_nodes_of_the_rival():
    rival = next(arm for arm in ARMS if arm.name == "APG 6")
    assert all(arm.uses[:-1] == rival.uses for arm in on_top_arms(rival))


def test_the_headline_and_the_slice_name_arms():
    assert len(named(evidence.HEADLINE)) == 12
    assert named(evidence.SLICED)[0] == PLAIN


def test_numbers_are_written_a_measure_a_line(tmp_path):
    content = {"arms": {"γ, [1]": {"measures": {"a": [1.5, -2.0, 3e-5]}, "empty": []}}, "pairs": [{"question": 3}]}
    write_numbers(tmp_path / "n.json", content)
    text = (tmp_path / "n.json").read_text(encoding="utf-8")
    assert json.loads(text) == content
    assert '"a": [1.5, -2.0, 3e-05]' in text


def test_a_slice_is_compared_number_by_number():
    known = {"plain model": {"drift": 0.0, "judge": 0.9}, "γ 1.5": {"drift": 0.1, "judge": 0.9}}
    assert difference(known, known) == 0
    moved = {**known, "γ 1.5": {"drift": 0.104, "judge": 0.9}}
    assert difference(moved, known) == pytest.approx(0.04)
    assert difference(moved, known) > LARGEST_DIFFERENCE
    assert difference({"plain model": known["plain model"]}, known) == float("inf")


def test_a_slice_has_the_means_of_the_first_seeds(monkeypatch):
    class Seen:
        def __init__(self, pixels):
            self.images, self.probability = pixels.float() / 255, torch.full((len(pixels),), 0.5)

    monkeypatch.setattr("lab.testbed.slices.look_at", lambda pixels, *_: Seen(pixels))
    black, grey = torch.zeros(50, 1, 28, 28, dtype=torch.uint8), torch.full((50, 1, 28, 28), 51, dtype=torch.uint8)
    numbers = slice_of({"plain model": black, "γ 1.5": grey}, evidence.Eyes())
    assert numbers["γ 1.5"]["drift"] == pytest.approx(0.2)
    assert numbers["plain model"]["drift"] == 0


def test_the_command_ends_where_nothing_is_committed(monkeypatch, tmp_path):
    network = NETWORKS["unet"]
    monkeypatch.setitem(evidence.NETWORKS, "unet", replace(network, numbers=tmp_path / "numbers.json"))
    with pytest.raises(SystemExit, match="is not there"):
        evidence.check_slice()


def test_all_of_it_is_run_by_commands_that_exist(monkeypatch, tmp_path):
    """Every module and every option; each network with its early checkpoint, the gates, acting and the subsets."""
    commands = []

    def run(module, *options):
        commands.append((module, *options))
        (tmp_path / "acting.json").touch()

    monkeypatch.setattr(evidence, "run", run)
    (tmp_path / "repository").mkdir()
    monkeypatch.setattr(evidence, "ACTING", tmp_path / "repository" / "acting.json")
    evidence.draw_and_measure_all(tmp_path, tmp_path, None, 2)
    for module, *options in commands:
        folder = Path(evidence.__file__).parent
        file = folder / f"{module}.py" if (folder / f"{module}.py").exists() else folder / module / "__main__.py"
        code = file.read_text(encoding="utf-8")
        known = re.findall(r'"(--[a-z-]+)"', code)
        known += [
            each for name, given in ELSEWHERE.items() if f"lab.testbed.{name} import" in code for each in given.split()
        ]
        if "parse_training_options" in code:
            known += ["--model", "--private"]
        assert {option for option in options if option.startswith("--")} <= set(known), (module, options)
    drawn = [options for module, *options in commands if module == "draw"]
    for network in NETWORKS:
        own = [options for options in drawn if network in options]
        assert len(own) == 4, "two passes, of the choice and of the reported seeds"
        assert all(("--early" in options) == (network != "twin") for options in own)
    assert {module for module, *_ in commands} >= {"gates", "cost", "acting", "subsets", "pages", "train"}


def test_the_headline_says_every_setting_row_by_row():
    known = {name: {"measures": {"frechet": [2.0, 1.9, 2.1], "coverage": [0.4, 0.3, 0.5]}} for name in ("γ 2", "CFG 3")}
    drawn = {
        "γ 2": {name: Estimate(value, torch.zeros(2), 4, ()) for name, value in (("frechet", 2.05), ("coverage", 0.41))}
    }
    head, drawn_now, kept = evidence.row_by_row(drawn, known).splitlines()
    assert head.split() == ["frechet", "coverage"]
    assert drawn_now.split("  ")[0] == "γ 2"
    assert "2.050 now, 2.000 [1.900, 2.100]" in drawn_now
    assert "0.410 now, 0.400 [0.300, 0.500]" in drawn_now
    assert "now" not in kept
    assert "2.000 [1.900, 2.100]" in kept


@pytest.mark.skipif(find_host() is None, reason="needs a ComfyUI")
@pytest.mark.skipif(not NETWORKS["unet"].numbers.exists(), reason="no numbers are committed yet")
def test_the_short_form_draws_the_committed_slice(capsys):
    assert evidence.main(["--short"]) == 0
    assert "agrees" in capsys.readouterr().out
