"""Diversity and Fidelity Report: its sentences, its plot, and its measures with a real CLIP vision class.

tests/evaluation has the measures in pixels.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import comfy.clip_vision
import comfy.model_management
import pytest
import torch
from matplotlib.axes import Axes
from symmetric_attention.nodes.diversity_report import DiversityReportNode, measure, space_of
from symmetric_attention.nodes.diversity_summary import summarise
from symmetric_attention.nodes.host import clip_vision as host_clip_vision
from symmetric_attention.nodes.host import memory
from symmetric_attention.sad_core.evaluation.measures import measure_sweep

from lab.testing.families.family import draw
from lab.testing.run_nodes import execute
from lab.testing.sweep_images import column, contrast_sweep, noise_images, read_table
from lab.testing.vision_models import HIDDEN, SIGLIP, WIDTH, tiny_clip_vision

TEXT = 24  # width of the tokens of a text


@pytest.fixture(scope="module")
def vision() -> comfy.clip_vision.ClipVisionModel:
    return tiny_clip_vision()


def conditioning(width: int = WIDTH, tokens: int = TEXT) -> list:
    return [[draw("tokens", (1, 5, tokens)), {"pooled_output": draw("pooled", (1, width))}]]


def report(images, gamma, **inputs) -> tuple[list[dict[str, str]], str]:
    """The lines of the table and the summary; optional inputs come in as lists, as the host gives them."""
    found = measure(images, gamma, **{name: [value] for name, value in inputs.items()})
    return read_table(found.to_csv()), summarise(found)


def plot(images, gamma, **inputs) -> torch.Tensor:
    """Return the node's picture."""
    wired = {name: [value] for name, value in inputs.items()}
    return execute(DiversityReportNode, images=images, gamma=gamma, **wired)[0]


@pytest.fixture
def sweep() -> tuple[list[torch.Tensor], list[float]]:
    return contrast_sweep()


# --- in sentences


def test_without_clip_vision_pixels_are_compared_and_the_summary_says_so(sweep):
    lines, summary = report(*sweep)
    assert all("pixels of 32×32 thumbnails" in line["features"] for line in lines)
    assert "pixels of 32×32 thumbnails" in summary
    assert "agreement" not in lines[0]


def test_rows_rise_in_gamma_whatever_the_order_of_the_sweep(sweep):
    images, gamma = sweep
    assert report(images[::-1], gamma[::-1]) == report(images, gamma)


def test_the_summary_says_which_gamma_was_most_diverse_and_at_what_cost(sweep):
    lines, summary = report(*sweep)
    assert f"γ = 2 was the most diverse: two of its images lie {float(lines[2]['distance']):.3g}" in summary
    assert "high-frequency energy is 2.25" in summary
    assert "n = 4 images of each γ" in summary
    assert "quality" not in summary.lower()
    images, gamma = sweep
    assert "No other γ of this sweep was more diverse than the unpatched model" in report(images[:2], gamma[:2])[1]


def test_a_sure_change_names_how_many_gammas_it_was_chosen_among(sweep):
    images, gamma = sweep
    broken = torch.full_like(images[0], math.nan)  # a gamma that could not be chosen
    for summary in (report(images, gamma)[1], report([*images, broken], [*gamma, 3.0])[1]):
        assert "more than at γ = 1, and the interval excludes 0. But γ = 2 was chosen" in summary
        assert "the most diverse of 3 values of γ, and one in twenty such intervals excludes 0 by chance" in summary
        assert "run γ = 1 and 2 with new seeds." in summary


def test_a_change_within_the_luck_of_the_seeds_is_called_so():
    images = [noise_images("a", "b", "c", "d"), noise_images("e", "f", "g", "h")]  # nothing but other pictures
    lines, summary = report(images[::-1], [1.0, 2.0])
    low, change, high = (column(lines, "distance_change" + end)[1] for end in ("_low", "", "_high"))
    assert low < 0 < change < high
    assert "which may be chance." in summary
    assert "leaves out 0" not in summary


def test_equal_images_of_one_gamma_are_said():
    same = noise_images("a", "a", "a")
    _, summary = report([same, same], [1.0, 2.0])
    assert "At γ = 1, 2 some images are identical." in summary
    assert "wire seed of Gamma Sweep (SAD) into the sampler" in summary


# --- what may be missing


