#!/usr/bin/env python3
"""Take a trial that somebody sent into docs/checkpoints.md: its numbers are checked, and become a row.

    make evidence-add FILE=own.trial.json                         # as Measure Your Checkpoint (SAD) saved it
    make evidence-add FILE=own.trial.json SHEET=own.sheet.jpg     # with its sheet, made small
    python -m lab.evidence.add                                    # only writes the page anew, from the trials it has

The trial is kept as it is in `lab/evidence/checkpoints/`, from which the page is written. The first sheet also takes
the place of the demo model's in README.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from lab.folders import DOCS, IMAGES, ROOT, expand_path
from lab.generate.addresses import slug, with_addresses
from sad_core.evaluation.diversity import Estimate
from sad_core.evaluation.trial.plan import used_prompts
from sad_core.evaluation.trial.result import Trial, is_significant
from sad_core.evaluation.trial.result_file import SUFFIX, load_trial, save_trial, trial_to_json

KEPT = ROOT / "lab" / "evidence" / "checkpoints"
PAGE = DOCS / "checkpoints.md"
BEGIN, END = "<!-- Written by make evidence-add. -->", "<!-- End of what is written. -->"
README = ROOT / "README.md"
FIRST = "<!-- make evidence-add replaces this picture by the first sheet that is sent in. -->"
FIRST_END = "<!-- End of the picture. -->"
WIDTH, QUALITY = 900, 80  # of the sheet on the page
TITLES = (
    *("checkpoint", "sampled with", "seeds", "best γ", "seeds further apart by", "drift"),
    *("saturation", "fine detail", "cost of γ", "on"),
)
NONE_YET = "No checkpoint has been measured yet. The first file that is sent in becomes the first row."


def add(path: Path, sheet: Path | None = None, kept: Path = KEPT, images: Path = IMAGES) -> Path:
    """Check a trial and keep it, and its sheet made small.

    Returns:
        The file it is kept in.

    Raises:
        ValueError: it is no trial, cannot have been measured, or is there already.
    """
    trial = load_trial(path)
    content = trial_to_json(trial)
    numbers = [content["choice"], content["report"]]  # another name or note makes no other trial
    digest = hashlib.sha256(json.dumps(numbers, sort_keys=True).encode()).hexdigest()[:8]
    word = re.sub(r"[^a-z0-9]+", "_", (trial.name or trial.model).lower()).strip("_")[:40] or "checkpoint"
    target = kept / f"{word}_{digest}{SUFFIX}"
    there = next(kept.glob(f"*_{digest}{SUFFIX}"), None)
    if there is not None:
        raise ValueError(f"{path.name} is there already, as {there.name}.")
    picture = None if sheet is None else small(sheet)
    save_trial(trial, target)
    if picture is not None:
        picture.save(picture_of(target, images), quality=QUALITY)
    return target


def small(sheet: Path) -> Image.Image:
    """Return a sheet as a small picture.

    Raises:
        ValueError: it is no picture.
    """
    try:
        picture = Image.open(sheet).convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        raise ValueError(
            f"{sheet.name} is not an image. Give the sheet as it was saved, which ends in .sheet.jpg."
        ) from None
    picture.thumbnail((WIDTH, WIDTH))
    return picture


def picture_of(trial: Path, images: Path = IMAGES) -> Path:
    """The picture of a kept trial, whether it is there or not."""
    return images / f"checkpoint_{trial.name.removesuffix(SUFFIX)}.jpg"


def page_of(files: Sequence[Path], images: Path = IMAGES) -> str:
    """Return the part of the page between its marks: a row for each kept trial, then their sheets."""
    if not files:
        return NONE_YET
    lines = [f"| {' | '.join(TITLES)} |", f"|{' --- |' * len(TITLES)}"]
    sheets = []
    for path in files:
        trial = load_trial(path)
        lines.append(f"| {' | '.join(cells_of(trial))} |")
        picture = picture_of(path, images)
        if picture.exists():
            title = f"{trial.name or trial.model}: γ 1 above, {trial.chosen} below, the same seeds"
            sheets.append(f"\n![{title}](images/{picture.name})")
    return "\n".join([*lines, *sheets])


def cells_of(trial: Trial) -> list[str]:
    """The row of a trial, in the order of `TITLES`."""
    sampling, row = trial.sampling, trial.best.row
    chosen, reported = trial.counted_seeds
    used, before = (used_prompts(seeds, sampling.prompts) for seeds in (reported, chosen))
    prompts = f"{used} after {before}, {'of the pack' if sampling.packaged else 'own'}"
    return [
        f"{trial.name} ({trial.model})" if trial.name else trial.model,
        f"{sampling.width}×{sampling.height}, {sampling.sampler}, {sampling.steps} steps, CFG {sampling.cfg:g}",
        f"{reported}, after {chosen} to choose; prompts: {prompts}",
        trial.chosen,
        f"{marked(row['distance_change'], 0.0)} of {trial.plain.row['distance'].value:.3g} ({trial.unit})",
        marked(row["pixel_drift"]),
        marked(row["saturation"], 1.0),
        marked(row["high_frequency"], 1.0),
        f"× {trial.best.seconds / trial.plain.seconds:.2f}",
        trial.machine,
    ]


def marked(number: Estimate, neutral: float | None = None) -> str:
    """A number with its interval, bold where that leaves out no change."""
    if not number.exists:
        return "–"
    text = f"{number.value:.3g}"
    if neutral is not None and is_significant(number, neutral):
        text = f"**{text}**"
    return f"{text} [{number.low:.3g}, {number.high:.3g}]" if number.has_interval else text


def write_page(kept: Path = KEPT, page: Path = PAGE, images: Path = IMAGES) -> None:
    """Write the rows of all kept trials between the marks of the page."""
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    rows = page_of(sorted(kept.glob(f"*{SUFFIX}")), images)
    page.write_text(f"{before}{BEGIN}\n\n{rows}\n\n{END}{after}", encoding="utf-8")


def write_first_picture(kept: Path = KEPT, readme: Path = README, images: Path = IMAGES) -> None:
    """Put a sheet in the place of README's first picture. Without one, or with one there, the page stays as it is."""
    pictures = {picture_of(path, images): path for path in sorted(kept.glob(f"*{SUFFIX}"))}
    there = [picture for picture in pictures if picture.exists()]
    before, begin, rest = readme.read_text(encoding="utf-8").partition(FIRST)
    block, end, after = rest.partition(FIRST_END)
    if not there or not end or any(f"/{picture.name}]" in block for picture in there):
        return
    trial = load_trial(pictures[there[0]])
    rows = f"γ 1 above and {trial.chosen} below"
    picture = f"![The same seeds of {trial.name or trial.model}, {rows}][docs/images/{there[0].name}]"
    words = f"{trial.name or trial.model}: the same prompts and seeds, {rows}. A user measured it with this pack."
    text = f"{before}{begin}\n{picture}\n\n{words}\n{end}{after}"
    readme.write_text(with_addresses(text, slug()), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=expand_path, nargs="?", help="a trial")
    parser.add_argument("--sheet", type=expand_path, help="its sheet")
    options = parser.parse_args(arguments)
    if options.file is not None:
        try:
            print(f"Kept as {add(options.file, options.sheet).relative_to(ROOT)}; it has a row in docs/checkpoints.md.")
        except ValueError as problem:
            print(problem, file=sys.stderr)
            return 1
    write_page()
    write_first_picture()
    return 0


if __name__ == "__main__":
    sys.exit(main())
