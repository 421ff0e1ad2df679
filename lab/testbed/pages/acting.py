"""The worth of acting on stability, from acting.json: a sentence and the numbers it stands on for each part.

The questions are those of `lab.testbed.acting`. All choices were made on other seeds than those reported.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.testbed.acting.best_of import USUAL
from lab.testbed.arms import STEPS
from lab.testbed.pages.answers import loses, sentence, wins
from lab.testbed.pages.reading import Change, bold, markdown, spell
from lab.testbed.scores import DIVERSITY, FIDELITY

LEADING = {"frechet": "Fréchet distance", "coverage": "coverage", "judge": "judge"}
OF_PAIRS = {"coverage": "coverage", "recall": "recall", "vendi": "Vendi", "kernel": "kernel distance (not ×1000)"}
FALLING_BACK = "falls back"
DECIDED_AFTER = (2, 3, 5)
CHOSEN = "the predictor chosen on other seeds"


@dataclass(frozen=True)
class Part:
    """A part of the section: its title, a verdict in sentences, tables, and more sentences for the long form."""

    title: str
    verdict: str
    tables: str
    more: str = ""


def acting_parts(path: Path) -> list[Part]:
    """Every part that was measured, in the order of the page; none where the file is not there."""
    return parts_of(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else []


def parts_of(content: Mapping[str, Any]) -> list[Part]:
    """Every part of these numbers, in the order of the page."""
    found: list[Part] = []
    if "feedback" in content:
        found += [of_feedback(content["feedback"]), of_falling_back(content["feedback"])]
    if "candidates" in content:
        found += [of_one_of_eight(content["candidates"]), of_two_of_eight(content["candidates"])]
    if "correlations" in content:
        found.append(of_correlations(content["correlations"]))
    if "slider" in content:
        found.append(of_slider(content["slider"]))
    if "shift" in content:
        found.append(of_shift(content["shift"]))
    return found


def change(measure: str, numbers: Sequence[float]) -> Change:
    """A change with its 95 % interval. These tables are not corrected for many settings."""
    return Change(measure, numbers[0], numbers[1], numbers[2], -math.inf, math.inf)


def of_feedback(numbers: Mapping[str, Any]) -> Part:
    """Feedback beside the static γ of equal drift."""
    arms = {name: row for name, row in numbers["arms"].items() if FALLING_BACK not in name}
    changes = {name: [change(each, row["less static"][each]) for each in LEADING] for name, row in arms.items()}
    better, worse = ([name for name, (one, two, _) in changes.items() if test(one, two)] for test in (wins, loses))
    moved = [row["moved"] for row in arms.values()]
    most = "all" if min(moved) == 1 else f"at least {math.floor(1000 * min(moved)) / 10:g} % of"
    verdict = (
        f"γ moved in {most} {numbers['seeds']} images. Feedback wins against the static γ that moves images as far in "
        f"{len(better)} of {len(arms)} settings{in_brackets(better)}, and loses in {len(worse)}{in_brackets(worse)}."
    )
    rows = [
        [
            name,
            f"{row['static']:g}",
            percent(row["moved"]),
            " · ".join(f"{each:g}" for each in row["last γ"]),
            *map(bold, changes[name]),
        ]
        for name, row in arms.items()
    ]
    head = ["feedback", "static γ of equal drift", "images whose γ moved", "γ of the last step: least · mean · most"]
    table = markdown([*head, *(f"{each} less static" for each in LEADING.values())], rows)
    return Part("Feedback", verdict, table)


def in_brackets(names: Sequence[str]) -> str:
    """` (this; that)`, or nothing."""
    return f" ({'; '.join(names)})" if names else ""


def of_falling_back(numbers: Mapping[str, Any]) -> Part:
    """γ 2 that goes to 1 where a sample leaves the normal range, beside γ 2 that does not."""
    about, found = numbers["about"], numbers["falling back"]
    strong = f"γ {about['strong']:g}"
    whole = {name: change(name, found["less strong"][name]) for name in LEADING}
    tail = change("judge", found["less strong"]["worst tenth of the judge"])
    rows = [
        [f"all images, less {strong}", *map(bold, whole.values())],
        [f"the tenth that the judge likes least, less {strong}", "", "", bold(tail)],
    ]
    verdict, more = f"At {strong}, {found['images']} of {numbers['seeds']} images fell back.", ""
    if "fallen, less strong" in found:  # at least two images fell back
        fell = {name: change("judge", found[f"fallen, less {name}"]["judge"]) for name in ("strong", "plain")}
        words = (
            "more confident"
            if fell["strong"].is_better
            else "less confident"
            if fell["strong"].is_worse
            else "not significantly more confident"
        )
        verdict += (
            f" The judge is {words} about these than about the same images at {strong} all the way ({fell['strong']}). "
            f"Beside the same images at γ 1 the difference is {fell['plain']}."
        )
        more = f"Over all images the Fréchet distance changes by {whole[FIDELITY]} and coverage by {whole[DIVERSITY]}."
        rows += [
            [f"the images that fell back, less {strong}", "", "", bold(fell["strong"])],
            ["the images that fell back, less γ 1", "", "", bold(fell["plain"])],
        ]
    return Part("Fall back", verdict, markdown(["", *LEADING.values()], rows), more)


def of_one_of_eight(numbers: Mapping[str, Any]) -> Part:
    """One of eight seeds, chosen early by a score, against a random one."""
    by_row: dict[tuple[str, str, int], Change] = {}
    for row in numbers["one of eight"]:
        # What is chosen on other seeds differs by step, so that its name does.
        by = CHOSEN if row["by"].endswith("(chosen)") else row["by"]
        by_row[(by, row["target"], row["after"])] = change("judge", row["gain"])
    names = list(dict.fromkeys(by for by, *_ in by_row))
    best = {target: by_row[(f"the {target} itself", target, STEPS)] for target in ("judge", "density")}
    measures = [name for name in names if not name.startswith("the ")]
    early = {
        target: {(name, steps): by_row[(name, target, steps)] for name in measures for steps in DECIDED_AFTER}
        for target in best
    }
    counts = [
        f"{sum(each.is_better for each in found.values())} of {len(found)} raise the {target} significantly "
        f"({sum(each.is_worse for each in found.values())} lower it)"
        for target, found in early.items()
    ]
    usual, most = early["density"][USUAL], best["density"]
    held_out = [by_row[(CHOSEN, target, steps)] for target in best for steps in DECIDED_AFTER]
    nearer = [change(FIDELITY, row["change"]) for row in numbers["fréchet"][1:]]
    verdict = (
        f"One of eight seeds is kept by a score after {', '.join(map(str, DECIDED_AFTER))} of {STEPS} steps, in "
        f"{numbers['groups']} groups. Of the ways to score, {' and '.join(counts)}. Density is high where many real "
        f"images lie near, so an image of high density is a typical one. {sentence(USUAL[0])} after {USUAL[1]} steps, "
        f"the node's default measure and time, changes the density by {usual}, {percent(usual.value / most.value)} of "
        "what a choice by the density itself would after all eight are finished."
    )
    raised, falls = sum(each.is_better for each in held_out), sum(each.is_better for each in nearer)
    more = (
        f"The scores that were best on other seeds raise {raised} of {len(held_out)} numbers significantly. Of what "
        f"is kept after 3 steps the Fréchet distance falls significantly by {falls} of {len(nearer)} scores and rises "
        f"by {sum(each.is_worse for each in nearer)}."
    )
    rows = []
    for name in names:
        cells = [
            bold(by_row[key]) if (key := (name, target, steps)) in by_row else ""
            for target in best
            for steps in (*DECIDED_AFTER, STEPS)
        ]
        rows.append([name, *cells])
    head = [f"{target}, after {steps}" for target in best for steps in (*DECIDED_AFTER, STEPS)]
    after = ", ".join(map(str, (*DECIDED_AFTER, STEPS)))
    note = (
        f"{numbers['groups']} groups of eight seeds of a class. Each cell is the gain over the mean of the eight. "
        f"To decide after {after} of {STEPS} steps costs {worths(numbers)} whole runs."
    )
    random = [["random", spell(numbers["fréchet"][0]["value"])]]
    random += [[row["by"], bold(change(FIDELITY, row["change"]))] for row in numbers["fréchet"][1:]]
    distance = markdown(["one of eight after 3 steps by", "Fréchet distance, the others as changes"], random)
    return Part("Best of eight", verdict, f"{note}\n\n{markdown(['chosen by', *head], rows)}\n\n{distance}", more)


def worths(numbers: Mapping[str, Any]) -> str:
    """`2.4, 3.1, 4.5, 8`: the cost of deciding after each number of steps."""
    by_steps = {row["after"]: row["worth"] for row in numbers["one of eight"]}
    return ", ".join(f"{by_steps[steps]:g}" for steps in sorted(by_steps))


def of_two_of_eight(numbers: Mapping[str, Any]) -> Part:
    """Two of eight by difference, beside random ones."""
    rows, gained = [], []
    for row in numbers["two of eight"]:
        when = f", after {row['after']}" if "after" in row else ""
        name = f"{row['kept']} {row['by']}{when}"
        if "change" in row:
            changes = {each: change(each, row["change"][each]) for each in (*OF_PAIRS, "judge")}
            gained.append((f"{row['by']}{when}", changes))
            rows.append([name, f"{row['worth']:g}", *map(bold, changes.values())])
        else:
            rows.append([name, f"{row['worth']:g}", *(spell(row["measures"][each]) for each in (*OF_PAIRS, "judge"))])
    table = markdown(["kept of each eight", "runs", *OF_PAIRS.values(), "judge"], rows)
    best = max(gained, key=lambda each: each[1][DIVERSITY].value)
    raised = {
        OF_PAIRS[measure]: [name for name, changes in gained if changes[measure].is_better]
        for measure in ("coverage", "recall", "vendi")
    }
    counts = ", ".join(f"{name} in {len(names)}" for name, names in raised.items())
    random = ", ".join(
        f"{row['measures'][DIVERSITY][0]:.2f} with {row['kept']}"
        for row in numbers["two of eight"]
        if "after" not in row
    )
    verdict = (
        f"Two of eight that differ most are significantly more diverse than two random ones by {counts} of "
        f"{len(gained)} ways to choose. The same model calls give more random images instead, and these cover more: "
        f"{random} of each eight."
    )
    more = (
        f"The largest change of coverage is that of *{best[0]}*: {best[1][DIVERSITY]}, with a change of the kernel "
        f"distance by {best[1]['kernel']}."
    )
    note = (
        "Rows of chosen images are changes from two random ones, in sets of one size. Rows of random ones are values. "
        "The sets grow with the number that is kept."
    )
    return Part("Most different of eight", verdict, f"{note}\n\n{table}", more)


def of_correlations(numbers: Mapping[str, Any]) -> Part:
    """Stability and quality, seed by seed."""
    ranks = {measure: {aim: Change(aim, *row[aim]) for aim in row} for measure, row in numbers["ranks"].items()}
    aims = list(numbers["chosen"])
    counts = ", ".join(
        f"{sum(row[aim].is_significant_of_many for row in ranks.values())} with the {aim}" for aim in aims
    )
    related = ((name, aim, found) for name, row in ranks.items() for aim, found in row.items())
    name, aim, closest = max(related, key=lambda each: abs(each[2].value))
    through = {aim: change("judge", gain) for aim, gain in numbers["gate"]["gain"].items()}
    verdict = (
        f"Does stability tell how good an image will be? Of {len(ranks)} measures over all sites and the whole run, "
        f"these correlate significantly over {numbers['images']:,} images of the unpatched model, after correction: "
        f"{counts}. The closest relation is that of {name} to the {aim}, with a rank correlation of "
        f"{closest}. A gate that lets {percent(numbers['gate']['share'])} of the seeds through, by the node's default "
        f"measure and time, changes the density by {through['density']} and the judge by {through['judge']}."
    )
    cells = [[measure, *(bold(row[aim]) for aim in aims)] for measure, row in ranks.items()]
    chosen = [
        [aim, each["score"], f"{each['where it was chosen']:+.3f}".replace("-", "−"), bold(change(aim, each["here"]))]
        for aim, each in numbers["chosen"].items()
    ]
    tables = [
        markdown(["rank correlation within classes", *aims], cells),
        "The best of 96 scores (6 measures, 4 groups of sites, 4 times) on other seeds, by Pearson's correlation:",
        markdown(["of", "score", "on other seeds", "on these seeds"], chosen),
        "What a gate lets through, less all images:",
        markdown(aims, [[bold(through[aim]) for aim in aims]]),
    ]
    return Part("Stability and quality", verdict, "\n\n".join(tables))


def of_slider(numbers: Mapping[str, Any]) -> Part:
    """The calibrated slider on fresh seeds."""
    count = len(numbers["changes"])
    whole = change(DIVERSITY, numbers["whole way"])
    falls, rises = numbers["falls"], numbers["rises"]
    order = "Yes" if not falls and whole.is_better else "In part" if whole.is_better else "No"
    ends = {row["position"]: row for row in numbers["positions"]}
    apart = [ends[place]["distance"][0] for place in (-1.0, 0.0, 1.0)]
    cover = [f"{ends[place]['measures'][DIVERSITY][0]:.3f}" for place in (-1.0, 0.0, 1.0)]
    verdict = (
        f"Does the distance of pixels between seeds, which the slider was calibrated on, rise on {numbers['seeds']} "
        f"fresh seeds? {order}. From −1 to 1 it changes by {whole}: by {percent(apart[1] / apart[0] - 1)} up to 0 and "
        f"by {percent(apart[2] / apart[1] - 1)} beyond."
    )
    more = (
        f"Of {count} steps along the slider {rises} raise it significantly and {falls} lower it. Coverage at −1, 0 and "
        f"1 is {', '.join(cover)}."
    )
    columns = ("frechet", "coverage", "judge", "drift")
    rows = [
        [
            f"{row['position']:+g}".replace("-", "−").replace("+0", "0") if row["position"] == 0
            else f"{row['position']:+g}".replace("-", "−"),
            spell(row["distance"]),
            *(spell(row["measures"][each]) if each in row["measures"] else "" for each in columns),
        ]
        for row in numbers["positions"]
    ]  # fmt: skip
    head = ["position", "seed distance in pixels", *(LEADING.get(each, each) for each in columns)]
    return Part("The slider from precise to creative", verdict, markdown(head, rows), more)


def of_shift(numbers: Mapping[str, Any]) -> Part:
    """False alarms of the sentence on a shift, and its power."""
    largest = numbers["baselines"][-1]
    rows = []
    for baseline in numbers["baselines"]:
        for name, row in baseline["models"].items():
            measures = [percent(each["called shifted"][0]) for each in row["measures"].values()]
            rows.append([str(baseline["images"]), name, str(row["runs"]), in_percent(row["any measure"]), *measures])
    head = ["images in the baseline", "model", "runs", "any measure", *largest["models"]["unchanged"]["measures"]]
    models = {name: row for name, row in largest["models"].items() if name != "unchanged"}
    called = [row["any measure"][0] for row in models.values()]
    verdict = (
        f"A run of {numbers['images in a run']} images of the unchanged model is called shifted in "
        f"{in_percent(largest['models']['unchanged']['any measure'])} of {largest['models']['unchanged']['runs']} "
        f"runs with a baseline of {largest['images']} images, and those of {len(models)} altered models in "
        f"{100 * min(called):.0f} to {percent(max(called))}."
    )
    found = "; ".join(f"{name} {in_percent(row['any measure'])}" for name, row in models.items())
    more = f"Of the altered models, with {min(row['runs'] for row in models.values())} runs each, these are: {found}."
    return Part("The sentence on a shift", verdict, markdown(head, rows), more)


def percent(share: float) -> str:
    """`3 %`."""
    return f"{100 * share:.0f} %"


def in_percent(share: Sequence[float]) -> str:
    """`3 % [0 %, 11 %]`."""
    value, low, high = map(percent, share)
    return f"{value} [{low}, {high}]"


def short_acting(parts: Iterable[Part]) -> str:
    """The section of docs/evidence.md: a paragraph a part."""
    found = [f"- **{part.title}.** {part.verdict}" for part in parts]
    return "\n".join(["## Acting on stability", "", *found]) if found else ""


def long_acting(parts: Iterable[Part]) -> str:
    """The section of docs/evidence_details.md: the verdicts with their tables."""
    found = [f"### {part.title}\n\n{part.verdict} {part.more}".rstrip() + f"\n\n{part.tables}" for part in parts]
    return "\n\n".join(["## Acting on stability", *found]) if found else ""