def test_a_sweep_that_gamma_did_not_move_is_said_and_not_measured():
    """The sampler has the unpatched model, or Skew Attention is bypassed."""
    plain = torch.rand(4, 16, 16, 3)
    _, summary = report([plain, plain, plain], [0.5, 1.0, 2.0])
    assert summary.startswith(
        "γ changed no image of this sweep: the images of every γ equal those of the same seeds at γ = 1."
    )
    assert "was the most diverse" not in summary
    moved = plain.clone()
    moved[3, 0, 0, 0] = 1.0
    for images in ([plain, plain, moved], [moved, plain, plain]):
        assert "was the most diverse" in report(images, [0.5, 1.0, 2.0])[1]
    assert "γ changed no image" not in report([plain], [1.0])[1]


def test_one_image_has_no_diversity_and_the_summary_says_why():
    _, summary = report([noise_images("a"), noise_images("b")], [1.0, 2.0])
    assert "Diversity needs two or more images of each γ" in summary


def test_two_images_have_no_interval_and_the_summary_says_why():
    _, summary = report([noise_images("a", "b"), noise_images("c", "d")], [1.0, 2.0])
    assert "Intervals of diversity need three or more images" in summary
    assert "may be chance" in summary or "No other γ" in summary


def test_without_gamma_one_the_summary_asks_for_it():
    _, summary = report([noise_images("a", "b", "c"), noise_images("d", "e", "f")], [0.5, 2.0])
    assert "Add 1 to the gammas of the sweep" in summary


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_broken_image_is_said(sweep, bad):
    images, gamma = [each.clone() for each in sweep[0]], sweep[1]
    images[2][1, 3, 3, 0] = bad
    assert "1 image with NaN or infinite numbers was left out, at γ = 2." in report(images, gamma)[1]


def test_only_broken_pictures_leave_a_row_empty(vision):
    images = [noise_images("a", "b", "c"), torch.full((3, 20, 24, 3), math.nan)]
    for inputs in ({}, {"clip_vision": vision}):
        lines, summary = report(images, [1.0, 2.0], **inputs)
        assert (lines[1]["n"], lines[1]["broken"], lines[1]["distance"], lines[1]["clipped"]) == ("0", "3", "", "")
        assert "3 images with NaN or infinite numbers were left out, at γ = 2." in summary


def test_all_broken_is_no_error():
    broken = torch.full((2, 20, 24, 3), math.nan)
    _, summary = report([broken, broken], [1.0, 2.0])
    assert "4 images with NaN or infinite numbers were left out, at γ = 1, 2." in summary


def test_different_numbers_of_images_are_said():
    _, summary = report([noise_images("a", "b", "c", "d"), noise_images("e", "f", "g")], [1.0, 2.0])
    assert "different numbers of images. Compare their distances" in summary


def test_gammas_run_several_times_are_taken_together():
    """The output of Gamma Sweep for several seeds: the images of each γ in the order of the seeds."""
    singles = [noise_images(name, contrast=contrast) for contrast in (0.6, 0.9) for name in ("a", "b", "c")]
    together = [noise_images("a", "b", "c", contrast=contrast) for contrast in (0.6, 0.9)]
    assert report(singles, [1.0] * 3 + [2.0] * 3) == report(together, [1.0, 2.0])


def test_runs_that_do_not_belong_together_are_refused():
    with pytest.raises(ValueError, match="number of batches is 1 and the number of gammas is 2"):
        report([noise_images("a")], [0.0, 1.0])


# --- in the embeddings of the host's CLIP vision


def test_embeddings_are_those_of_the_host_whatever_the_chunks(vision, sweep):
    pictures = [picture for images in sweep[0] for picture in images]
    assert len(pictures) > host_clip_vision.AT_ONCE
    got = host_clip_vision.embed(vision, pictures)
    want = vision.encode_image(torch.stack(pictures))["image_embeds"]
    assert got.shape == (len(pictures), WIDTH)
    assert not got.requires_grad
    torch.testing.assert_close(got, want.detach(), rtol=0, atol=1e-4)


def test_distances_are_cosines_of_the_embeddings(vision, sweep):
    lines, summary = report(*sweep, clip_vision=vision)
    embeddings = vision.encode_image(sweep[0][2])["image_embeds"].detach().double()
    unit = embeddings / embeddings.norm(dim=1, keepdim=True)
    pairs = [float(1 - unit[i] @ unit[j]) for i in range(4) for j in range(i)]
    assert column(lines, "distance")[2] == pytest.approx(sum(pairs) / len(pairs), rel=1e-3)
    assert column(lines, "pixel_drift") == column(report(*sweep)[0], "pixel_drift")
    assert f"hidden {HIDDEN}; centre square at 28 px" in summary
    assert all("1 − cosine" in line["features"] for line in lines)


