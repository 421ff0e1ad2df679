"""From numbers to pages: answers by rule on made-up numbers, the marks, the picture, and pages up to date."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy
import pytest
import torch

from lab.testbed.cost import Cost
from lab.testbed.networks import NETWORKS
from lab.testbed.pages import document
from lab.testbed.pages.__main__ import kept_numbers
from lab.testbed.pages.acting import parts_of
from lab.testbed.pages.answers import answers_of, at_equal
from lab.testbed.pages.picture import curve_of, frontier, save
from lab.testbed.pages.reading import Change, Numbers, in_words, spell
from lab.testbed.pages.sheet import SEEDS, rows_of, sheet
from lab.testbed.pages.tables import HEADLINE, headline
from lab.testing.made_up_numbers import five, made_up

pytestmark = pytest.mark.newest

HARMLESS = {name: (0.5, -0.3) for name in made_up().arms if name.startswith("γ")}


def answer(numbers: Numbers, number: int):
    return next(each for each in answers_of(numbers, {"unet": made_up()}) if each.number == number)


def with_pairs(*pairs: tuple[int, float, float]) -> Numbers:
    """Numbers with a pair for each question and (Fréchet, coverage) change."""
    numbers = made_up()
    rows = [
        {
            "question": question,
            "arm": "γ 2",
            "against": "CFG 3",
            "changes": {"frechet": five(fidelity), "coverage": five(diversity), "judge": five(0)},
        }
        for question, fidelity, diversity in pairs
    ]
    return replace(numbers, content={**numbers.content, "pairs": rows})


def test_a_gain_without_a_loss_is_a_yes():
    changed = HARMLESS | {"γ 1.5": (0.0, 0.1), "γ 2": (0.3, 0.2)}
    verdict = answer(made_up(changed), 1).verdict
    assert verdict.startswith("Yes. γ 1.5: Fréchet distance +0.0000")
    assert "also after correction for all arms" in verdict
    assert "1 of 15 settings do" in verdict


def test_a_gain_that_the_correction_takes_away_says_so():
    assert "but not after correction" in answer(made_up(HARMLESS | {"γ 1.5": (0.0, 0.03)}), 1).verdict


@pytest.mark.parametrize(("fidelity", "diversity"), [(0.0, 0.01), (0.3, 0.2), (-0.2, 0.0)])
def test_an_unsure_gain_and_a_trade_are_a_no(fidelity, diversity):
    assert answer(made_up(HARMLESS | {"γ 1.5": (fidelity, diversity)}), 1).verdict.startswith("No. None of 15 settings")


def test_less_distance_is_a_yes_of_the_second_question():
    assert answer(made_up(HARMLESS | {"γ 1.2": (-0.2, -0.01)}), 2).verdict.startswith("Yes. γ 1.2")


@pytest.mark.parametrize("question", [3, 5, 7])
def test_a_comparison_is_won_by_a_gain_without_a_loss(question):
    assert answer(with_pairs((question, -0.1, 0.0)), question).verdict.startswith("Yes.")
    assert answer(with_pairs((question, -0.1, -0.1)), question).verdict.startswith("No.")
    assert answer(with_pairs((question, 0.1, 0.0)), question).verdict.startswith("No.")
    assert answer(with_pairs(), question).verdict in (
        "This was not measured.",
        "The best rival was not drawn with γ on top of it.",
    )


def test_a_comparison_with_gains_and_losses_is_in_part_a_yes():
    won, lost = (3, -0.1, 0.0), (3, 0.1, 0.0)
    assert answer(with_pairs(won, won, lost), 3).verdict.startswith("In part.")
    assert answer(with_pairs(won, lost), 3).verdict.startswith("No.")


def test_opposite_signs_under_the_other_sampler_are_a_no():
    changed = {"γ 2": (-0.2, 0.1), "γ 2, ancestral": (0.2, 0.1)}
    assert answer(made_up(changed), 8).verdict.startswith("No.")
    same = {f"γ {gamma:g}{end}": (0.2, 0.1) for gamma in made_up_gammas() for end in ("", ", ancestral")}
    assert answer(made_up(same), 8).verdict.startswith("Yes. 9 of 9")


def made_up_gammas() -> list[float]:
    numbers = made_up()
    return [numbers.arms[name]["strength"] for name in numbers.of_knob("γ")]


def test_the_defaults_are_judged_by_both_measures():
    assert answer(made_up({"γ, β 3 1.05": (0.1, 0.0)}), 9).verdict.startswith("They harm.")
    assert answer(made_up({"γ, β 3 1.05": (0.0, 0.1)}), 9).verdict.startswith("They help.")
    assert answer(made_up({"γ, β 3 1.05": (0.1, 0.1)}), 9).verdict.startswith("They trade")
    assert answer(made_up({"γ, β 3 1.05": (0.0, 0.0)}), 9).verdict.startswith("They change neither")


def test_only_the_twin_answers_what_it_lost():
    assert {each.number for each in answers_of(made_up(network="twin"), {"unet": made_up()})} >= {11, 12}
    assert {each.number for each in answers_of(made_up(), {})} == set(range(1, 11))


def test_lower_is_better_for_a_distance_only():
    assert Change("frechet", *five(-0.1)).is_better
    assert Change("coverage", *five(-0.1)).is_worse
    assert not Change("coverage", *five(0.01)).is_significant
    assert not Change("coverage", *five(0.03)).is_significant_of_many


@pytest.mark.parametrize(
    ("numbers", "text"),
    [([0.9123, 0.8911, 0.9333], "+0.912 [+0.891, +0.933]"), ([-0.00001, -0.02, 0.02], "+0.0000 [−0.0200, +0.0200]")],
)
def test_changes_are_spelled_with_a_minus_and_without_minus_nought(numbers, text):
    assert spell(numbers, sign="+") == text


def test_a_network_without_numbers_leaves_its_section_out():
    short = document.pages({"unet": made_up()})[document.EVIDENCE]
    assert "## The UNet" in short
    assert "distilled twin" not in short.partition("<!-- testbed: dit -->")[2].partition("<!-- testbed: acting -->")[0]
    every = document.pages({name: made_up(network=name) for name in document.TITLES})[document.DETAILS]
    assert all(f"## {title}" in every for title in document.TITLES.values())


def test_a_page_says_how_many_settings_are_missing():
    whole = made_up()
    some = {name: row for name, row in whole.arms.items() if row["knob"] in ("plain", "γ", "CFG")}
    part = replace(whole, content={**whole.content, "arms": some})
    every = len(NETWORKS["unet"].arms)
    for page in document.pages({"unet": part}).values():
        assert f"So far {len(some)} of {every} settings have been drawn." in page


def test_every_arm_has_a_row_in_the_details():
    text = document.pages({"unet": made_up()})[document.DETAILS]
    for name in map(in_words, made_up().arms):
        assert text.count(f"\n| {name} |") + text.count(f"\n| **{name}** |") >= 2


def test_knobs_that_lose_are_named_under_the_headline():
    table = headline(made_up(), HEADLINE)
    rows, _, lost = table.partition("\n\n")
    assert "| **unpatched model** | 20 | 1.1 |" in rows
    assert "CADS" in lost
    assert "CADS" not in rows


def test_missing_marks_are_refused(monkeypatch, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("nothing here", encoding="utf-8")
    monkeypatch.setattr(document, "EVIDENCE", page)
    with pytest.raises(ValueError, match="are not all there"):
        document.pages({})


def test_a_curve_goes_through_the_plain_model():
    points = curve_of(made_up(), "γ").points
    assert ([0.0, 0.0, 0.0], [0.0, 0.0, 0.0]) in points
    assert len(points) == 10
    assert len(curve_of(made_up(), "APG").points) == 4  # no strength of it does nothing


def test_the_picture_is_drawn(tmp_path):
    save(frontier(made_up(), "made up"), tmp_path / "frontier.png")
    assert (tmp_path / "frontier.png").stat().st_size > 10_000


def test_the_sheet_has_a_row_for_each_arm():
    words = rows_of(made_up())
    page = numpy.asarray(sheet({name: torch.ones(SEEDS, 1, 28, 28) for name in words}, words))
    dark = (page < 5).all(axis=0) | (page[40:60] < 5).all(axis=0)
    assert dark.any()
    assert page.shape[0] > 59 * len(words)


def test_the_pages_are_those_of_the_committed_numbers():
    for path, text in document.pages(kept_numbers()).items():
        assert path.read_text(encoding="utf-8") == text, "run: python -m lab.testbed.pages"


def acting(change) -> dict[str, str]:
    """The verdict of each part on acting, by title, from the committed numbers after `change` altered them."""
    content = json.loads(document.ACTING.read_text(encoding="utf-8"))
    change(content)
    return {part.title: part.verdict for part in parts_of(content)}


def test_every_part_on_acting_has_its_tables():
    content = json.loads(document.ACTING.read_text(encoding="utf-8"))
    assert len(parts_of(content)) == 7
    for name in content["feedback"]["arms"]:
        assert f"| {name} |" in parts_of(content)[0].tables or "falls back" in name
    assert [part.title for part in parts_of({"shift": content["shift"]})] == ["The sentence on a shift"]


def test_feedback_that_wins_and_loses_is_named():
    def altered(content):
        first, second, *_ = content["feedback"]["arms"].values()
        first["less static"] |= {"frechet": [-0.2, -0.3, -0.1], "coverage": [0.0, -0.1, 0.1]}
        second["less static"] |= {"frechet": [0.2, 0.1, 0.3], "coverage": [0.0, -0.1, 0.1]}

    first, second, *_ = json.loads(document.ACTING.read_text(encoding="utf-8"))["feedback"]["arms"]
    verdict = acting(altered)["Feedback"]
    assert f"({first})" in verdict.partition("loses")[0]
    assert f"({second})" in verdict.partition("loses")[2]


def test_no_image_that_fell_back_is_no_error():
    def altered(content):
        found = content["feedback"]["falling back"]
        found["images"] = 0
        del found["fallen, less strong"], found["fallen, less plain"]

    assert acting(altered)["Fall back"] == "At γ 2, 0 of 520 images fell back."


def test_what_stability_tells_is_counted_after_correction():
    def altered(content):
        for row in content["correlations"]["ranks"].values():
            row["judge"] = [0.1, 0.01, 0.19, -0.02, 0.22]
        content["correlations"]["ranks"]["energy"]["density"] = [-0.5, -0.6, -0.4, -0.7, -0.3]

    verdict = acting(altered)["Stability and quality"]
    assert "0 with the judge" in verdict
    assert "is that of energy to the density, with a rank correlation of −0.500 [−0.600, −0.400] †." in verdict


def test_a_slider_that_falls_is_no_yes():
    def altered(content):
        content["slider"] |= {"whole way": [-0.1, -0.2, -0.05], "falls": 1}

    assert "seeds? No. From" in acting(altered)["The slider from precise to creative"]


def test_methods_that_are_equal_share_a_place():
    numbers = made_up()
    knobs = {name: dict(knob) for name, knob in numbers.content["knobs"].items()}
    for name in ("γ", *numbers.rivals):
        knobs[name]["dominated area"] = [0.5, 0.4, 0.6]
        knobs[name]["diversity at equal fidelity"] = [0.0 if name == "γ" else 0.1, 0.0, 0.2]
    others = len(numbers.rivals)
    verdict = answer(replace(numbers, content={**numbers.content, "knobs": knobs}), 4).verdict
    shared = f"{others} others" if others > 1 else "1 other"
    assert f"1st (with {shared}) in dominated area" in verdict
    assert f"γ is {others + 1}" in verdict
    assert "(with" not in verdict.split(" in diversity")[0]


def of_judge(numbers: Numbers, **judges: float) -> Numbers:
    """Numbers whose arms have these values of the judge, by the name of the arm with `_` for a space."""
    arms = {name: row | {"measures": dict(row["measures"])} for name, row in numbers.arms.items()}
    for name, value in judges.items():
        arms[name.replace("_", " ")]["measures"]["judge"] = [value, value - 0.01, value + 0.01]
    return replace(numbers, content={**numbers.content, "arms": arms})


def test_the_teacher_is_read_where_the_judge_is_as_sure_as_of_the_twin():
    """Between CFG 3 and the plain model, whose guidance is 4, where nothing else has the twin's value between it."""
    every = {arm.replace(" ", "_"): 0.5 for arm in made_up().of_knob("CFG")}
    teacher = of_judge(made_up(), **(every | {"plain_model": 0.9, "CFG_3": 0.8}))
    teacher.arms["CFG 3"]["measures"]["coverage"] = [0.3, 0.2, 0.4]
    assert at_equal(teacher, "judge", 0.85) == pytest.approx((3.5, 0.4))
    assert at_equal(teacher, "judge", 0.95) is None
    twin = of_judge(made_up(network="twin"), plain_model=0.85)
    verdict = next(each for each in answers_of(twin, {"unet": teacher}) if each.number == 11).verdict
    assert "show no loss" in verdict
    assert "at guidance 3.5, where the teacher would cover 0.400" in verdict


