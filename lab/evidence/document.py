"""The tables of docs/evidence_emoji.md, written between its markers; the words around them are written by people."""

from __future__ import annotations

import re
from typing import Any

from lab.evidence.settings import SETTINGS, Setting
from lab.evidence.stability import MEASURES
from lab.evidence.stability_and_quality import DIVERSITY, FIDELITY
from lab.folders import DOCS

DOCUMENT = DOCS / "evidence_emoji.md"
COLUMNS = {
    "probability": "judge",
    "density/imagenet/unseen": "density",
    "kernel distance/imagenet/unseen": "kernel distance",
    "mixture/pixels": "mixture",
    "patchwork/pixels": "patchwork",
    "high frequency": "high frequency",
    "apart/imagenet": "apart",
    "apart/pixels": "apart, pixels",
    "vendi/imagenet": "Vendi",
    "recall/imagenet/unseen": "recall",
    "drift/pixels": "drift, pixels",
}
TARGETS = {
    "probability": "judge",
    "density/imagenet/unseen": "density",
    "nearest unseen/imagenet": "distance to unseen",
    "mixture/pixels": "mixture",
    "patchwork/pixels": "patchwork",
    "distance to others/imagenet": "distance to others",
    "distance to others/pixels": "the same, pixels",
}
assert set(TARGETS) == {*FIDELITY, *DIVERSITY}


def with_tables(text: str, numbers: dict[str, Any]) -> str:
    """The text of the document with the tables of these numbers between `<!-- table: name -->` and `<!-- end -->`.

    Raises:
        ValueError: a table without a place in the document, or a place without a table.
    """
    tables = tables_of(numbers)
    places = re.findall(r"<!-- table: (.+?) -->", text)
    if sorted(places) != sorted(tables):
        raise ValueError(f"The document has places for {sorted(places)}, the numbers give tables {sorted(tables)}.")
    for name, table in tables.items():
        pattern = rf"(<!-- table: {re.escape(name)} -->\n).*?(<!-- end -->)"

        def filled(found: re.Match[str], table: str = table) -> str:
            return f"{found[1]}\n{table}\n\n{found[2]}"

        text = re.sub(pattern, filled, text, flags=re.DOTALL)
    return text


def tables_of(numbers: dict[str, Any]) -> dict[str, str]:
    """Markdown by name: one table for every sweep, the real pictures, and what stability says."""
    sweeps = dict.fromkeys(result["sweep"] for result in numbers["settings"].values())
    tables = {sweep: sweep_table(numbers, sweep) for sweep in sweeps}
    tables["real pictures"] = real_table(numbers["real"])
    for name, found in numbers.get("stability", {}).items():
        tables[f"correlations, {name}"] = correlation_table(found)
        tables[f"chosen predictors, {name}"] = chosen_table(found)
        tables[f"best of 8, {name}"] = best_table(found)
    return tables


def sweep_table(numbers: dict[str, Any], sweep: str) -> str:
    """Tabulate each reference with equally many seeds, and below it the changes that settings make."""
    rows = []
    chosen = {name: result for name, result in numbers["settings"].items() if result["sweep"] == sweep}
    for compared, count in dict.fromkeys((result["reference"], result["count"]) for result in chosen.values()):
        rows.append([f"**{title(compared)}**", str(count), *cells(numbers["references"][f"{compared}, {count}"])])
        for name, result in chosen.items():
            if (result["reference"], result["count"]) == (compared, count) and name != compared:
                rows.append([title(name), str(count), *changes(result["changes"], result["measures"])])
    return markdown(["setting", "n", *COLUMNS.values()], rows)


def title(name: str) -> str:
    """A setting in words, such as `γ 0.5, β 3`."""
    setting = next(each for each in SETTINGS if each.name == name)
    default = Setting("", "")
    words = [
        f"γ {setting.gamma:g}" * (setting.gamma != 1),
        f"β {setting.beta:g}" * (setting.beta != 1),
        "adaptive" * setting.adaptive,
        f"{setting.sites} blocks" * bool(setting.sites),
        f"from {setting.start:.0%} to {setting.end:.0%}" * ((setting.start, setting.end) != (0.0, 1.0)),
        f"CFG {setting.guidance:g}" * (setting.guidance != default.guidance),
        f"{setting.steps} steps" * (setting.steps != default.steps),
        f"noise × {setting.temperature:g}" * (setting.temperature != 1),
        f"PAG {setting.pag:g}" * bool(setting.pag),
        f"SAG {setting.sag:g}" * bool(setting.sag),
        f"FreeU {', '.join(f'{factor:g}' for factor in setting.freeu or ())}" * bool(setting.freeu),
    ]
    return ", ".join(word for word in words if word) or "plain model"


