"""A trial that is sent in: checked, kept as it is, and a row of the page."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import pytest
from PIL import Image

from lab.evidence.add import (
    BEGIN,
    END,
    KEPT,
    NONE_YET,
    PAGE,
    README,
    TITLES,
    add,
    main,
    page_of,
    write_first_picture,
    write_page,
)
from lab.folders import ROOT
from lab.testing.made_up_trials import made_up_trial
from sad_core.evaluation.trial.result_file import SUFFIX, load_trial, save_trial, trial_to_json


@pytest.fixture
def folders(tmp_path):
    """A trial, and empty folders for what is kept."""
    for name in ("kept", "images"):
        (tmp_path / name).mkdir()
    save_trial(made_up_trial(2), tmp_path / "own.trial.json")
    return {"kept": tmp_path / "kept", "images": tmp_path / "images"}


def test_the_page_is_written_from_what_is_kept():
    text = PAGE.read_text(encoding="utf-8")
    rows = page_of(sorted(KEPT.glob(f"*{SUFFIX}")))
    assert text.count(BEGIN) == text.count(END) == 1
    assert f"{BEGIN}\n\n{rows}\n\n{END}" in text


def test_a_trial_is_kept_and_becomes_a_row(folders, tmp_path):
    target = add(tmp_path / "own.trial.json", **folders)
    trial = made_up_trial(2)
    assert target.name.startswith("checkpoint_2_")
    assert trial_to_json(load_trial(target)) == trial_to_json(trial)
    head, _, row = page_of([target], folders["images"]).split("\n")
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert len(cells) == len(TITLES) == head.count("|") - 1
    change = trial.best.row["distance_change"]
    assert cells[0] == "checkpoint 2 (Flux)"
    assert cells[2].startswith("12, after 4 to choose; prompts: 3 after 1, ")
    assert cells[3] == trial.chosen
    assert cells[4].startswith(f"**{change.value:.3g}** [{change.low:.3g}, {change.high:.3g}] of ")
    assert cells[8] == "× 1.05"
    with pytest.raises(ValueError, match=r"own\.trial\.json is there already, as checkpoint_2_"):
        add(tmp_path / "own.trial.json", **folders)


def test_the_first_sheet_becomes_the_first_picture_of_the_readme(folders, tmp_path):
    page = tmp_path / "README.md"
    page.write_text(README.read_text(encoding="utf-8"), encoding="utf-8")
    write_first_picture(folders["kept"], page, folders["images"])
    assert page.read_text(encoding="utf-8") == README.read_text(encoding="utf-8")
    Image.new("RGB", (3000, 500), "red").save(tmp_path / "sheet.png")
    target = add(tmp_path / "own.trial.json", tmp_path / "sheet.png", **folders)
    write_first_picture(folders["kept"], page, folders["images"])
    first, rest = page.read_text(encoding="utf-8").split("<!-- End of the picture. -->")
    name = f"docs/images/checkpoint_{target.name.removesuffix(SUFFIX)}.jpg"
    assert f"][{name}]\n\ncheckpoint 2: the same prompts and seeds, γ 1 above and" in first
    assert "01_start_here" not in first.partition("<!--")[2]
    assert (
        rest.partition("<!-- Written")[0]
        == README.read_text(encoding="utf-8").split("<!-- End of the picture. -->")[1].partition("<!-- Written")[0]
    )
    save_trial(made_up_trial(3), tmp_path / "own.trial.json")
    add(tmp_path / "own.trial.json", tmp_path / "sheet.png", **folders)
    before = page.read_text(encoding="utf-8")
    write_first_picture(folders["kept"], page, folders["images"])
    assert page.read_text(encoding="utf-8") == before


def test_a_sheet_is_made_small_and_shown_below_the_rows(folders, tmp_path):
    Image.new("RGB", (3000, 500), "red").save(tmp_path / "sheet.png")
    target = add(tmp_path / "own.trial.json", tmp_path / "sheet.png", **folders)
    (picture,) = folders["images"].iterdir()
    assert Image.open(picture).size == (900, 150)
    assert page_of([target], folders["images"]).endswith(f"](images/{picture.name})")
    (tmp_path / "sheet.png").write_bytes(b"no picture")
    save_trial(made_up_trial(3), tmp_path / "own.trial.json")
    with pytest.raises(ValueError, match=r"sheet\.png is not an image\. Give the sheet as it was saved, which ends in"):
        add(tmp_path / "own.trial.json", tmp_path / "sheet.png", **folders)
    assert len(list(folders["kept"].iterdir())) == 1  # nothing half added


@pytest.mark.parametrize("problem", [SyntaxError, Image.DecompressionBombError])
def test_a_sheet_that_cannot_be_opened_is_refused_in_a_sentence(folders, tmp_path, monkeypatch, problem):
    def refuse(path):
        raise problem

    monkeypatch.setattr(Image, "open", refuse)
    with pytest.raises(ValueError, match=r"own\.sheet\.jpg is not an image\. Give the sheet as it was saved"):
        add(tmp_path / "own.trial.json", tmp_path / "own.sheet.jpg", **folders)
    assert not list(folders["kept"].iterdir())


def test_the_same_numbers_under_another_name_are_no_other_trial(folders, tmp_path):
    add(tmp_path / "own.trial.json", **folders)
    save_trial(replace(made_up_trial(2), name="another", notes=("A note.",)), tmp_path / "other.trial.json")
    with pytest.raises(ValueError, match=r"other\.trial\.json is there already, as checkpoint_2_"):
        add(tmp_path / "other.trial.json", **folders)


def test_only_what_is_between_the_marks_is_written(folders, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n", encoding="utf-8")
    write_page(folders["kept"], page, folders["images"])
    assert page.read_text(encoding="utf-8") == f"before\n{BEGIN}\n\n{NONE_YET}\n\n{END}\nafter\n"


def test_a_wrong_trial_is_one_sentence_and_does_not_change_the_page(tmp_path, capsys):
    content = trial_to_json(made_up_trial(0))
    content["took"] = 1e-4
    (tmp_path / "own.trial.json").write_text(json.dumps(content), encoding="utf-8")
    before = PAGE.read_text(encoding="utf-8")
    assert main([str(tmp_path / "own.trial.json")]) == 1
    said = capsys.readouterr().err
    assert said.startswith("own.trial.json cannot be right: the times of the images add up to ")
    assert said.count("\n") == 1
    assert PAGE.read_text(encoding="utf-8") == before


def test_make_has_the_command():
    done = subprocess.run(
        ["make", "-n", "evidence-add", "FILE=own.trial.json", "SHEET=a.png", f"PYTHON={sys.executable}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert '-m lab.evidence.add "own.trial.json" --sheet "a.png"' in done.stdout
