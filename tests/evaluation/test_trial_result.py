"""A trial: what is chosen, what is said, and what its file must hold to be accepted."""

from __future__ import annotations

import json
import math
import random
import re
from contextlib import suppress
from dataclasses import replace

import pytest

from lab.testing.json_files import assert_only_its_own_files_are_read
from lab.testing.made_up_trials import made_up_trial
from lab.testing.sweep_images import read_table
from sad_core.evaluation.diversity import Estimate
from sad_core.evaluation.measures import Row
from sad_core.evaluation.trial.result import Measured, choose_way, is_significant
from sad_core.evaluation.trial.result_file import load_trial, save_trial, trial_to_json
from sad_core.evaluation.trial.ways import LADDER, PLAIN, RIVALS
from sad_core.evaluation.trial.words import CHANGES, summary_of, table_of, verdict


def around(value, reach=0.01):
    return Estimate(value, value - reach, value + reach)


def found(way, change=0.0, seconds=2.0, broken=0, **measures):
    """A way with guards as at γ = 1, but for what is given."""
    usual = {"distance": around(0.5 + change), "distance_change": around(change), "pixel_drift": around(0.1)}
    guards = {"clipped": around(0.0), "saturation": around(1.0), "high_frequency": around(1.0)}
    return Measured(way, Row(way.gamma, 8, broken, 0, {**usual, **guards, **measures}), seconds)


def test_the_most_different_with_its_guards_is_chosen():
    plain = found(PLAIN, agreement=around(0.3))
    weak, strong, broken = (
        found(way, change, agreement=around(0.3)) for way, change in zip(LADDER[:3], (0.1, 0.3, 0.5), strict=True)
    )
    assert choose_way([plain, weak, strong, broken]) == broken.way
    for wrong in (
        {"saturation": around(1.6)},
        {"saturation": around(0.6)},
        {"high_frequency": around(2.1)},
        {"clipped": around(0.2)},
        {"agreement": around(0.28)},
        {"broken": 1},
    ):
        worse = found(broken.way, 0.5, **{"agreement": around(0.3), **wrong})
        assert choose_way([plain, weak, strong, worse]) == strong.way, wrong


def test_where_every_gamma_breaks_pictures_the_mildest_is_chosen():
    near, far = (
        found(way, 0.3, clipped=around(0.9), pixel_drift=around(drift))
        for way, drift in zip(LADDER[:2], (0.05, 0.4), strict=True)
    )
    assert choose_way([found(PLAIN), far, near]) == near.way


def test_a_gamma_that_loses_is_chosen_only_where_all_lose():
    assert choose_way([found(PLAIN), found(LADDER[0], -0.3), found(LADDER[1], -0.1)]) == LADDER[1]
    with pytest.raises(ValueError, match=r"No γ can be chosen, because too many images of γ = 1"):
        choose_way([found(PLAIN)])


@pytest.mark.parametrize(
    ("number", "is_one"),
    [(Estimate(0.1, 0.02, 0.2), True), (Estimate(0.1, -0.02, 0.2), False), (Estimate(0.1), False), (Estimate(), False)],
)
def test_significant_means_that_the_interval_leaves_out_no_change(number, is_one):
    assert is_significant(number) == is_one


def test_the_sentences_say_what_is_significant_and_what_is_not():
    way = found(LADDER[2], 0.05, saturation=Estimate(1.2, 1.1, 1.3))
    said = verdict(way)
    assert said.startswith("images moved by 0.1 (95 % interval 0.09 to 0.11) of the colour range. Significant")
    sure, unsure = said.split("Not significant, so it may be chance: ")
    assert "the distance between two images of a prompt larger by 0.05 (95 % interval 0.04 to 0.06)" in sure
    assert "saturation 1.2 (95 % interval 1.1 to 1.3) times that of γ 1" in sure
    assert "high-frequency energy 1 (" in unsure
    assert "smaller by 0.05 (95 % interval 0.04 to 0.06)" in verdict(found(LADDER[0], -0.05))
    assert verdict(found(LADDER[0], pixel_drift=Estimate(0.0, 0.0, 0.0))) == "no image changed. All equal those of γ 1."


