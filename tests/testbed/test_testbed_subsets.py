"""Models of fewer training images: what is a copy and what a repeat, the numbers, and their section of the pages."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from lab.evidence.bootstrap import mean
from lab.testbed import subsets
from lab.testbed.data import Garments
from lab.testbed.draw import Source
from lab.testbed.measured import Reference
from lab.testbed.model import classes_of
from lab.testbed.pages.subsets import answer, long_subsets, rows_of, short_subsets
from lab.testing.made_up_numbers import five

pytestmark = pytest.mark.newest


def spread(count: int, seed: int, width: int = 3) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


@given(seed=st.integers(0, 10**6), count=st.integers(2, 30), training=st.integers(1, 30))
def test_kinds_are_those_of_a_plain_statement(seed, count, training):
    samples, test, learned = spread(count, seed), spread(count, seed + 1), spread(training, seed + 2)
    samples[0] = learned[0]
    samples[-1] = samples[0] + 1e-3

    def far(one, others):
        return min(float((one - other).norm()) for other in others)

    def others(points, place):
        return [point for number, point in enumerate(points) if number != place]

    limit = torch.tensor([far(one, learned) for one in test], dtype=torch.float64).quantile(0.01)
    among = torch.tensor([far(one, others(test, place)) for place, one in enumerate(test)]).double().quantile(0.01)
    found = subsets.kinds(samples, test, learned)
    for place, sample in enumerate(samples):
        near, apart = far(sample, learned), far(sample, others(samples, place))
        if abs(near - limit) < 1e-3 or abs(apart - among) < 1e-3:
            continue  # decided by rounding
        assert found["copies"][place] == (near < limit)
        assert found["repeats"][place] == (near >= limit and apart < among)


def test_images_given_back_are_copies_and_one_image_for_all_repeats():
    test, learned = spread(200, 1), spread(50, 2)
    assert subsets.kinds(learned[:40], test[:40], learned)["copies"].mean() == 1
    fallen = torch.full((40, 3), 9.0)
    assert subsets.kinds(fallen, test[:40], learned)["repeats"].mean() == 1
    fresh = subsets.kinds(spread(200, 3), test, learned)
    assert float((fresh["copies"] + fresh["repeats"]).mean()) < 0.06


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    """A source whose samples are kept, made-up test images, and measures that need no classifier."""
    count, source = 20, Source(folder=tmp_path)
    source.place.mkdir()
    learned = (spread(30, 5, 784).sigmoid() * 255).round()
    for number, arm in enumerate(subsets.arms()):
        pixels = learned[:count].clone()
        pixels[number:] = 255.0 * (
            spread(count - number, 7, 784) > 0
        )  # far from all, so only the first `number` are copies
        save_file({"pixels": pixels.reshape(count, 1, 28, 28).to(torch.uint8)}, source.file(arm))
    test = Garments(
        (spread(count, 6, 784).sigmoid() * 255).to(torch.uint8).reshape(count, 28, 28), classes_of(range(count))
    )
    monkeypatch.setattr(subsets, "real_of", lambda reference: test)
    measures = {arm.name: {"judge": mean(torch.rand(count), classes_of(range(count)))} for arm in subsets.arms()}
    monkeypatch.setattr(subsets, "measure_arms", lambda source, arms, reference, processes: measures)
    return source, Reference(tmp_path, "test", count, tmp_path, None), learned / 255


def test_every_setting_has_its_copies_and_their_change(drawn):
    rows = subsets.numbers_of(*drawn, processes=0)
    assert list(rows) == list(subsets.ARMS)
    for number, row in enumerate(rows.values()):
        assert row["measures"]["copies"][0] == pytest.approx(number / 20)
        assert ("changes" in row) == (number > 0)
        if number:
            assert row["changes"]["copies"][0] == pytest.approx(number / 20)
            assert set(row["changes"]) == {"copies", "repeats", "judge"}


def test_the_command_names_the_subset_that_was_not_trained(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("sys.argv", ["subsets", "--weights", str(tmp_path)])
    with pytest.raises(SystemExit):
        subsets.main()
    assert "The model of 500 images is not there. Train it first: " in capsys.readouterr().err


def made_up(changed: dict[str, float] | None = None) -> dict:
    """Numbers of two models; `changed` gives the change of copies of some settings of the first."""
    three = {name: [0.5, 0.4, 0.6] for name in ("copies", "repeats", "frechet", "coverage", "judge", "kernel")}
    three |= {name: [0.5, 0.4, 0.6] for name in ("precision", "density", "recall", "vendi", "apart")}
    sizes = {}
    for size in ("500", "55000"):
        rows = {}
        for name in subsets.ARMS:
            changes = {each: five(0.0) for each in three}
            changes["copies"] = five((changed or {}).get(name, 0.0) if size == "500" else 0.0)
            rows[name] = {"measures": three} | ({} if name == subsets.ARMS[0] else {"changes": changes})
        sizes[size] = {"images seen in training": 3200, "arms": rows}
    return {"count": 40, "sizes": sizes}


def test_settings_that_copy_less_and_more_are_counted():
    text = answer(made_up({"γ 2": -0.2, "γ 0": 0.1, "CFG 2": -0.4}))
    assert "γ makes copies rarer in 1 of 6 settings and more frequent in 1." in text
    assert "The largest change is that of γ 2: −0.200" in text
    assert text.count("rarer in 0 of 6") == 3  # repeats of the first, both kinds of the second


def test_the_section_has_all_sizes_and_the_details_the_rivals():
    short, whole = short_subsets(made_up()), long_subsets(made_up())
    assert "| **55,000** | **unpatched model** |" in short
    assert "CFG 2" not in rows_of(made_up(), {"copies": "copies"}, only_gamma=True)
    assert whole.count("CFG 2") == 4
    assert "500 images: 3,200, 55,000 images: 3,200" in short


def test_without_numbers_there_is_no_section():
    assert short_subsets({}) == long_subsets({}) == ""
