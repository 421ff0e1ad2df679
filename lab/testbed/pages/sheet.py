"""The same twelve seeds under the best of each method, the unpatched model above: what the numbers look like."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from matplotlib.font_manager import findfont
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from lab.testbed.pages.reading import Numbers
from lab.testbed.shape import CLASSES

SEEDS = 12  # from 0 on: each class once, two of them twice
ZOOM, GAP, NAMES, LINE = 2, 3, 236, 15  # pixels
WHITE, INK = 255, 30


def rows_of(numbers: Numbers) -> dict[str, str]:
    """The rows that are shown: the words of each by the name of its arm, the best of ours first."""
    shown = {"plain model": "unpatched model"}
    for knob in sorted((*numbers.ours, *numbers.rivals), key=lambda knob: knob not in numbers.ours):
        name = numbers.chosen(knob)
        if name is None and knob == "γ":
            name = "γ 1.5"  # no strength passed the rule; people want to see γ all the same
        if name in numbers.arms:
            shown[str(name)] = str(name)
    return shown


def sheet(pictures: Mapping[str, Tensor], words: Mapping[str, str]) -> Image.Image:
    """A row of pictures (12, 1, 28, 28) in [0, 1] for each arm, its words at the left, the classes above."""
    size = 28 * ZOOM
    page = Image.new("L", (NAMES + SEEDS * (size + GAP), LINE + len(words) * (size + GAP)), WHITE)
    pen, letters = ImageDraw.Draw(page), findfont("DejaVu Sans")  # has Greek letters
    font, small = (ImageFont.truetype(letters, size) for size in (13, 9))
    for place in range(SEEDS):
        pen.text((NAMES + place * (size + GAP), 1), CLASSES[place % len(CLASSES)], fill=INK, font=small)
    for row, (name, text) in enumerate(words.items()):
        top = LINE + row * (size + GAP)
        pen.text((4, top + size // 2 - 8), text, fill=INK, font=font)
        for place, picture in enumerate(pictures[name][:SEEDS]):
            shade = ((1 - picture[0]) * 255).round().to(torch.uint8)
            cell = Image.fromarray(shade.numpy()).resize((size, size), Image.Resampling.NEAREST)
            page.paste(cell, (NAMES + place * (size + GAP), top))
    return page