@pytest.mark.parametrize("most", [1, 3])
def test_where_memory_runs_out_fewer_pictures_go_at_once(vision, sweep, most, monkeypatch):
    pictures = [picture for images in sweep[0] for picture in images]
    want = host_clip_vision.embed(vision, pictures)
    real, sizes = vision.encode_image, []

    def small(images):
        sizes.append(len(images))
        if len(images) > most:
            raise comfy.model_management.OOM_EXCEPTION("out of memory")
        return real(images)

    monkeypatch.setattr(vision, "encode_image", small)
    torch.testing.assert_close(host_clip_vision.embed(vision, pictures), want, rtol=0, atol=1e-4)
    assert sizes[0] == host_clip_vision.AT_ONCE
    assert sum(size for size in sizes if size <= most) == len(pictures)


@pytest.mark.parametrize("error", [comfy.model_management.OOM_EXCEPTION("out of memory"), ValueError("other")])
def test_other_errors_and_no_memory_at_all_come_through(vision, sweep, error, monkeypatch):
    def refuse(images):
        raise error

    monkeypatch.setattr(vision, "encode_image", refuse)
    with pytest.raises(type(error), match=str(error)):
        report(*sweep, clip_vision=vision)


@pytest.mark.parametrize("all_alike", [False, True], ids=["host tells them apart", "host does not"])
def test_an_error_other_than_memory_is_raised_at_once(vision, sweep, all_alike, monkeypatch):
    if all_alike:  # as the host does where it knows no error for memory
        for module in (comfy.model_management, memory):
            monkeypatch.setattr(module, "OOM_EXCEPTION", Exception)
    sizes = []

    def refuse(images):
        sizes.append(len(images))
        raise ValueError("other")

    monkeypatch.setattr(vision, "encode_image", refuse)
    with pytest.raises(ValueError, match="other"):
        report(*sweep, clip_vision=vision)
    assert len(sizes) == 1


def test_a_model_with_an_embedding_for_every_patch_is_averaged(sweep):
    siglip = tiny_clip_vision(**SIGLIP)
    got = host_clip_vision.embed(siglip, list(sweep[0][0]))
    patches = siglip.encode_image(sweep[0][0])["image_embeds"].detach()
    assert patches.shape == (4, 4, WIDTH)
    torch.testing.assert_close(got, patches.mean(dim=1), rtol=0, atol=1e-4)


def test_a_user_can_stop_it(vision, sweep):
    comfy.model_management.interrupt_current_processing()
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        report(*sweep, clip_vision=vision)


# --- agreement with the prompt


@pytest.fixture
def trained_together(monkeypatch) -> None:
    """The tiny vision model and texts with tokens of width TEXT, as if they had been."""
    monkeypatch.setitem(host_clip_vision.TRAINED_TOGETHER, (HIDDEN, WIDTH), (TEXT,))


@pytest.mark.usefixtures("trained_together")
def test_agreement_is_the_cosine_of_picture_and_prompt(vision, sweep):
    prompt = conditioning()
    lines, summary = report(*sweep, clip_vision=vision, conditioning=prompt)
    text = prompt[0][1]["pooled_output"][0].double()
    for images, got in zip(sweep[0], column(lines, "agreement"), strict=True):
        embeddings = vision.encode_image(images)["image_embeds"].detach().double()
        want = torch.nn.functional.cosine_similarity(embeddings, text[None]).mean()
        assert got == pytest.approx(float(want), rel=1e-3)
    assert all(column(lines, "agreement_low"))
    assert "Agreement" not in summary


PLAIN_TEXT = [[torch.zeros(1, 5, TEXT), {}]]
ZERO_TEXT = [[torch.zeros(1, 5, TEXT), {"pooled_output": torch.zeros(1, WIDTH)}]]


