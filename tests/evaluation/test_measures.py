"""The measures of a sweep in pixels, on images whose answer is known; tests/host has those in embeddings."""

from __future__ import annotations

import math

import pytest
import torch

from lab.evidence.measures.pairwise import apart, distances_among
from lab.evidence.measures.vendi import vendi
from lab.testing.sweep_images import column, contrast_sweep, noise_images, read_table
from sad_core.evaluation.diversity import student
from sad_core.evaluation.measures import PIXELS, LookedAt, measure_set, measure_sweep


def measured(images, gamma) -> list[dict[str, str]]:
    """The rows of the table."""
    return read_table(measure_sweep(images, gamma).to_csv())


@pytest.fixture
def sweep() -> tuple[list[torch.Tensor], list[float]]:
    return contrast_sweep()


def test_pixels_are_compared_and_the_table_says_so(sweep):
    rows = measured(*sweep)
    assert [row["gamma"] for row in rows] == ["0.5", "1", "2"]
    assert [row["n"] for row in rows] == ["4"] * 3
    assert all("pixels of 32×32 thumbnails" in row["features"] for row in rows)
    assert "agreement" not in rows[0]
    half, one, two = column(rows, "distance")
    assert half == pytest.approx(one / 2, rel=1e-4)  # distances grow as the contrast does
    assert two == pytest.approx(1.5 * one, rel=1e-4)


def test_a_report_knows_its_space_and_its_row_of_gamma_one(sweep):
    report = measure_sweep(*sweep)
    assert report.space is PIXELS
    assert report.neutral is report.rows[1]


def test_the_change_against_gamma_one_is_paired_by_seed(sweep):
    """Every distance grows by the same factor, so the change is surer than the two distances by themselves."""
    rows = measured(*sweep)
    last = {name: float(text) for name, text in rows[2].items() if name.startswith("distance")}
    assert last["distance_change"] == pytest.approx(last["distance"] / 3, rel=1e-3)
    assert last["distance_change_low"] > 0
    width = last["distance_high"] - last["distance_low"]
    assert last["distance_change_high"] - last["distance_change_low"] == pytest.approx(width / 3, rel=1e-3)
    assert [column(rows, "distance_change" + end)[1] for end in ("", "_low", "_high")] == [0.0, 0.0, 0.0]


def test_drift_and_guards_are_those_of_the_pixels(sweep):
    images, gamma = sweep
    rows = measured(images, gamma)
    want = [float((one - images[1]).square().mean(dim=(1, 2, 3)).sqrt().mean()) for one in images]
    assert column(rows, "pixel_drift") == pytest.approx(want, rel=1e-4)
    assert column(rows, "saturation") == pytest.approx([0.5, 1.0, 1.5], rel=1e-4)  # as the contrast
    assert column(rows, "high_frequency") == pytest.approx([0.25, 1.0, 2.25], rel=1e-4)  # an energy: its square
    assert column(rows, "clipped") == [0.0, 0.0, 0.0]
    white = [images[0], images[1], torch.ones_like(images[2])]
    assert column(measured(white, gamma), "clipped") == [0.0, 0.0, 1.0]


def test_rows_rise_in_gamma_whatever_the_order_of_the_sweep(sweep):
    images, gamma = sweep
    assert measured(images[::-1], gamma[::-1]) == measured(images, gamma)


def test_the_same_images_have_no_drift_and_a_vendi_score_of_one():
    same = noise_images("a", "a", "a")
    rows = measured([same, same], [1.0, 2.0])
    assert column(rows, "vendi") == pytest.approx([1.0, 1.0])
    assert column(rows, "distance") == column(rows, "drift") == [0.0, 0.0]


def test_gammas_run_several_times_are_taken_together():
    """The output of Gamma Sweep for several seeds: the images of each γ in the order of the seeds."""
    singles = [noise_images(name, contrast=contrast) for contrast in (0.6, 0.9) for name in ("a", "b", "c")]
    together = [noise_images("a", "b", "c", contrast=contrast) for contrast in (0.6, 0.9)]
    assert measured(singles, [1.0] * 3 + [2.0] * 3) == measured(together, [1.0, 2.0])