def test_a_twin_that_covers_less_has_lost_diversity():
    twin = made_up(network="twin")
    arms = {name: row | {"measures": dict(row["measures"])} for name, row in twin.arms.items()}
    arms["plain model"]["measures"]["coverage"] = [0.3, 0.29, 0.31]
    verdict = answer(replace(twin, content={**twin.content, "arms": arms}), 11).verdict
    assert "so the twin covers less." in verdict


def test_what_the_twin_gets_back_is_named_with_its_cost():
    changed = {name: (0.5, -0.3) for name in made_up().arms if ", ancestral" not in name and name != "plain model"}
    verdict = answer(made_up(changed | {"γ, last third 2": (0.0, 0.1)}, network="twin"), 12).verdict
    assert "The largest gain is that of γ, last third 2: Fréchet distance +0.0000" in verdict
    assert "Of the rivals 0 of" in verdict


def test_the_second_architecture_is_held_against_the_first():
    first = made_up(HARMLESS | {"γ 1.5": (0.0, 0.1), "γ 2": (-0.2, 0.0), "γ 3": (0.3, 0.0)})
    other = made_up(HARMLESS | {"γ 1.5": (0.0, 0.1), "γ 2": (0.2, 0.0), "γ 3": (0.3, 0.0)}, network="dit")
    told = next(each for each in answers_of(other, {"unet": first}) if each.number == 13)
    assert "1 (yes)" in told.verdict.partition("alike")[0]
    assert "2 (yes for the UNet, no here)" in told.verdict.partition("alike")[2]
    assert "in the same direction, all but γ 2." in told.verdict
    assert "γ 2: UNet −0.200" in told.because


