"""Write docs/evidence.md, docs/evidence_details.md and their pictures from the numbers of the networks.

python -m lab.testbed.pages                # all of it; draws twelve seeds of some arms where they are missing
python -m lab.testbed.pages --no-samples   # without the sheets of samples
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from safetensors.torch import load_file

from lab.folders import IMAGES, cache_folder, expand_path
from lab.testbed.cost import kept_costs
from lab.testbed.draw import Source, draw, host_folder
from lab.testbed.networks import NETWORKS, weights_of
from lab.testbed.pages.document import TITLES, frontier_image, has_pictures, pages, sheet_image
from lab.testbed.pages.picture import frontier, save
from lab.testbed.pages.reading import Numbers
from lab.testbed.pages.sheet import SEEDS, rows_of, sheet

FOLDER = cache_folder() / "testbed-sheets"


def kept_numbers() -> dict[str, Numbers]:
    """The numbers of the networks that were measured, in the order of the pages."""
    costs, found = kept_costs(), {}
    for name in TITLES:
        path = NETWORKS[name].numbers
        if path.exists():
            content = json.loads(path.read_text(encoding="utf-8"))
            found[name] = Numbers(name, content, costs.get(name, {}))
    return found


def write_sheet(numbers: Numbers, early: Path | None, folder: Path) -> None:
    """Draw what is missing of the twelve seeds and write their sheet. What cannot be drawn here is left out."""
    network, words = NETWORKS[numbers.network], rows_of(numbers)
    source = Source(weights_of(network), early, folder)
    arms = [arm for arm in network.arms if arm.name in words and (early or not arm.away_from_early)]
    if any(not source.file(arm).exists() for arm in arms):
        draw(source, arms, SEEDS, host_folder(), processes=1)
    pictures = {arm.name: load_file(source.file(arm))["pixels"][:SEEDS].float() / 255 for arm in arms}
    shown = {name: text for name, text in words.items() if name in pictures}
    sheet(pictures, shown).save(IMAGES / sheet_image(numbers.network))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--no-samples", action="store_true", help="leave the sheets of samples as they are")
    parser.add_argument("--early", type=expand_path, help="the early checkpoint of the UNet, for autoguidance")
    parser.add_argument("--folder", type=expand_path, default=FOLDER, help="where the twelve seeds are kept")
    options = parser.parse_args()
    networks = kept_numbers()
    if not networks:
        raise SystemExit("No network has numbers yet. Draw with lab.testbed.draw and measure with lab.testbed.results.")
    written = pages(networks)
    for name, numbers in networks.items():
        if not has_pictures(numbers):
            continue
        content = numbers.content
        title = f"{TITLES[name]}: {content['count']:,} seeds a setting, guidance {content['guidance']:g}"
        save(frontier(numbers, title), IMAGES / frontier_image(name))
        if not options.no_samples:
            write_sheet(numbers, options.early if name == "unet" else None, options.folder)
    for path, text in written.items():
        path.write_text(text, encoding="utf-8")
    print(f"Written: {', '.join(path.name for path in written)} and the pictures of {', '.join(networks)}.")


if __name__ == "__main__":
    main()