@pytest.mark.parametrize(
    ("images", "gamma", "message"),
    [
        ([noise_images("a")], [0.0, 1.0], "number of batches is 1 and the number of gammas is 2"),
        ([noise_images("a"), noise_images("a", size=(4, 6))], [0.0, 1.0], "but there are 6×4, 24×20 pixels"),
    ],
)
def test_runs_that_do_not_belong_together_are_refused(images, gamma, message):
    with pytest.raises(ValueError, match=message):
        measure_sweep(images, gamma)


# --- what may be missing


def test_one_image_leaves_diversity_empty():
    rows = measured([noise_images("a"), noise_images("b")], [1.0, 2.0])
    assert column(rows, "vendi") == column(rows, "distance") == [None, None]
    assert column(rows, "drift")[1] > 0
    assert column(rows, "drift_low") == [None, None]


def test_two_images_have_a_distance_and_no_interval():
    rows = measured([noise_images("a", "b"), noise_images("c", "d")], [1.0, 2.0])
    assert all(number > 0 for number in column(rows, "distance"))
    assert column(rows, "distance_low") == column(rows, "vendi_low") == [None, None]


def test_without_gamma_one_there_is_diversity_and_no_drift():
    rows = measured([noise_images("a", "b", "c"), noise_images("d", "e", "f")], [0.5, 2.0])
    assert all(number > 0 for number in column(rows, "distance"))
    for name in ("distance_change", "drift", "pixel_drift", "saturation", "high_frequency"):
        assert column(rows, name) == [None, None]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_broken_image_is_left_out_and_counted(sweep, bad):
    images, gamma = [each.clone() for each in sweep[0]], sweep[1]
    images[2][1, 3, 3, 0] = bad
    rows = measured(images, gamma)
    assert [row["broken"] for row in rows] == ["0", "0", "1"]
    assert [row["n"] for row in rows] == ["4", "4", "3"]
    whole = [0, 2, 3]  # its seed is left out of γ = 1 as well, where the two are compared
    without = measured([each[whole] for each in images], gamma)
    for name in ("distance", "vendi", "distance_change", "drift", "pixel_drift", "high_frequency", "saturation"):
        assert rows[2][name] == without[2][name], name


def test_a_seed_broken_at_gamma_one_is_compared_nowhere(sweep):
    images, gamma = [each.clone() for each in sweep[0]], sweep[1]
    images[1][0, 0, 0, 0] = math.nan
    rows = measured(images, gamma)
    assert rows[2]["n"] == "4"
    without = measured([each[1:] for each in images], gamma)
    for name in ("distance_change", "drift", "pixel_drift", "high_frequency", "saturation"):
        assert rows[2][name] == without[2][name] != "", name


def test_all_broken_is_no_error():
    broken = torch.full((2, 20, 24, 3), math.nan)
    assert [row["n"] for row in measured([broken, broken], [1.0, 2.0])] == ["0", "0"]


def test_gammas_with_different_numbers_of_images_are_paired_by_index():
    images = [noise_images("a", "b", "c", "d"), noise_images("e", "f", "g")]
    rows = measured(images, [1.0, 2.0])
    assert [row["n"] for row in rows] == ["4", "3"]
    want = (images[1] - images[0][:3]).square().mean(dim=(1, 2, 3)).sqrt().mean()
    assert column(rows, "pixel_drift")[1] == pytest.approx(float(want), rel=1e-4)


# --- agreement


def test_agreement_is_a_column_or_a_sentence_that_says_why_not(sweep):
    widths = []

    def vector(width: int) -> torch.Tensor:
        widths.append(width)
        return torch.ones(width)

    found = measure_sweep(*sweep, prompt=vector)
    assert widths == [3 * 32 * 32]
    assert all(math.isfinite(number) for number in column(read_table(found.to_csv()), "agreement"))
    assert found.no_agreement is None
    missing = measure_sweep(*sweep, prompt=lambda width: "There is none.")
    assert "agreement" not in missing.columns
    assert missing.no_agreement == "There is none."


# --- several prompts

PROMPTS = [0, 1, 0, 1, 0, 1, 0, 1, 0]


def looked_at(contrast: float) -> LookedAt:
    """Nine images of two prompts, whose images differ in their grey."""
    images = noise_images(*"abcdefghi", contrast=contrast)
    shift = torch.tensor(PROMPTS)[:, None, None, None] * 0.1
    return LookedAt.of(list(images + shift), PROMPTS, PIXELS)


