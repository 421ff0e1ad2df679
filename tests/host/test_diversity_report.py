"""Diversity and Fidelity Report: what it says of pictures whose answer is known, with a real CLIP vision class."""

from __future__ import annotations

import csv
import io as text_io
import json
import math
import sys
from pathlib import Path

import comfy.clip_vision
import comfy.model_management
import pytest
import torch
from symmetric_attention.nodes.diversity_report import DiversityReportNode, measure, space_of
from symmetric_attention.nodes.host import clip_vision as host_clip_vision
from symmetric_attention.nodes.host import memory
from symmetric_attention.nodes.plots import diversity as diversity_pictures
from symmetric_attention.sad_core.evaluation.measures import PIXELS, measure_sweep

from lab.testing.families.family import draw
from lab.testing.run_nodes import execute
from lab.testing.vision_models import HIDDEN, SIGLIP, WIDTH, tiny_clip_vision

TEXT = 24  # width of the tokens of a text


@pytest.fixture(scope="module")
def vision() -> comfy.clip_vision.ClipVisionModel:
    return tiny_clip_vision()


def batch(*names: str, size: tuple[int, int] = (20, 24), contrast: float = 0.6) -> torch.Tensor:
    """A picture `(h, w, 3)` for every name, around middle grey."""
    drawn = torch.stack([draw(f"picture {name}", (*size, 3)).sigmoid() for name in names])
    return 0.5 + contrast * (drawn - 0.5)


def conditioning(width: int = WIDTH, tokens: int = TEXT) -> list:
    return [[draw("tokens", (1, 5, tokens)), {"pooled_output": draw("pooled", (1, width))}]]


def report(images, gamma, **inputs) -> tuple[list[dict[str, str]], str]:
    """The lines of the table and the summary; optional inputs come in as lists, as the host gives them."""
    found = measure(images, gamma, **{name: [value] for name, value in inputs.items()})
    return list(csv.DictReader(text_io.StringIO(found.to_csv()))), found.summary()


def plot(images, gamma, **inputs) -> torch.Tensor:
    """What the node draws."""
    wired = {name: [value] for name, value in inputs.items()}
    return execute(DiversityReportNode, images=images, gamma=gamma, **wired)[0]


def numbers(lines: list[dict[str, str]], name: str) -> list[float | None]:
    return [float(line[name]) if line[name] else None for line in lines]


@pytest.fixture
def sweep() -> tuple[list[torch.Tensor], list[float]]:
    """Four seeds at three gammas: 0.5 draws them closer together, 2 further apart; contrast is their distance."""
    names = ("a", "b", "c", "d")
    return [batch(*names, contrast=contrast) for contrast in (0.3, 0.6, 0.9)], [0.5, 1.0, 2.0]


# --- in pixels


def test_without_clip_vision_pixels_stand_in_and_the_table_says_so(sweep):
    lines, summary = report(*sweep)
    assert [line["gamma"] for line in lines] == ["0.5", "1", "2"]
    assert [line["n"] for line in lines] == ["4"] * 3
    assert all("pixels of 32×32 thumbnails" in line["features"] for line in lines)
    assert "pixels of 32×32 thumbnails" in summary
    assert "agreement" not in lines[0]
    half, one, two = numbers(lines, "distance")
    assert half == pytest.approx(one / 2, rel=1e-4)  # distances grow as the contrast does
    assert two == pytest.approx(1.5 * one, rel=1e-4)


def test_the_change_against_gamma_one_is_paired_by_seed(sweep):
    """Every distance grows by the same factor, so the change is surer than the two distances alone would make it."""
    lines, _ = report(*sweep)
    last = {name: float(text) for name, text in lines[2].items() if name.startswith("distance")}
    assert last["distance_change"] == pytest.approx(last["distance"] / 3, rel=1e-3)
    assert last["distance_change_low"] > 0
    width = last["distance_high"] - last["distance_low"]
    assert last["distance_change_high"] - last["distance_change_low"] == pytest.approx(width / 3, rel=1e-3)
    assert [numbers(lines, "distance_change" + end)[1] for end in ("", "_low", "_high")] == [0.0, 0.0, 0.0]


