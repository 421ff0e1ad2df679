"""The tables of the pages: the headline of a network, all its rows, its curves, and its pairs."""

from __future__ import annotations

from lab.testbed.comparisons import ON_TOP, is_stochastic
from lab.testbed.pages.reading import Change, Numbers, bold, in_words, markdown, spell
from lab.testbed.scores import DIVERSITY, FIDELITY

HEADLINE = {
    "frechet": "Fréchet distance",
    "coverage": "coverage",
    "recall": "recall",
    "vendi": "Vendi",
    "apart": "seed distance",
    "judge": "judge",
}
LEADING = {name: HEADLINE[name] for name in ("coverage", "frechet", "judge")}  # of the short form
REST = {
    "kernel": "kernel distance ×1000",
    "imagenet": "the same, ImageNet",
    "precision": "precision",
    "density": "density",
    "saturation": "saturation",
    "high frequency": "high frequency",
}
COST = ("calls", "time")
OURS = ("γ", "γ, β 3", "γ, adaptive")
CURVE = ("diversity at equal fidelity", "fidelity at equal diversity", "dominated area")


def headline(numbers: Numbers, columns: dict[str, str]) -> str:
    """A row for each knob at the strength that the choice seeds took; those without such a strength are named below."""
    best = next((arm for arm, *_ in numbers.pairs(4)), None)  # of ours, by the choice seeds
    chosen = {knob: name for knob in numbers.ours if (name := numbers.chosen(knob))}  # all count where no rival has one
    ours = [knob for knob in numbers.ours if knob in OURS or (knob in chosen and best in (None, chosen[knob]))]
    known = [*ours, *numbers.rivals, *numbers.on_top]
    shown = [knob for knob in known if numbers.chosen(knob) in numbers.arms]
    shown.sort(key=lambda knob: -numbers.change(str(numbers.chosen(knob)), DIVERSITY).value)
    rows = [of_plain(numbers, "plain model", columns)]
    for knob in shown:
        rows.append(of_arm(numbers, str(numbers.chosen(knob)), columns))
    lost = [knob for knob in known if knob not in shown]
    table = markdown(["setting", *COST, *columns.values()], rows)
    if lost:
        table += (
            "\n\nThese methods have no row, because none of the strengths that were drawn raised coverage on the "
            f"choice seeds without a larger Fréchet distance: {'; '.join(lost)}."
        )
    return table


def of_plain(numbers: Numbers, name: str, columns: dict[str, str]) -> list[str]:
    """The row of an unpatched model: its own measures."""
    measures = numbers.arms[name]["measures"]
    cells = [spell(measures[each]) if each in measures else "" for each in columns]
    return [f"**{in_words(name)}**", *cost_of(numbers, name), *cells]


def of_arm(numbers: Numbers, name: str, columns: dict[str, str]) -> list[str]:
    """The row of an arm: changes from its unpatched model."""
    changes = numbers.arms[name]["changes"]
    cells = [bold(Change(each, *changes[each])) if each in changes else "" for each in columns]
    return [name, *cost_of(numbers, name), *cells]


def cost_of(numbers: Numbers, name: str) -> list[str]:
    """The calls and the time of an arm as cells, empty where they were not measured."""
    return [str(numbers.costs[name].calls), f"{numbers.time(name):.1f}"] if name in numbers.costs else ["", ""]


def all_rows(numbers: Numbers) -> str:
    """Every arm, in two tables of one order: what the headline has, and the rest with the drift."""
    parts = []
    for columns in (HEADLINE, REST):
        drift = ["drift"] * (columns is REST)
        rows = []
        for name, row in numbers.arms.items():
            if "changes" not in row:
                rows.append(of_plain(numbers, name, columns) + [""] * len(drift))
            else:
                moved = [spell(row["measures"]["drift"])] if drift else []
                rows.append(of_arm(numbers, name, columns) + moved)
        parts.append(markdown(["setting", *COST, *columns.values(), *drift], rows))
    return "\n\n".join(parts)


def floor(numbers: Numbers) -> str:
    """Real pictures that no model drew beside the unpatched model."""
    columns = HEADLINE | REST
    rows = []
    plain, real = numbers.arms["plain model"]["measures"], numbers.content["floor"]
    for name, measures in {"unpatched model": plain, "validation images (the floor)": real}.items():
        rows.append([name, *(spell(measures[each]) if each in measures else "" for each in columns)])
    return markdown(["", *columns.values()], rows)


def curves(numbers: Numbers) -> str:
    """The three numbers of each knob's curve, the largest area first."""
    found = {knob: row for knob, row in numbers.content["knobs"].items() if not is_stochastic(knob)}
    rows = [
        [f"**{knob}**" if knob == "γ" else knob, *(spell(row[each]) for each in CURVE)]
        for knob, row in sorted(found.items(), key=lambda each: -each[1]["dominated area"][0])
        if not knob.startswith(ON_TOP)
    ]
    return markdown(["method", *CURVE], rows)


def pairs(numbers: Numbers) -> str:
    """The pairs of arms that were compared, by question."""
    rows = []
    for pair in numbers.content["pairs"]:
        changes = (Change(each, *pair["changes"][each]) for each in (FIDELITY, DIVERSITY, "judge"))
        rows.append([str(pair["question"]), pair["arm"], pair["against"], *map(bold, changes)])
    return markdown(["question", "setting", "less", "Fréchet distance", "coverage", "judge"], rows)