def test_pairs_are_those_of_one_prompt_as_on_the_test_bed():
    """The numbers are those of the code behind docs/evidence_emoji.md, on the same images."""
    before, found = looked_at(0.4), looked_at(0.8)
    row = measure_set(2.0, found, before, PIXELS)
    labels, everyone = torch.tensor(PROMPTS), torch.arange(9)
    features = found.features.double()
    per_pixel = features.shape[1] ** 0.5

    def lab_distance(images: torch.Tensor) -> float:
        return apart(distances_among(images.double(), cosine=False), labels)(everyone) / per_pixel

    assert row["distance"].value == pytest.approx(lab_distance(features), rel=1e-9)
    change = lab_distance(features) - lab_distance(before.features)
    assert row["distance_change"].value == pytest.approx(change, rel=1e-9)
    blocks = [vendi(features, labels, size)(everyone[labels == name]) for name, size in ((0, 5), (1, 4))]
    assert row["vendi"].value == pytest.approx(sum(blocks) / 2, rel=1e-9)
    moved = torch.stack(found.images) - torch.stack(before.images)
    assert row["pixel_drift"].value == pytest.approx(float(moved.square().mean(dim=(1, 2, 3)).sqrt().mean()), rel=1e-5)


def test_the_interval_over_several_prompts_is_that_of_each_by_itself():
    """Means over independent sets: their variances add up; one image is left out after the other."""
    found, before = looked_at(0.8), looked_at(0.4)
    row = measure_set(2.0, found, before, PIXELS)
    variance = 0.0
    for name in (0, 1):
        own = [index for index, prompt in enumerate(PROMPTS) if prompt == name]
        one, other = (
            LookedAt.of([each.images[index] for index in own], [0] * len(own), PIXELS) for each in (found, before)
        )
        alone = measure_set(2.0, one, other, PIXELS)["distance_change"]
        variance += ((alone.high - alone.low) / 2 / student(len(own) - 1)) ** 2 / 4
    reach = student(9 - 2) * variance**0.5
    assert (row["distance_change"].high - row["distance_change"].low) / 2 == pytest.approx(reach, rel=1e-9)


def test_the_interval_of_a_mean_over_several_prompts_is_that_of_strata():
    """The variance of Σ (n_g/N)·mean_g is Σ (n_g/N)²·s_g²/n_g."""
    found, before = looked_at(0.8), looked_at(0.4)
    row = measure_set(2.0, found, before, PIXELS)
    moved = (torch.stack(found.images) - torch.stack(before.images)).square().mean(dim=(1, 2, 3)).sqrt().double()
    strata = [moved[torch.tensor(PROMPTS) == name] for name in (0, 1)]
    variance = sum(float((len(own) / len(moved)) ** 2 * own.var() / len(own)) for own in strata)
    reach = student(len(moved) - 2) * variance**0.5
    assert row["pixel_drift"].high - row["pixel_drift"].value == pytest.approx(reach, rel=1e-4)


def test_a_prompt_with_too_few_whole_images_is_left_out():
    found, before = looked_at(0.8), looked_at(0.4)
    own = [index for index, prompt in enumerate(PROMPTS) if prompt == 0]
    for index, prompt in enumerate(PROMPTS):
        if prompt == 1 and index != 1:
            found.images[index][0, 0, 0] = math.nan
    spoiled = LookedAt.of(found.images, PROMPTS, PIXELS)
    row = measure_set(2.0, spoiled, before, PIXELS)
    one, other = (
        LookedAt.of([each.images[index] for index in own], [0] * len(own), PIXELS) for each in (found, before)
    )
    alone = measure_set(2.0, one, other, PIXELS)
    assert row["distance_change"].value == pytest.approx(alone["distance_change"].value, rel=1e-9)
    assert row["distance_change"].has_interval


def test_an_image_agrees_with_its_own_prompt():
    found = looked_at(0.8)
    texts = torch.stack([found.features[0], found.features[1]])
    cosine = torch.nn.functional.cosine_similarity(found.features.double(), texts[PROMPTS].double(), dim=1)
    row = measure_set(2.0, found, None, PIXELS, texts)
    assert row["agreement"].value == pytest.approx(float(cosine.mean()), rel=1e-6)