def test_drift_and_guards_are_those_of_the_pixels(sweep):
    images, gamma = sweep
    lines, _ = report(images, gamma)
    want = [float((one - images[1]).square().mean(dim=(1, 2, 3)).sqrt().mean()) for one in images]
    assert numbers(lines, "pixel_drift") == pytest.approx(want, rel=1e-4)
    assert numbers(lines, "saturation") == pytest.approx([0.5, 1.0, 1.5], rel=1e-4)  # as the contrast
    assert numbers(lines, "high_frequency") == pytest.approx([0.25, 1.0, 2.25], rel=1e-4)  # an energy: its square
    assert numbers(lines, "clipped") == [0.0, 0.0, 0.0]
    white = [images[0], images[1], torch.ones_like(images[2])]
    assert numbers(report(white, gamma)[0], "clipped") == [0.0, 0.0, 1.0]


def test_rows_rise_in_gamma_whatever_the_order_of_the_sweep(sweep):
    images, gamma = sweep
    assert report(images[::-1], gamma[::-1]) == report(images, gamma)


def test_the_summary_says_which_gamma_was_most_diverse_and_at_what_cost(sweep):
    lines, summary = report(*sweep)
    assert f"Most diverse was γ = 2: two of its pictures lie {float(lines[2]['distance']):.3g}" in summary
    assert "high-frequency energy is 2.25" in summary
    assert "n = 4 for each gamma" in summary
    assert "quality" not in summary.lower()
    images, gamma = sweep
    assert "No other γ of this sweep made the plain model" in report(images[:2], gamma[:2])[1]


def test_a_sure_change_names_how_many_gammas_it_was_chosen_among(sweep):
    images, gamma = sweep
    broken = torch.full_like(images[0], math.nan)  # a gamma that could not be chosen
    for summary in (report(images, gamma)[1], report([*images, broken], [*gamma, 3.0])[1]):
        assert "more than at γ = 1, and the interval leaves out 0. But γ = 2 was chosen" in summary
        assert "the most diverse of 3 gammas, and one in twenty such intervals misses by chance" in summary
        assert "run γ = 1 and 2 with new seeds." in summary


def test_a_change_within_the_luck_of_the_seeds_is_called_so():
    images = [batch("a", "b", "c", "d"), batch("e", "f", "g", "h")]  # nothing but other pictures
    lines, summary = report(images[::-1], [1.0, 2.0])
    low, change, high = (numbers(lines, "distance_change" + end)[1] for end in ("_low", "", "_high"))
    assert low < 0 < change < high
    assert "which may be the luck of these seeds." in summary
    assert "leaves out 0" not in summary


def test_the_same_pictures_everywhere_have_no_drift_and_a_vendi_score_of_one():
    same = batch("a", "a", "a")
    lines, summary = report([same, same], [1.0, 2.0])
    assert numbers(lines, "vendi") == pytest.approx([1.0, 1.0])
    assert numbers(lines, "distance") == numbers(lines, "drift") == [0.0, 0.0]
    assert "Some pictures of γ = 1, 2 equal another of the same gamma" in summary
    assert "wire seed of Gamma Sweep (SAD) into the sampler" in summary


# --- what may be missing


def test_one_picture_leaves_diversity_empty_and_says_why():
    lines, summary = report([batch("a"), batch("b")], [1.0, 2.0])
    assert numbers(lines, "vendi") == numbers(lines, "distance") == [None, None]
    assert numbers(lines, "drift")[1] > 0
    assert numbers(lines, "drift_low") == [None, None]
    assert "Diversity needs two pictures or more of each gamma" in summary


def test_two_pictures_have_a_distance_and_no_interval():
    lines, summary = report([batch("a", "b"), batch("c", "d")], [1.0, 2.0])
    assert all(number > 0 for number in numbers(lines, "distance"))
    assert numbers(lines, "distance_low") == numbers(lines, "vendi_low") == [None, None]
    assert "Intervals of diversity need three pictures or more" in summary
    assert "may be the luck of these seeds" in summary or "No other γ" in summary