@pytest.mark.usefixtures("trained_together")
@pytest.mark.parametrize(
    ("prompt", "why"),
    [
        (
            conditioning(width=WIDTH + 1),
            "not known to share an embedding space (pooled text 17 wide, image embeddings 16)",
        ),
        (
            conditioning(tokens=TEXT + 1),
            "not known to share an embedding space",
        ),  # another text encoder of the same width
        (conditioning() * 2, "conditioning holds more than one prompt"),
        (PLAIN_TEXT, "conditioning has no pooled text"),
        (ZERO_TEXT, "conditioning has no pooled text"),
    ],
    ids=["width", "tokens", "two prompts", "no pooled text", "zeros"],
)
def test_without_a_text_in_its_space_there_is_a_sentence_no_column(vision, sweep, prompt, why):
    lines, summary = report(*sweep, clip_vision=vision, conditioning=prompt)
    assert "agreement" not in lines[0]
    assert why in summary


@pytest.mark.usefixtures("trained_together")
def test_without_clip_vision_or_with_another_kind_there_is_no_agreement(sweep):
    assert "needs a CLIP_VISION" in report(*sweep, conditioning=conditioning())[1]
    siglip = tiny_clip_vision(**SIGLIP)
    assert "not known to share an embedding space" in report(*sweep, clip_vision=siglip, conditioning=conditioning())[1]


@pytest.mark.parametrize(("letter", "tokens"), [("g", 2048), ("h", 1024)])
def test_pairs_trained_together_are_those_of_the_hosts_configurations(letter, tokens):
    path = Path(comfy.clip_vision.__file__).with_name(f"clip_vision_config_{letter}.json")
    config = json.loads(path.read_text(encoding="utf-8"))
    assert tokens in host_clip_vision.TRAINED_TOGETHER[config["hidden_size"], config["projection_dim"]]


def test_the_text_of_a_clip_l_is_in_no_shared_space():
    """SD1.5, Flux and others give a CONDITIONING as wide as CLIP vision L, but ComfyUI does not project it."""
    path = Path(comfy.clip_vision.__file__).with_name("clip_vision_config_vitl.json")
    config = json.loads(path.read_text(encoding="utf-8"))
    assert (config["hidden_size"], config["projection_dim"]) not in host_clip_vision.TRAINED_TOGETHER


# --- the picture


BROKEN = torch.full((3, 20, 24, 3), math.nan)


@pytest.mark.newest
@pytest.mark.parametrize(
    ("images", "gamma"),
    [
        ([noise_images("a", "b", "c"), noise_images("d", "e", "f"), noise_images("g", "h", "i")], [0.5, 1.0, 2.0]),
        ([noise_images("a", "b", "c")], [1.0]),
        ([noise_images("a")] * 2, [1.0, 2.0]),
        ([noise_images("a", "b")] * 2, [0.5, 2.0]),
        ([noise_images("a", "b", "c"), BROKEN], [1.0, 2.0]),
        ([BROKEN, BROKEN], [1.0, 2.0]),
    ],
    ids=["a sweep", "only the plain model", "one seed", "two seeds without gamma 1", "broken", "all broken"],
)
def test_the_plot_is_1024_wide_and_shows_something(images, gamma):
    drawn = plot(images, gamma)
    assert drawn.shape[0] == 1
    assert drawn.shape[2:] == (1024, 3)
    assert drawn.min() >= 0
    assert drawn.max() <= 1
    assert (drawn < 0.9).any(dim=-1).sum() > 1000


@pytest.mark.newest
def test_gammas_close_to_each_other_leave_the_room_to_one(monkeypatch):
    numbered: set[tuple[float, ...]] = set()
    monkeypatch.setattr(Axes, "set_xticks", lambda self, ticks, labels=None: numbered.add(tuple(sorted(ticks))))
    plot([noise_images("a", "b")] * 6, [0.0, 0.98, 1.0, 1.05, 1.5, 2.0])
    assert numbered == {(0.0, 1.0, 1.5, 2.0)}


@pytest.mark.newest
def test_the_plot_changes_with_the_numbers(vision, sweep):
    plain = plot(*sweep)
    assert torch.equal(plain, plot(*sweep))
    assert not torch.equal(plain, plot(*sweep, clip_vision=vision))


def test_without_matplotlib_table_and_summary_are_there_all_the_same(sweep, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    drawn, table, summary = execute(DiversityReportNode, images=sweep[0], gamma=sweep[1])
    assert drawn.shape == (1, 512, 768, 3)
    assert len(table.splitlines()) == 4
    assert summary == report(*sweep)[1]


def test_a_report_knows_its_space_and_its_row_of_gamma_one(vision, sweep):
    found = measure_sweep(*sweep, space_of(vision))
    assert found.neutral is found.rows[1]
    assert found.space.unit == "1 − cosine"
