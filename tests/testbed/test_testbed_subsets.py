"""Models of fewer training images: what is a copy and what a repeat, the numbers, and their section of the pages."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from scipy.stats import binomtest

from lab.evidence.bootstrap import halves, mean
from lab.testbed import subsets
from lab.testbed.data import Garments
from lab.testbed.draw import Source
from lab.testbed.measured import Reference
from lab.testbed.model import classes_of
from lab.testbed.pages import document
from lab.testbed.pages.subsets import answer, long_subsets, short_subsets
from lab.testbed.shape import CLASSES
from lab.testing.made_up_numbers import five

pytestmark = pytest.mark.newest


CLASS_COUNT = len(CLASSES)


def spread(count: int, seed: int, width: int = 3) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def far(one, others):
    return min(float((one - other).norm()) for other in others)


def others(points, place):
    return [point for number, point in enumerate(points) if number != place]


@given(seed=st.integers(0, 10**6), count=st.integers(2, 30), training=st.integers(1, 30))
def test_copies_are_those_of_a_plain_statement(seed, count, training):
    samples, learned = spread(count, seed), spread(training, seed + 2)
    labels, limit = classes_of(range(count)), spread(CLASS_COUNT, seed + 3, 1)[:, 0].abs()
    samples[0] = learned[0]
    found = subsets.copies(samples, labels, learned, limit)
    for place, sample in enumerate(samples):
        distance = far(sample, learned)
        if abs(distance - limit[labels[place]]) > 1e-3:  # else decided by rounding
            assert found[place] == (distance < limit[labels[place]])


def test_a_limit_is_that_of_the_class():
    labels = classes_of(range(2000))
    distances = torch.arange(2000) // CLASS_COUNT + 1000.0 * labels
    assert subsets.limits(distances, labels).tolist() == pytest.approx(
        [1000 * each + 1.99 for each in range(CLASS_COUNT)]
    )


def test_the_nearest_other_is_looked_for_within_the_block():
    test = torch.tensor([[0.0], [5.0], [5.1], [7.0]])
    assert subsets.distances_within_blocks(test, 2).tolist() == pytest.approx([5.0, 5.0, 1.9, 1.9])


def test_repeats_are_the_mean_of_a_plain_statement_over_the_halves():
    count = 40
    samples, labels, limit = spread(count, 1), classes_of(range(count)), torch.full((CLASS_COUNT,), 0.6)
    shares = [
        sum(far(half[place], others(half, place)) < 0.6 for place in range(len(half))) / len(half)
        for half in (samples[rows] for rows in halves(labels)[:25])
    ]
    found = subsets.repeats(samples, labels, limit)
    assert found.resampled[:25].tolist() == pytest.approx(shares)
    assert 0 < found.value < 1
    assert subsets.repeats(torch.zeros(count, 3), labels, limit).value == 1


@pytest.mark.parametrize(("came", "went"), [(0, 0), (4, 0), (5, 0), (6, 0), (7, 1), (9, 1), (30, 12)])
def test_a_change_is_significant_where_mcnemars_exact_test_says_so(came, went):
    before, after = torch.zeros(100, dtype=torch.bool), torch.zeros(100, dtype=torch.bool)
    after[:came] = True
    before[came : came + went] = True
    both = slice(90, 100)
    before[both] = after[both] = True
    value, low, high, wide_low, wide_high = subsets.change_of(after, before, many=48)
    p = binomtest(came, came + went).pvalue if came + went else 1.0
    assert value == pytest.approx((came - went) / 100)
    assert (low > 0 or high < 0) == (p < 0.05)
    assert (wide_low > 0 or wide_high < 0) == (p < 0.05 / 48)
    assert wide_low <= low <= value <= high <= wide_high


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    """A model whose samples are kept, made-up test images, and measures that need no classifier."""
    count, source = 20, Source(folder=tmp_path)
    source.place.mkdir()
    learned = (spread(30, 5, 784).sigmoid() * 255).round()
    for number, arm in enumerate(subsets.arms()):
        pixels = 255.0 * (spread(count, 7, 784) > 0)  # far from all
        pixels[: 2 * number] = learned[: 2 * number]  # so these are the copies
        save_file({"pixels": pixels.reshape(count, 1, 28, 28).to(torch.uint8)}, source.file(arm))
    labels = classes_of(range(400))
    pixels = (spread(400, 6, 784).sigmoid() * 255).to(torch.uint8)
    test = Garments(pixels.reshape(400, 28, 28), labels)

    def measured(source, arms, reference, processes):
        seeds = classes_of(range(count))
        return {
            arm.name: {"judge": mean(torch.rand(count), seeds), "drift": mean(torch.rand(count), seeds)} for arm in arms
        }

    monkeypatch.setattr(subsets, "measure_arms", measured)
    model = subsets.model_of(source, learned / 255, test, count)
    return model, Reference(tmp_path, "test", count, tmp_path, None)


def test_every_setting_has_its_copies_and_their_change(drawn):
    rows = subsets.numbers_of(*drawn, processes=0)
    assert list(rows) == list(subsets.ARMS)
    for number, row in enumerate(rows.values()):
        assert row["measures"]["copies"][0] == pytest.approx(number / 10)
        assert row["measures"]["repeats"][0] == 0
        assert ("changes" in row) == (number > 0)
        if number:
            assert row["changes"]["copies"][0] == pytest.approx(number / 10)
            assert row["copies"] == {"kept": 0, "lost": 0, "new": 2 * number}
            assert set(row["changes"]) == {"copies", "repeats", "judge", "drift"}


def test_the_command_names_the_subset_that_was_not_trained(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("sys.argv", ["subsets", "--weights", str(tmp_path)])
    with pytest.raises(SystemExit):
        subsets.main()
    assert (
        "The models of 100, 500, 5000 images are not there. Run lab.testbed.train --subset 100"
        in capsys.readouterr().err
    )


def made_up(changed: dict[str, float] | None = None) -> dict:
    """Numbers of two models; `changed` gives the change of copies of some settings of the first."""
    names = (
        "copies",
        "repeats",
        "frechet",
        "coverage",
        "judge",
        "kernel",
        "precision",
        "density",
        "recall",
        "vendi",
        "apart",
    )
    three, sizes = {name: [0.5, 0.4, 0.6] for name in names}, {}
    for size in ("500", "55000"):
        rows = {}
        for name in subsets.ARMS:
            changes = {each: five(0.0) for each in three}
            changes["copies"] = five((changed or {}).get(name, 0.0) if size == "500" else 0.0)
            drift = {"drift": [0.03, 0.02, 0.04]}
            moved = {"kept": 5, "lost": 3, "new": 1} if name != "γ 3" else {"kept": 6, "lost": 2, "new": 1}
            more = {} if name == subsets.ARMS[0] else {"changes": changes, "copies": moved}
            rows[name] = {"measures": three | (drift if more else {}), **more}
        sizes[size] = {"training steps": 3200, "arms": rows}
    return {"count": 40, "sizes": sizes}


def test_settings_that_copy_less_and_more_are_counted():
    text = answer(made_up({"γ 2": -0.2, "γ 0": 0.03, "CFG 2": -0.4}))
    assert "γ makes copies rarer in 1 of 6 settings and more frequent in 1, most at γ 2 (−0.200" in text
    assert "also after correction" in text
    assert "repeats rarer" not in text
    assert "No setting of γ changes either share" not in text
    assert "gives its images back" not in text
    assert "training images the settings of γ turn 2 to 3 into other images." in text
    assert "but not after correction" in answer(made_up({"γ 0": 0.03}))


def test_models_that_hardly_copy_leave_the_question_open():
    numbers = made_up()
    for model in numbers["sizes"].values():
        model["arms"][subsets.ARMS[0]]["measures"] |= {"copies": [0.02, 0.01, 0.04]}
    text = answer(numbers)
    assert "The share of copies is 2.0 % with 500" in text
    assert "turn" not in text
    assert "None of these models gives its images back" in text


def test_the_section_has_all_sizes_and_the_details_the_rivals():
    short, whole = short_subsets(made_up()), long_subsets(made_up())
    assert "| **55,000** | **unpatched model** |" in whole
    assert "|" not in short
    assert whole.count("CFG 2") == 4
    assert "3,200 with 500, 3,200 with 55,000 images" in whole
    assert "| 3 · 1 |" in whole


def test_the_pages_read_the_file_and_have_no_section_without_it(monkeypatch, tmp_path):
    monkeypatch.setattr(document, "SUBSETS", tmp_path / "subsets.json")
    assert "## Fewer training images" not in document.pages({})[document.EVIDENCE]
    (tmp_path / "subsets.json").write_text(json.dumps(made_up()), encoding="utf-8")
    for page in document.pages({}).values():
        assert page.count("## Fewer training images") == 1