def test_without_gamma_one_there_is_diversity_and_no_drift():
    lines, summary = report([batch("a", "b", "c"), batch("d", "e", "f")], [0.5, 2.0])
    assert all(number > 0 for number in numbers(lines, "distance"))
    for name in ("distance_change", "drift", "pixel_drift", "saturation", "high_frequency"):
        assert numbers(lines, name) == [None, None]
    assert "add 1 to the gammas of the sweep" in summary


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_broken_picture_is_left_out_counted_and_told(sweep, bad):
    images, gamma = [each.clone() for each in sweep[0]], sweep[1]
    images[2][1, 3, 3, 0] = bad
    lines, summary = report(images, gamma)
    assert [line["broken"] for line in lines] == ["0", "0", "1"]
    assert [line["n"] for line in lines] == ["4", "4", "3"]
    assert "1 picture with NaN or infinite numbers was left out, at γ = 2." in summary
    whole = [0, 2, 3]  # its seed is left out of γ = 1 as well, where the two are compared
    alone, _ = report([each[whole] for each in images], gamma)
    for name in ("distance", "vendi", "distance_change", "drift", "pixel_drift", "high_frequency", "saturation"):
        assert lines[2][name] == alone[2][name], name


def test_a_seed_broken_at_gamma_one_is_compared_nowhere(sweep):
    images, gamma = [each.clone() for each in sweep[0]], sweep[1]
    images[1][0, 0, 0, 0] = math.nan
    lines, _ = report(images, gamma)
    assert lines[2]["n"] == "4"
    alone, _ = report([each[1:] for each in images], gamma)
    for name in ("distance_change", "drift", "pixel_drift", "high_frequency", "saturation"):
        assert lines[2][name] == alone[2][name] != "", name


def test_only_broken_pictures_leave_a_row_empty(vision):
    images = [batch("a", "b", "c"), torch.full((3, 20, 24, 3), math.nan)]
    for inputs in ({}, {"clip_vision": vision}):
        lines, summary = report(images, [1.0, 2.0], **inputs)
        assert (lines[1]["n"], lines[1]["broken"], lines[1]["distance"], lines[1]["clipped"]) == ("0", "3", "", "")
        assert "3 pictures with NaN or infinite numbers were left out, at γ = 2." in summary


def test_all_broken_is_no_error():
    broken = torch.full((2, 20, 24, 3), math.nan)
    lines, summary = report([broken, broken], [1.0, 2.0])
    assert [line["n"] for line in lines] == ["0", "0"]
    assert "4 pictures with NaN or infinite numbers were left out, at γ = 1, 2." in summary


def test_gammas_with_different_numbers_of_pictures_are_paired_by_place():
    images = [batch("a", "b", "c", "d"), batch("e", "f", "g")]
    lines, summary = report(images, [1.0, 2.0])
    assert [line["n"] for line in lines] == ["4", "3"]
    want = (images[1] - images[0][:3]).square().mean(dim=(1, 2, 3)).sqrt().mean()
    assert numbers(lines, "pixel_drift")[1] == pytest.approx(float(want), rel=1e-4)
    assert "different numbers of pictures: compare the distance" in summary


def test_gammas_run_several_times_are_taken_together():
    """As Gamma Sweep gives them with several seeds: the pictures of each γ in the order of the seeds."""
    singles = [batch(name, contrast=contrast) for contrast in (0.6, 0.9) for name in ("a", "b", "c")]
    together = [batch("a", "b", "c", contrast=contrast) for contrast in (0.6, 0.9)]
    assert report(singles, [1.0] * 3 + [2.0] * 3) == report(together, [1.0, 2.0])


