"""The file of a trial: JSON of a stated version, without prompts, paths or pictures, and what is checked in it.

    kind      "symmetric-attention trial"
    version   1
    model     class (Python's name of it), weights (up to 16 numbers), name (as the user gives it, or "")
    machine   what sampled
    sampling  width, height, steps, cfg, sampler, scheduler, prompts, packaged, texts ([] unless the user says so)
    minutes   the budget;  took: what was needed
    space     where images were compared;  unit: of a distance
    choice    a list of ways on some seeds, γ = 1 first;  chosen: the name of one of them
    report    the same on other seeds: γ = 1, the chosen one, the rivals
    costs     ways of which only the time was measured: name, seconds of one picture
    notes     sentences on what is missing

A way has `way` (name, gamma, beta, start, end, rival, strength), `n`, `broken`, `repeated`, `seconds` of one picture
and `measures`: `[value, low, high]` by the names of `measures.MEASURES`, null for what does not exist.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ...json_file import kind_of, read_json_file
from ...shown_text import printable, shown
from ...whole_file import whole_file
from ..diversity import Estimate
from ..measures import MEASURES, Row
from .plan import MOST_MINUTES
from .plausible import Implausible, check_plausible
from .result import Cost, Measured, Sampling, Trial
from .ways import RIVAL_KINDS, Way

KIND = kind_of("trial")
VERSION = 1
SUFFIX = ".trial.json"
MOST_WAYS, MOST_WEIGHTS, LONGEST_TEXT, LONGEST_TITLE, MOST_TEXTS = 64, 16, 2000, 200, 1000
NO_TITLE = frozenset("/\\|<>`")  # paths, and what ends the cell of a table
DIGITS = 6


def save_trial(trial: Trial, path: Path) -> None:
    """Write a trial; the file is there as a whole or not at all."""
    with whole_file(path) as unfinished:
        text = json.dumps(trial_to_json(trial), indent=1, ensure_ascii=False, allow_nan=False)
        unfinished.write_text(text + "\n", encoding="utf-8")


def load_trial(path: Path) -> Trial:
    """Read a trial and check all of it.

    Raises:
        ValueError: no such file, no trial, of another version, damaged, or with numbers that nobody can have measured.
    """
    content = read_json_file(path, "trial", VERSION, "Measure Your Checkpoint (SAD)", "measure again")
    name = shown(path.name)
    try:
        trial = _trial(content)
        check_plausible(trial)
    except Implausible as problem:
        raise ValueError(f"{name} cannot be right: {problem}") from None
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as problem:
        raise ValueError(f"{name} is a damaged trial: {shown(problem)}. Measure again.") from None
    return trial


def trial_to_json(trial: Trial) -> dict[str, Any]:
    """Return what the file holds, numbers with as many digits as mean something."""
    return {
        "kind": KIND,
        "version": VERSION,
        "model": {"class": trial.model, "weights": list(map(_rounded, trial.weights)), "name": trial.name},
        "machine": trial.machine,
        "sampling": {**asdict(trial.sampling), "texts": list(trial.sampling.texts)},
        "minutes": _rounded(trial.minutes),
        "took": _rounded(trial.took),
        "space": trial.space,
        "unit": trial.unit,
        "choice": [_measured_to_json(each) for each in trial.choice],
        "chosen": trial.chosen,
        "report": [_measured_to_json(each) for each in trial.report],
        "costs": [{"name": each.name, "seconds": _rounded(each.seconds)} for each in trial.costs],
        "notes": list(trial.notes),
    }


# --- from JSON


def _trial(content: dict[str, Any]) -> Trial:
    model, sampling = content["model"], content["sampling"]
    weights = tuple(_number(each, "weights") for each in _list(model["weights"], "weights", MOST_WEIGHTS))
    name = _text(model["class"], "class")
    if not name.isidentifier():
        raise ValueError(f"class is {name}")
    return Trial(
        model=name,
        weights=weights,
        name=_title(model["name"], "name"),
        machine=_title(content["machine"], "machine"),
        sampling=Sampling(
            width=_count(sampling["width"], "width"),
            height=_count(sampling["height"], "height"),
            steps=_count(sampling["steps"], "steps"),
            cfg=_number(sampling["cfg"], "cfg", 0.0, 1000.0),
            sampler=_title(sampling["sampler"], "sampler"),
            scheduler=_title(sampling["scheduler"], "scheduler"),
            prompts=_count(sampling["prompts"], "prompts"),
            packaged=_is(sampling["packaged"], "packaged"),
            texts=tuple(_text(each, "texts") for each in _list(sampling["texts"], "texts", MOST_TEXTS)),
        ),
        minutes=_number(content["minutes"], "minutes", 0.0, MOST_MINUTES),
        took=_number(content["took"], "took", 0.0, 100 * MOST_MINUTES),
        space=_title(content["space"], "space"),
        unit=_title(content["unit"], "unit"),
        choice=_part(content, "choice"),
        chosen=_text(content["chosen"], "chosen"),
        report=_part(content, "report"),
        costs=tuple(_cost(each) for each in _list(content["costs"], "costs", MOST_WAYS)),
        notes=tuple(_text(each, "notes") for each in _list(content["notes"], "notes", MOST_WAYS)),
    )


def _part(content: dict[str, Any], name: str) -> tuple[Measured, ...]:
    ways = _list(content[name], name, MOST_WAYS, fewest=2)
    may_miss = any(_count(each["broken"], "broken", 0) for each in ways)  # what broken pictures leave nothing of
    return tuple(_measured(each, may_miss) for each in ways)


def _measured(content: dict[str, Any], may_miss: bool) -> Measured:
    given = content["way"]
    way = Way(
        name=_title(given["name"], "name of a setting"),
        **{name: _number(given[name], name, -100.0, 100.0) for name in ("gamma", "beta", "start", "end", "strength")},
        rival=_text(given["rival"], "rival"),
    )
    if way.rival not in RIVAL_KINDS:
        raise ValueError(f"rival is {way.rival}")
    if not 0 <= way.start < way.end <= 1:
        raise ValueError(f"start is {way.start:g} and end {way.end:g}")
    measures = {name: _estimate(numbers, name) for name, numbers in content["measures"].items() if name in MEASURES}
    unknown = [name for name in content["measures"] if name not in MEASURES]
    if unknown:
        raise ValueError(f"there is no measure {unknown[0]}")
    for name in ("distance", "distance_change", "pixel_drift"):
        if not may_miss and (name not in measures or not measures[name].exists):
            raise ValueError(f"{name} of {way.name} is missing")
    row = Row(
        way.gamma,
        _count(content["n"], "n", 0),
        _count(content["broken"], "broken", 0),
        _count(content["repeated"], "repeated", 0),
        measures,
    )
    return Measured(way, row, _seconds(content))


def _cost(content: dict[str, Any]) -> Cost:
    return Cost(_title(content["name"], "name of a setting"), _seconds(content))


def _seconds(content: dict[str, Any]) -> float:
    return _number(content["seconds"], "seconds", 1e-6, 1e6)


def _measured_to_json(found: Measured) -> dict[str, Any]:
    row = found.row
    return {
        "way": {name: _rounded(each) for name, each in asdict(found.way).items()},
        "n": row.n,
        "broken": row.broken,
        "repeated": row.repeated,
        "seconds": _rounded(found.seconds),
        "measures": {
            name: [_rounded(each) for each in (number.value, number.low, number.high)]
            for name, number in row.measures.items()
        },
    }


def _rounded(value: Any) -> Any:
    """A number with `DIGITS` digits, None where it is not finite; all else as it is."""
    if not isinstance(value, float):
        return value
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None


def _number(value: Any, name: str, lowest: float = -math.inf, highest: float = math.inf) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{name} is not a number")
    if not lowest <= value <= highest:
        raise ValueError(f"{name} is {value:g}, not from {lowest:g} to {highest:g}")
    return float(value)


def _count(value: Any, name: str, lowest: int = 1) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= 10**6:
        raise ValueError(f"{name} is not a whole number from {lowest} to {10**6}")
    return value


def _is(value: Any, name: str) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{name} is neither true nor false")
    return value


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str) or len(value) > LONGEST_TEXT:
        raise TypeError(f"{name} is not text of at most {LONGEST_TEXT} characters")
    return value


def title_of(text: str) -> str:
    """Return a text in the form that a table allows: one line without the marks of paths and tables, not too long."""
    line = " ".join("".join(" " if each in NO_TITLE else each for each in text).split())
    return printable(line[:LONGEST_TITLE].rstrip())


def _title(value: Any, name: str) -> str:
    """A text of a table: one line, and no path."""
    text = _text(value, name)
    if printable(text) != text or set(text) & NO_TITLE:
        raise ValueError(f"{name} is not a single line of text without a path")
    return text


def _list(value: Any, name: str, most: int, fewest: int = 0) -> list[Any]:
    if not isinstance(value, list) or not fewest <= len(value) <= most:
        raise TypeError(f"{name} is not a list of {fewest} to {most} entries")
    return value


def _estimate(value: Any, name: str) -> Estimate:
    numbers = [math.nan if each is None else _number(each, name) for each in _list(value, name, 3, fewest=3)]
    return Estimate(*numbers)