def test_the_short_form_leaves_the_other_answers_to_the_details():
    pages = document.pages({name: made_up(network=name) for name in document.TITLES})
    dit = pages[document.EVIDENCE].partition("<!-- testbed: dit -->")[2].partition("<!-- end -->")[0]
    assert "13. **Which answers" in dit
    assert "5. **" not in dit
    assert "2,000 seeds a setting." in dit
    long = pages[document.DETAILS].partition("<!-- testbed: dit -->")[2].partition("<!-- end -->")[0]
    assert "**5. Does γ add" in long


def test_the_time_of_a_method_is_the_median_over_its_strengths():
    numbers = made_up()
    for name, cost in {"CFG 1": Cost(10, 0.5), "CFG 2": Cost(20, 1.3), "CFG 3": Cost(20, 0.9)}.items():
        numbers.costs[name] = cost
    assert numbers.time("CFG 1") == 0.5
    assert numbers.time("CFG 2") == 1.1, "the others of CFG take 1.1"


def test_what_is_chosen_of_ours_alone_has_a_row_and_no_false_sentence():
    """If no rival passes the rule, there are no pairs of chosen strengths."""
    numbers = made_up()
    chosen = {"γ, last third": {"arm": "γ, last third 0.5"}}
    alone = replace(numbers, content={**numbers.content, "chosen": chosen, "pairs": []})
    assert "| γ, last third 0.5 |" in headline(alone, HEADLINE)
    assert answer(alone, 4).verdict.endswith(
        "No setting of the rivals passed the rule of choice, so no chosen strengths are compared."
    )
    neither = replace(numbers, content={**numbers.content, "chosen": {}, "pairs": []})
    assert "No setting of ours passed" in answer(neither, 4).verdict