def test_the_summary_names_seeds_rivals_and_cost():
    trial = made_up_trial(4)
    in_short, *lines = summary_of(trial).split("\n")
    assert in_short.startswith("γ 2 changed ")
    assert in_short.endswith(" significantly, with 8 seeds.")
    assert lines[0].startswith(
        "checkpoint 4: γ 2 was chosen among 5 settings of γ, tried on 4 seeds and 1 prompt. The numbers below are "
        "from 8 other"
    )
    assert [line.split(": images moved")[0] for line in lines[1:4]] == ["γ 2", *(way.name for way in RIVALS)]
    assert lines[4].startswith(
        "An image at γ 1 took 2 s on NVIDIA GeForce RTX 4090. Compared with it, other settings took: 1.05 times as "
        "long (γ 2); "
    )
    assert "; 1.25 times as long (γ 2 with β 0.5); 1.10 times as long (γ 1 with the probe). " in lines[4]
    table = read_table(table_of(trial))
    assert [(row["part"], row["setting"]) for row in table] == [
        *(("choice", way.name) for way in (PLAIN, *LADDER)),
        *(("report", way.name) for way in (PLAIN, LADDER[3], *RIVALS)),
    ]
    assert float(table[-3]["distance_change"]) == pytest.approx(trial.best.row["distance_change"].value, rel=1e-4)


def test_a_summary_without_a_significant_change_says_so_first():
    trial = made_up_trial(4)
    wide = Estimate(1.0, -9.0, 9.0)
    report = [
        replace(each, row=replace(each.row, measures={**each.row.measures, **{name: wide for name, _, _ in CHANGES}}))
        for each in trial.report
    ]
    said = summary_of(replace(trial, report=tuple(report)))
    assert said.startswith("No significant change was found with 8 seeds.\n")


def test_broken_pictures_of_every_reported_way_are_reported():
    trial = made_up_trial(4)
    counts = (0, 2, 0, 1)
    report = [
        replace(each, row=replace(each.row, broken=count)) for each, count in zip(trial.report, counts, strict=True)
    ]
    said = summary_of(replace(trial, report=tuple(report))).split("\n")
    assert said[-2:] == [
        "2 images of γ 2 contained NaN and were left out.",
        f"1 image of {RIVALS[1].name} contained NaN and was left out.",
    ]


# --- the file


@pytest.mark.parametrize("number", range(10))
def test_a_file_gives_the_trial_back(tmp_path, number):
    saved = made_up_trial(number)
    save_trial(saved, tmp_path / "own.trial.json")
    loaded = load_trial(tmp_path / "own.trial.json")
    assert trial_to_json(loaded) == trial_to_json(saved)
    assert loaded.sampling == saved.sampling
    assert loaded.best.way == saved.best.way
    said, again = (re.sub(r"[\d.]+", "#", summary_of(trial)) for trial in (saved, loaded))
    assert said == again  # a number on the edge may be rounded twice


def test_a_file_with_a_former_name_of_a_setting_is_read(tmp_path):
    """The name of a setting is text for people, and older files hold another one."""
    now, before = LADDER[-1].name, "γ 2, first third"
    content = trial_to_json(made_up_trial(0))
    path = tmp_path / "own.trial.json"
    path.write_text(json.dumps(content, ensure_ascii=False).replace(now, before), encoding="utf-8")
    loaded = load_trial(path)
    assert [each.way for each in loaded.choice] == [PLAIN, *LADDER[:-1], replace(LADDER[-1], name=before)]
    assert choose_way(loaded.choice) == loaded.best.way


def wrong(change):
    """A good file's content, changed."""
    content = trial_to_json(made_up_trial(0))
    change(content)
    return content


TEN_WRONG = {
    "another kind of file": (
        lambda trial: trial.update(kind="symmetric-attention calibration"),
        "is not a trial of this pack. Choose a file saved by Measure Your Checkpoint",
    ),
    "a newer version": (
        lambda trial: trial.update(version=2),
        "is a trial of version 2, but this pack reads version 1. Update the pack, or measure again",
    ),
    "a field that is missing": (lambda trial: trial.pop("took"), "is a damaged trial: 'took'. Measure again"),
    "a path in a name": (
        lambda trial: trial["model"].update(name="/home/me/model.safetensors"),
        "is a damaged trial: name is not a single line of text without a path",
    ),
    "no γ = 1": (
        lambda trial: trial["report"].pop(0),
        r"cannot be right: the report does not begin with γ 1\.",
    ),
    "a number beyond its bounds": (
        lambda trial: trial["report"][2]["measures"].update(clipped=[1.5, 1.4, 1.6]),
        r"cannot be right: clipped of no guidance in the first fifth is 1\.5, but it can only be from 0 to 1\.",
    ),
    "a number outside of its interval": (
        lambda trial: trial["report"][1]["measures"].update(drift=[0.5, 0.1, 0.2]),
        r"cannot be right: drift of γ 2 is 0\.5, outside of its interval 0\.1 to 0\.2\.",
    ),
    "a change that does not follow": (
        lambda trial: trial["report"][1]["measures"].update(distance_change=[0.9, 0.8, 1.0]),
        r"cannot be right: distance_change of γ 2 in the report is 0\.9, but its distance minus that of γ 1 is",
    ),
    "another choice than the numbers make": (
        lambda trial: trial.update(chosen="γ 1.5"),
        r"cannot be right: it names γ 1\.5 as the chosen setting, but its numbers choose γ 2\.",
    ),
    "pictures that took longer than the trial": (
        lambda trial: trial.update(took=0.01),
        r"cannot be right: the times of the images add up to .* minutes, but the trial took 0\.01 minutes\.",
    ),
}