def cells(measures: dict[str, list[float]]) -> list[str]:
    """Numbers with their intervals, empty where there is none."""
    return [spell(measures[name]) if name in measures else "" for name in COLUMNS]


def changes(differences: dict[str, list[float]], measures: dict[str, list[float]]) -> list[str]:
    """Differences with a sign, bold where the interval leaves out 0; drift is none, so it comes as it is."""
    found = []
    for name in COLUMNS:
        if name.startswith("drift"):
            found.append(spell(measures[name]) if name in measures else "")
        elif name not in differences:
            found.append("")
        else:
            found.append(bold_if_sure(spell(differences[name], sign="+"), differences[name]))
    return found


def spell(numbers: list[float], sign: str = "") -> str:
    """`0.912 [0.89, 0.93]`: the value and its interval."""
    value, low, high = numbers
    digits = 1 if abs(value) >= 10 else 3 if max(abs(number) for number in numbers) >= 0.0995 else 4
    return f"{value:{sign}.{digits}f} [{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]"


def real_table(real: dict[str, Any]) -> str:
    """Real pictures measured as if they were samples; six are too few for an interval."""
    wanted = (
        *("probability", "mixture/pixels", "patchwork/pixels", "mixture/classifier", "mixture/imagenet"),
        *("saturation", "high frequency", "nearest memory/pixels", "nearest memory/imagenet"),
    )
    rows = []
    for name in wanted:
        numbers = [(each["count"], each["measures"][name]) for each in real.values()]
        rows.append([f"`{name}`", *(spell(each) if count > 30 else f"{each[0]:.3g}" for count, each in numbers)])
    return markdown(["measure", *(f"{name}, n = {each['count']}" for name, each in real.items())], rows)


def correlation_table(found: dict[str, Any]) -> str:
    """Pearson and Spearman of the five measures over all sites and steps."""
    rows = []
    for measure in MEASURES:
        for kind in ("pearson", "spearman"):
            row = [found["correlations"][measure][target][kind] for target in TARGETS]
            rows.append([f"{measure}, {kind.capitalize()}", *(marked(numbers) for numbers in row)])
    return markdown([f"n = {found['count']}", *TARGETS.values()], rows)


def marked(numbers: list[float]) -> str:
    """A correlation, bold where its interval leaves out 0."""
    value, low, high = numbers
    return bold_if_sure(f"{value:+.2f} [{low:+.2f}, {high:+.2f}]", numbers)


def bold_if_sure(cell: str, numbers: list[float]) -> str:
    """The cell, bold where the interval leaves out 0."""
    _, low, high = numbers
    return f"**{cell}**" if low > 0 or high < 0 else cell


def chosen_table(found: dict[str, Any]) -> str:
    """The best predictor of each target on the even seeds, judged on the odd ones."""
    rows = [
        [TARGETS[target], row["predictor"], f"{row['chosen on']:+.2f}", marked(row["judged on"])]
        for target, row in found["chosen"].items()
    ]
    return markdown(["of", "best of 80 on the even seeds", "there", "on the odd seeds"], rows)


def best_table(found: dict[str, Any]) -> str:
    """Tabulate the gain of choosing one of eight seeds by stability, and its effect on the other target."""
    rows = []
    for target, row in found["best of 8"].items():
        gain, most = (spell(row[name], sign="+") for name in ("gain", "largest possible gain"))
        changed = row["gain of the others"].items()
        others = ", ".join(f"{TARGETS[name]} {spell(change, sign='+')}" for name, change in changed)
        rows.append([TARGETS[target], row["predictor"], spell(row["random"]), gain, most, others])
    head = ["to raise", "choose the seed with the", "random seed", "gain", "largest possible gain", "meanwhile"]
    return markdown(head, rows)


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
