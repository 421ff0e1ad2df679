"""Draws the picture of every template: what one gets from it, drawn by the demo model in a real ComfyUI.

    python -m lab.generate.template_cards [NAME ...]        all of them, or those that are named

At the end all that there are go into one picture for the tour.

Needs a ComfyUI (see lab/testing/hosts.py). The pictures of the templates for other models are schemes.
"""

from __future__ import annotations

import copy
import csv
import io
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from demo_model.shape import CATEGORIES
from lab.demo.comfyui_server import ComfyUIServer
from lab.demo.gamma_sweep import workflow
from lab.folders import IMAGES, ROOT
from lab.testing.hosts import find_host

FOLDER = ROOT / "workflows"
MOST_BYTES = 60_000  # of a picture, so that the archive stays small
WIDTH, HEIGHT, MARGIN = 640, 400, 20
PAPER, INK, BLUE = "#ffffff", "#222222", "#0072b2"
STEPS, SEED = 25, 3
STRONG = 2.0  # a γ whose effect can be seen at this size
Prompt = dict[str, Any]
Card = Callable[[ComfyUIServer], Image.Image]


def font(size: int) -> Any:
    from matplotlib.font_manager import findfont

    return ImageFont.truetype(findfont("DejaVu Sans"), size)


def blank() -> Image.Image:
    return Image.new("RGB", (WIDTH, HEIGHT), PAPER)


def write_text(card: Image.Image, place: tuple[float, float], text: str, size: int = 22, anchor: str = "mm") -> None:
    ImageDraw.Draw(card).text(place, text, INK, font(size), anchor)