@pytest.mark.parametrize("fault", TEN_WRONG)
def test_ten_wrong_files_are_refused_in_a_sentence_each(tmp_path, fault):
    change, sentence = TEN_WRONG[fault]
    path = tmp_path / "own.trial.json"
    path.write_text(json.dumps(wrong(change)), encoding="utf-8")
    with pytest.raises(ValueError, match=sentence) as refused:
        load_trial(path)
    assert "\n" not in str(refused.value)


def halve_the_seeds(trial):
    trial["report"][1]["n"] //= 2


def move_nothing(trial):
    for each in (*trial["choice"], *trial["report"]):
        each["measures"] = trial["report"][0]["measures"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            halve_the_seeds,
            "the settings of the report have 2, 4 seeds, but all must have the same number, from 4 to 192",
        ),
        (lambda trial: trial["choice"].append(trial["choice"][1]), "the choice has a setting twice"),
        (lambda trial: trial["report"].pop(1), "the report lacks the chosen setting"),
        (
            lambda trial: trial["report"][0]["measures"].update(pixel_drift=[0.1, 0.0, 0.2]),
            r"pixel_drift of γ 1 in the report is 0\.1, but it must be 0",
        ),
    ],
)
def test_what_nobody_can_have_measured_is_refused(tmp_path, change, sentence):
    path = tmp_path / "own.trial.json"
    path.write_text(json.dumps(wrong(change)), encoding="utf-8")
    with pytest.raises(ValueError, match=f"cannot be right: {sentence}"):
        load_trial(path)


def test_a_trial_in_which_gamma_moved_nothing_is_refused(tmp_path):
    trial = wrong(move_nothing)
    trial["chosen"] = trial["choice"][1]["way"]["name"]
    trial["report"][1]["way"] = trial["choice"][1]["way"]
    path = tmp_path / "own.trial.json"
    path.write_text(json.dumps(trial), encoding="utf-8")
    with pytest.raises(ValueError, match="no γ changed an image, so γ acted nowhere"):
        load_trial(path)


def test_what_is_no_trial_is_refused_in_a_sentence(tmp_path):
    assert_only_its_own_files_are_read(load_trial, tmp_path / "own.trial.json", "trial", "Measure Your")


def test_every_damaged_value_is_refused_in_one_sentence_or_still_reads(tmp_path):
    """Each value of a good file is replaced by a bad one; what is accepted can still be told in words."""
    path = tmp_path / "own.trial.json"
    good, draw = trial_to_json(made_up_trial(1)), random.Random(0)

    def places(content, at=()):
        for key, value in content.items() if isinstance(content, dict) else enumerate(content):
            yield (*at, key)
            if isinstance(value, (dict, list)):
                yield from places(value, (*at, key))

    accepted = 0
    for *at, last in list(places(good))[draw.randrange(3) :: 3]:
        content = json.loads(json.dumps(good))
        inner = content
        for key in at:
            inner = inner[key]
        inner[last] = draw.choice([None, "x\ny", math.nan, 1e400, -1e300, [], {}, True, "../x"])
        path.write_text(json.dumps(content))
        with suppress(ValueError):  # and nothing else
            trial = load_trial(path)
            accepted += 1
            assert summary_of(trial)
            assert table_of(trial)
    assert accepted < 40


def test_prompts_are_in_the_file_only_where_they_were_given(tmp_path):
    trial = made_up_trial(0)
    assert trial_to_json(trial)["sampling"]["texts"] == []
    told = replace(trial, sampling=replace(trial.sampling, texts=("a red fox",)))
    save_trial(told, tmp_path / "own.trial.json")
    assert load_trial(tmp_path / "own.trial.json").sampling.texts == ("a red fox",)