@pytest.mark.parametrize(
    ("images", "gamma", "message"),
    [
        ([batch("a")], [0.0, 1.0], "1 images came in for 2 gammas"),
        ([batch("a"), batch("a", size=(4, 6))], [0.0, 1.0], "but there are 6×4, 24×20 pixels"),
    ],
)
def test_runs_that_do_not_belong_together_are_refused(images, gamma, message):
    with pytest.raises(ValueError, match=message):
        report(images, gamma)


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
    assert numbers(lines, "distance")[2] == pytest.approx(sum(pairs) / len(pairs), rel=1e-3)
    assert numbers(lines, "pixel_drift") == numbers(report(*sweep)[0], "pixel_drift")
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
    for images, got in zip(sweep[0], numbers(lines, "agreement"), strict=True):
        embeddings = vision.encode_image(images)["image_embeds"].detach().double()
        want = torch.nn.functional.cosine_similarity(embeddings, text[None]).mean()
        assert got == pytest.approx(float(want), rel=1e-3)
    assert all(numbers(lines, "agreement_low"))
    assert "Agreement" not in summary


PLAIN_TEXT = [[torch.zeros(1, 5, TEXT), {}]]
ZERO_TEXT = [[torch.zeros(1, 5, TEXT), {"pooled_output": torch.zeros(1, WIDTH)}]]


@pytest.mark.usefixtures("trained_together")
@pytest.mark.parametrize(
    ("prompt", "why"),
    [
        (conditioning(width=WIDTH + 1), "not known to share a space (pooled text 17 wide, image embeddings 16)"),
        (conditioning(tokens=TEXT + 1), "not known to share a space"),  # another text encoder of the same width
        (conditioning() * 2, "conditioning holds more than one prompt"),
        (PLAIN_TEXT, "conditioning has no pooled text"),
        (ZERO_TEXT, "conditioning has no pooled text"),
    ],
    ids=["width", "tokens", "two prompts", "no pooled text", "zeros"],
)
def test_without_a_text_in_the_same_space_there_is_a_sentence_and_no_column(vision, sweep, prompt, why):
    lines, summary = report(*sweep, clip_vision=vision, conditioning=prompt)
    assert "agreement" not in lines[0]
    assert why in summary


@pytest.mark.usefixtures("trained_together")
def test_without_clip_vision_or_with_another_kind_there_is_no_agreement(sweep):
    assert "needs a CLIP_VISION" in report(*sweep, conditioning=conditioning())[1]
    siglip = tiny_clip_vision(**SIGLIP)
    assert "not known to share a space" in report(*sweep, clip_vision=siglip, conditioning=conditioning())[1]


@pytest.mark.parametrize(("letter", "tokens"), [("g", 2048), ("h", 1024)])
def test_the_pairs_that_were_trained_together_are_those_of_the_hosts_own_configurations(letter, tokens):
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


@pytest.mark.parametrize(
    ("images", "gamma"),
    [
        ([batch("a", "b", "c"), batch("d", "e", "f"), batch("g", "h", "i")], [0.5, 1.0, 2.0]),
        ([batch("a", "b", "c")], [1.0]),
        ([batch("a")] * 2, [1.0, 2.0]),
        ([batch("a", "b")] * 2, [0.5, 2.0]),
        ([batch("a", "b", "c"), BROKEN], [1.0, 2.0]),
        ([BROKEN, BROKEN], [1.0, 2.0]),
    ],
    ids=["a sweep", "the plain model alone", "one seed", "two seeds without gamma 1", "broken", "all broken"],
)
def test_the_plot_is_1024_wide_and_shows_something(images, gamma):
    drawn = plot(images, gamma)
    assert drawn.shape[0] == 1
    assert drawn.shape[2:] == (1024, 3)
    assert drawn.min() >= 0
    assert drawn.max() <= 1
    assert (drawn < 0.9).any(dim=-1).sum() > 1000


def test_gammas_close_to_each_other_leave_the_room_to_one():
    assert sorted(diversity_pictures._ticks([0.0, 0.98, 1.0, 1.05, 1.5, 2.0])) == [0.0, 1.0, 1.5, 2.0]
    assert diversity_pictures._ticks([2.0]) == [2.0]


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


def test_a_report_knows_its_space_and_its_plain_row(vision, sweep):
    found = measure_sweep(*sweep, space_of(vision))
    assert found.plain is found.rows[1]
    assert found.space.unit == "1 − cosine"
    assert measure_sweep(*sweep).space is PIXELS
