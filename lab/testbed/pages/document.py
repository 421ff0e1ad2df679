"""The text between the marks of docs/evidence.md and docs/evidence_details.md; people write the words around."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from lab.figures.makers import LEAST_SETTINGS
from lab.folders import DOCS
from lab.testbed.networks import NETWORKS
from lab.testbed.pages.acting import acting_parts, long_acting, short_acting
from lab.testbed.pages.answers import Answer, answers_of
from lab.testbed.pages.reading import Numbers
from lab.testbed.pages.subsets import kept_subsets, long_subsets, short_subsets
from lab.testbed.pages.tables import HEADLINE, LEADING, all_rows, curves, floor, headline, pairs
from lab.testbed.shape import MODEL_FILE

EVIDENCE, DETAILS = DOCS / "evidence.md", DOCS / "evidence_details.md"
TITLES = {
    "unet": "The UNet",
    "dit": "The second architecture: a NextDiT",
    "twin": "The distilled twin: four steps, the guidance inside",
}
ACTING, SUBSETS = (MODEL_FILE.with_name(name) for name in ("acting.json", "subsets.json"))
OWN = {"unet": range(1, 10), "dit": (1, 2, 8, 13), "twin": (1, 2, 11, 12)}  # the answers of the short form
MARK = re.compile(r"(<!-- testbed: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def pages(networks: Mapping[str, Numbers]) -> dict[Path, str]:
    """Both documents with what the numbers of these networks say; a network without numbers has no section.

    The section on subsets is that of subsets.json, that on acting of acting.json; there is none without the file.

    Raises:
        ValueError: a document has other marks than one for each network, one for the subsets and one for acting.
    """
    parts, subsets = acting_parts(ACTING), kept_subsets(SUBSETS)
    writers = (
        (EVIDENCE, short_section, short_subsets, short_acting),
        (DETAILS, long_section, long_subsets, long_acting),
    )
    found = {}
    for path, section, of_subsets, of_acting in writers:
        text = path.read_text(encoding="utf-8")
        if [name for _, name, _ in MARK.findall(text)] != [*TITLES, "subsets", "acting"]:
            raise ValueError(f"{path.name}: the marks of {', '.join(TITLES)}, subsets and acting are not all there.")
        sections = {name: section(numbers, networks) for name, numbers in networks.items()}
        sections |= {"subsets": of_subsets(subsets), "acting": of_acting(parts)}

        def filled(mark: re.Match[str], sections: Mapping[str, str] = sections) -> str:
            inside = sections.get(mark[2], "")
            return f"{mark[1]}\n{inside}\n\n{mark[3]}" if inside else f"{mark[1]}{mark[3]}"

        found[path] = MARK.sub(filled, text)
    return found


def short_section(numbers: Numbers, networks: Mapping[str, Numbers]) -> str:
    """The picture, the leading columns of the headline's table, and the answers that the short form has."""
    every = {each.number: each for each in answers_of(numbers, networks)}
    own = [each for number, each in every.items() if number in OWN[numbers.network]]
    answers = "\n".join(f"{each.number}. **{each.question}** {each.verdict}" for each in own)
    plane = (
        f"![Change of the Fréchet distance against change of coverage, a curve for each method]"
        f"(images/{frontier_image(numbers.network)})"
    )
    sheet = (
        f"![The same twelve seeds under the best of each method, the unpatched model above]"
        f"(images/{sheet_image(numbers.network)})"
    )
    pictures = [plane, sheet] if has_pictures(numbers) else ["", ""]
    opening = " ".join([f"{numbers.content['count']:,} seeds a setting.", *drawn_so_far(numbers)])
    parts = [opening, pictures[0], headline(numbers, LEADING), pictures[1], answers]
    return "\n\n".join([f"## {TITLES[numbers.network]}", *filter(None, parts)])


def long_section(numbers: Numbers, networks: Mapping[str, Numbers]) -> str:
    """The answers with their numbers, the curves, the pairs and all rows."""
    title = TITLES[numbers.network]
    return "\n\n".join(
        [
            f"## {title}",
            f"{numbers.content['count']} seeds a setting, {numbers.content['choice count']} other ones for the choice "
            f"of strengths.",
            *drawn_so_far(numbers),
            floor(numbers),
            "### The chosen strength of each method",
            headline(numbers, HEADLINE),
            "### Answers",
            *(told(each) for each in answers_of(numbers, networks)),
            "### What each method's curve gains",
            curves(numbers),
            "### Settings against each other",
            pairs(numbers),
            "### All settings",
            all_rows(numbers),
        ]
    )


def drawn_so_far(numbers: Numbers) -> list[str]:
    """A paragraph on the settings that were not drawn yet, as a list; empty where all were drawn."""
    every = {arm.name for arm in NETWORKS[numbers.network].arms}
    known = len(every & set(numbers.arms))
    return [f"So far {known} of {len(every)} settings have been drawn."] if known < len(every) else []


def has_pictures(numbers: Numbers) -> bool:
    """Return whether enough settings were drawn, so that a picture shows more than a few points."""
    return len(numbers.arms) >= LEAST_SETTINGS


def told(answer: Answer) -> str:
    """An answer as a paragraph."""
    return f"**{answer.number}. {answer.question}** {answer.verdict} {answer.because}".strip()


def frontier_image(network: str) -> str:
    """The name of the picture of a network's frontier."""
    return f"evidence_frontier_{network}.png"


def sheet_image(network: str) -> str:
    """The name of the picture of a network's samples."""
    return f"evidence_seeds_{network}.png"