def rows_of(rows: Sequence[tuple[str, Sequence[Image.Image]]]) -> Image.Image:
    """Rows of pictures, each with its label above."""
    card, label = blank(), 34
    most = max(len(pictures) for _, pictures in rows)
    side = min((HEIGHT - MARGIN) // len(rows) - label - 4, (WIDTH - 2 * MARGIN) // most - 8)
    top = (HEIGHT - len(rows) * (side + label + 4)) // 2
    for text, pictures in rows:
        write_text(card, (WIDTH / 2, top + label / 2), text)
        left = (WIDTH - len(pictures) * (side + 8) + 8) // 2
        for number, picture in enumerate(pictures):
            card.paste(
                picture.resize((side, side), Image.Resampling.NEAREST), (left + number * (side + 8), top + label)
            )
        top += side + label + 4
    return card


def plot_of(plot: Image.Image) -> Image.Image:
    """A plot as large as it fits; of a tall one the upper part."""
    card, width = blank(), WIDTH - 2 * 8
    height = round(plot.height * width / plot.width)
    if height > 1.6 * HEIGHT:
        width = round(0.75 * width)
        height = round(plot.height * width / plot.width)
    larger = plot.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0)
    card.paste(larger, ((WIDTH - width) // 2, max(0, (HEIGHT - height) // 2)))
    return card


# --- what is sampled


def sampled(gamma: float | None, count: int = 4, category: str = CATEGORIES[0], beta: float = 1.0) -> Prompt:
    """A prompt whose node `shown` saves pictures of the demo model."""
    nodes = workflow(gamma, category, SEED, beta, STEPS)
    del nodes["numbers"]
    nodes["model"]["inputs"]["count"] = count
    nodes["shown"] = {"class_type": "SaveImage", "inputs": {"images": ["decode", 0], "filename_prefix": "card"}}
    return nodes


def pictures_of(server: ComfyUIServer, prompt: Prompt, node: str = "shown") -> list[Image.Image]:
    """Run a prompt; the pictures that one of its nodes has saved."""
    files = server.run(prompt)[node]["images"]
    return [Image.open(io.BytesIO(server.download(each["filename"]))).convert("RGB") for each in files]


def with_node(prompt: Prompt, name: str, kind: str, **inputs: Any) -> Prompt:
    return {**copy.deepcopy(prompt), name: {"class_type": kind, "inputs": inputs}}


def drawn(prompt: Prompt, source: str, output: int = 0) -> Prompt:
    """The prompt, whose node `shown` saves an output of another node."""
    return with_node(prompt, "shown", "SaveImage", images=[source, output], filename_prefix="card")


def best_of(server: ComfyUIServer, begun: int, kept: int, choose: str, **widgets: Any) -> Image.Image:
    """All seeds that were begun, those that are kept framed."""
    prompt = with_node(sampled(STRONG), "probe", "SADStabilityProbe", model=["skew", 0])
    del prompt["sampler"]
    prompt["noise"] = {"class_type": "RandomNoise", "inputs": {"noise_seed": SEED}}
    wired = {"model": ["probe", 0], "positive": ["model", 1], "negative": ["model", 2], "cfg": 2.0}
    prompt["guider"] = {"class_type": "CFGGuider", "inputs": wired}
    prompt["solver"] = {"class_type": "KSamplerSelect", "inputs": {"sampler_name": "euler"}}
    steps = {"model": ["model", 0], "scheduler": "simple", "steps": STEPS, "denoise": 1.0}
    prompt["sigmas"] = {"class_type": "BasicScheduler", "inputs": steps}
    prompt["model"]["inputs"]["count"] = 1
    inputs: dict[str, Any] = {
        "noise": ["noise", 0],
        "guider": ["guider", 0],
        "sampler": ["solver", 0],
        "sigmas": ["sigmas", 0],
    }
    inputs |= {"latent_image": ["model", 4], "choose": choose, "decide_at": 0.3}
    everyone = {"candidates": begun, "keep": begun}
    pictures = pictures_of(server, with_node(prompt, "sampler", "SADBestOfSampler", **inputs, **everyone))
    few = with_node(prompt, "sampler", "SADBestOfSampler", **inputs, **{"candidates": begun, "keep": kept, **widgets})
    few = with_node(few, "table", "PreviewAny", source=["sampler", 2])
    table = list(csv.DictReader(io.StringIO(server.run(few)["table"]["text"][0])))
    is_kept = {int(line["seed"]) - SEED: line["kept"] == "1" for line in table}
    card, side = blank(), 140
    per_row = 4
    rows = -(-begun // per_row)
    top = (HEIGHT - rows * (side + 20)) // 2
    for number, picture in enumerate(pictures):
        left = (WIDTH - per_row * (side + 12)) // 2 + number % per_row * (side + 12)
        place = left, top + number // per_row * (side + 20)
        larger = picture.resize((side, side), Image.Resampling.NEAREST)
        if not is_kept.get(number, False):
            larger = Image.blend(larger, Image.new("RGB", larger.size, PAPER), 0.72)
        card.paste(larger, place)
        if is_kept.get(number, False):
            box = (place[0] - 4, place[1] - 4, place[0] + side + 3, place[1] + side + 3)
            ImageDraw.Draw(card).rectangle(box, outline=BLUE, width=5)
    return card


# --- the cards


def start_here(server: ComfyUIServer) -> Image.Image:
    plain, turned = pictures_of(server, sampled(None)), pictures_of(server, sampled(STRONG))
    return rows_of([("the unpatched model", plain), (f"γ = {STRONG:g}, the same seeds", turned)])


def compared(server: ComfyUIServer) -> Image.Image:
    """One picture, its left half from the unpatched model and its right half with γ."""
    side, shown = 340, 2  # of the four pictures of the first card
    before, after = (pictures_of(server, sampled(each))[shown] for each in (None, STRONG))
    before, after = (each.resize((side, side), Image.Resampling.NEAREST) for each in (before, after))
    card, left, top = blank(), (WIDTH - side) // 2, 44
    card.paste(before, (left, top))
    card.paste(after.crop((side // 2, 0, side, side)), (left + side // 2, top))
    draw, middle = ImageDraw.Draw(card), WIDTH // 2
    draw.line((middle, top, middle, top + side), BLUE, 4)
    draw.ellipse((middle - 14, top + side // 2 - 14, middle + 14, top + side // 2 + 14), BLUE)
    write_text(card, (middle - side // 4, 24), "γ = 1")
    write_text(card, (middle + side // 4, 24), f"γ = {STRONG:g}")
    return card


def scheduled(server: ComfyUIServer) -> Image.Image:
    widgets = {"shape": "window", "start_gamma": STRONG, "end": 0.6}
    prompt = with_node(sampled(1.0, 2), "schedule", "SADGammaSchedule", **widgets)
    prompt["skew"]["inputs"]["schedule"] = ["schedule", 0]
    curve = pictures_of(server, drawn(prompt, "schedule", 1))[0]
    rows = rows_of(
        [("γ = 1", pictures_of(server, sampled(None, 2))), ("with the schedule", pictures_of(server, prompt))]
    )
    card, half = blank(), WIDTH // 2
    curve.thumbnail((half - 16, HEIGHT), Image.Resampling.LANCZOS)
    card.paste(curve, (4, (HEIGHT - curve.height) // 2))
    card.paste(rows.crop((half // 2, 0, half // 2 + half, HEIGHT)), (half, 0))
    return card


def drawn_before(path: str) -> Card:
    """A picture that another command of lab/figures/makers.py makes with the demo model."""
    return lambda server: plot_of(Image.open(ROOT / path).convert("RGB"))


def followed(server: ComfyUIServer) -> Image.Image:
    prompt = with_node(
        sampled(1.5, 2, CATEGORIES[1]), "feedback", "SADStabilityFeedback", model=["skew", 0], gain=2.0, dead_band=0.0
    )
    prompt["sampler"]["inputs"]["model"] = ["feedback", 0]
    read = {"trace": ["feedback", 1], "after": ["sampler", 0], "layout": "curves"}
    return plot_of(pictures_of(server, drawn(with_node(prompt, "plot", "SADStabilityPlot", **read), "plot"))[0])


def finished(server: ComfyUIServer) -> Image.Image:
    return best_of(server, 8, 2, "stable and different")


def gated(server: ComfyUIServer) -> Image.Image:
    return best_of(server, 4, 1, "most stable")


def adapted(server: ComfyUIServer) -> Image.Image:
    static = sampled(1.5, 1, beta=3.0)
    adaptive = copy.deepcopy(static)
    adaptive["skew"]["inputs"]["adaptive"] = "gamma and beta"
    pictures = [pictures_of(server, prompt)[0] for prompt in (sampled(None, 1), static, adaptive)]
    card, third = blank(), WIDTH // 3
    for number, (text, picture) in enumerate(zip(("plain", "static", "adaptive"), pictures, strict=True)):
        card.paste(picture.resize((196, 196), Image.Resampling.NEAREST), (number * third + 8, 110))
        write_text(card, (number * third + third / 2, 80), text)
    return card


def two_passes(server: ComfyUIServer) -> Image.Image:
    """One curve of γ, and the part of it that each pass goes through."""
    card, left, right, top, bottom = blank(), 70, WIDTH - 40, 60, 230
    draw, window_end = ImageDraw.Draw(card), 0.8

    def across(progress: float) -> float:
        return left + progress * (right - left)

    draw.line([(left, top), (left, bottom), (right, bottom)], INK, 2)
    curve = [(0.0, top + 30), (window_end, top + 30), (window_end, bottom - 30), (1.0, bottom - 30)]
    draw.line([(across(progress), y) for progress, y in curve], BLUE, 5)
    write_text(card, (left - 14, top + 30), "γ", 24, "rm")
    write_text(card, (left - 14, bottom - 30), "1", 20, "rm")
    for start, y, text in ((0.25, 285, "first pass"), (0.55, 345, "second pass")):
        draw.line((across(start), y, right, y), INK, 4)
        draw.polygon([(right, y), (right - 14, y - 8), (right - 14, y + 8)], INK)
        write_text(card, (across(start) - 12, y), text, 20, "rm")
        draw.line((across(start), y, across(start), top + 30), "#999999", 1)
    write_text(card, (WIDTH / 2, 26), "one curve, read by the noise level", 22)
    return card


def acted_among(kind: str, others: str) -> Card:
    """A scheme of joint attention: γ among the tokens of one kind and nowhere else."""

    def card_of(server: ComfyUIServer) -> Image.Image:
        card, side, top, left = blank(), 280, 70, 200
        draw = ImageDraw.Draw(card)
        text = side // 4 if others else 0
        draw.rectangle((left, top, left + side, top + side), "#e8e8e8")
        draw.rectangle((left + text, top + text, left + side, top + side), BLUE)
        for place in range(0, side + 1, side // 8):
            draw.line((left + place, top, left + place, top + side), PAPER, 2)
            draw.line((left, top + place, left + side, top + place), PAPER, 2)
        middle = (text + side) / 2
        write_text(card, (left - 12, top + middle), kind, 22, "rm")
        write_text(card, (left + middle, top - 18), kind, 22)
        if others:
            write_text(card, (left - 12, top + text / 2), others, 22, "rm")
            write_text(card, (left + text / 2, top - 18), others, 22)
        ImageDraw.Draw(card).text((left + middle, top + middle), "γ", PAPER, font(64), "mm")
        write_text(card, (WIDTH / 2, 22), "where γ acts: queries by keys", 20)
        return card

    return card_of


def on_a_slider(server: ComfyUIServer) -> Image.Image:
    """The same seeds at both ends and in the middle of a slider that a sweep of the demo model has calibrated."""
    sweep = with_node(sampled(1.0, 8), "sweep", "SADGammaSweep", values="0.5, 0.8, 1, 1.5, 2")
    sweep["skew"]["inputs"]["gamma"] = ["sweep", 0]
    del sweep["shown"]
    wired = {"images": ["decode", 0], "gamma": ["sweep", 0], "model": ["skew", 0], "largest_drift": 0.5}
    sweep = with_node(sweep, "calibrate", "SADCalibrate", **wired)
    sweep = with_node(sweep, "file", "PreviewAny", source=["calibrate", 0])
    file = server.run(sweep)["file"]["text"][0]
    rows = []
    for text, position in (("precise", -1.0), ("the unpatched model", 0.0), ("creative", 1.0)):
        prompt = sampled(1.0)
        prompt["skew"] = {"class_type": "SADCreativity", "inputs": {"model": ["model", 0], "file": file}}
        prompt["skew"]["inputs"]["position"] = position
        rows.append((text, pictures_of(server, prompt)))
    return rows_of(rows)


def in_a_grid(server: ComfyUIServer) -> Image.Image:
    """The grid that the template gives, drawn by the demo model in as few steps as a turbo model takes."""
    prompt = with_node(sampled(1.0), "sweep", "SADGammaSweep", values="1, 1.2, 1.5")
    prompt["skew"]["inputs"]["gamma"] = ["sweep", 0]
    prompt["sampler"]["inputs"]["steps"] = 8
    wired = {"images": ["decode", 0], "gamma": ["sweep", 0]}
    (grid,) = pictures_of(server, drawn(with_node(prompt, "grid", "SADGammaGrid", **wired), "grid"))
    grid.thumbnail((WIDTH - 8, HEIGHT - 8), Image.Resampling.LANCZOS)
    card = blank()
    card.paste(grid, ((WIDTH - grid.width) // 2, (HEIGHT - grid.height) // 2))
    return card


def on_a_sheet(category: str, steps: int) -> Card:
    """The sheet of a short trial of the demo model."""

    def card_of(server: ComfyUIServer) -> Image.Image:
        wired = {"model": 0, "positive": 1, "negative": 2, "vae": 3, "latent_image": 4}
        inputs: dict[str, Any] = {name: ["model", output] for name, output in wired.items()}
        inputs |= {"minutes": 1440, "most_seeds": 5, "steps": steps, "cfg": 2.0}
        inputs |= {"scheduler": "simple", "name": "demo model"}
        prompt: Prompt = {
            "model": {"class_type": "SADDemoModel", "inputs": {"picture": category, "count": 1}},
            "measure": {"class_type": "SADMeasureCheckpoint", "inputs": inputs},
            "shown": {"class_type": "SaveImage", "inputs": {"images": ["measure", 0], "filename_prefix": "sheet"}},
        }
        (sheet,) = pictures_of(server, prompt)
        sheet.thumbnail((WIDTH - 2 * MARGIN, HEIGHT - 2 * MARGIN))
        card = blank()
        card.paste(sheet, ((WIDTH - sheet.width) // 2, (HEIGHT - sheet.height) // 2))
        return card

    return card_of


CARDS: dict[str, Card] = {
    "01_start_here_without_a_checkpoint": start_here,
    "02_compare_gamma_with_the_plain_model": compared,
    "03_turn_gamma_with_a_schedule": scheduled,
    "04_five_gammas_in_one_picture": drawn_before("docs/images/gamma_sweep.png"),
    "05_measure_diversity_over_gammas": drawn_before("web/docs/images/diversity_report.png"),
    "06_see_the_schedule_and_the_stability": drawn_before("docs/images/stability_gamma_1.5.png"),
    "07_let_gamma_follow_stability": followed,
    "08_finish_the_best_of_eight_seeds": finished,
    "09_try_seeds_until_one_is_stable": gated,
    "10_compare_adaptive_with_static_gamma": adapted,
    "11_image_to_image_in_two_passes": two_passes,
    "12_z_image_turbo_four_seeds": acted_among("image", "text"),
    "13_stable_audio": acted_among("audio", ""),
    "14_calibrate_a_slider": on_a_slider,
    "15_do_the_seeds_of_a_turbo_model_differ": in_a_grid,
    "16_measure_your_checkpoint": on_a_sheet(CATEGORIES[0], 12),
    "17_measure_your_z_image_or_flux": on_a_sheet(CATEGORIES[2], 8),  # in as few steps as a turbo model takes
}


def write_overview() -> None:
    """Write all cards with their names, four in a row, for docs/tour.md."""
    across, side, label = 4, (280, 175), 26
    names = [name for name in CARDS if (FOLDER / f"{name}.jpg").exists()]
    sheet = Image.new("RGB", (across * (side[0] + 12), -(-len(names) // across) * (side[1] + label + 8)), PAPER)
    for number, name in enumerate(names):
        place = number % across * (side[0] + 12) + 6, number // across * (side[1] + label + 8)
        card = Image.open(FOLDER / f"{name}.jpg").resize(side, Image.Resampling.LANCZOS)
        sheet.paste(card, (place[0], place[1] + label))
        write_text(sheet, (place[0], place[1] + label / 2), name, 12, "lm")
    sheet.save(IMAGES / "tour_templates.jpg", quality=84, optimize=True)


def write_jpg(picture: Image.Image, path: Path) -> None:
    """Write a picture with the best quality that fits into `MOST_BYTES`."""
    for quality in (90, 84, 76, 66, 56):
        picture.save(path, quality=quality, optimize=True)
        if path.stat().st_size <= MOST_BYTES:
            return
    raise ValueError(f"{path.name} does not fit into {MOST_BYTES} bytes.")


def main() -> int:
    host = find_host()
    if host is None:
        sys.exit("No ComfyUI on this machine; one is needed.")
    with ComfyUIServer(host, sys.executable) as server:
        for name in sys.argv[1:] or list(CARDS):
            write_jpg(CARDS[name](server), FOLDER / f"{name}.jpg")
            print(name, (FOLDER / f"{name}.jpg").stat().st_size, flush=True)
    write_overview()
    return 0


if __name__ == "__main__":
    sys.exit(main())
