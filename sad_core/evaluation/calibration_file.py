"""The file of a calibration: JSON, so that people can read it and reading it runs no code."""

from __future__ import annotations

import json
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

from ..file_values import number_of, text_of, whole_number_of
from ..json_file import kind_of, read_json_file
from ..shown_text import shown
from ..whole_file import whole_file
from .calibration import Calibration, Point
from .diversity import Estimate

KIND = kind_of("calibration")
VERSION = 1
SUFFIX = ".calibration.json"
MAKERS = "Calibrate (SAD) or Measure Your Checkpoint (SAD)"
MOST_POINTS = 1000
MOST_IMAGES = 2**31
LARGEST_NUMBER = 1e30


def save_calibration(calibration: Calibration, path: Path) -> None:
    """Write a calibration; the file is there as a whole or not at all."""
    content = {"kind": KIND, "version": VERSION, **_plain(asdict(calibration))}
    with whole_file(path) as unfinished:
        unfinished.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def load_calibration(path: Path) -> Calibration:
    """Read a calibration.

    Raises:
        ValueError: no such file, too large, no calibration, of a newer version, or with numbers that make no sense.
    """
    content = read_json_file(path, "calibration", VERSION, MAKERS, "calibrate again")
    try:
        found = _read(content)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        raise ValueError(f"{shown(path.name)} is a damaged calibration. Calibrate again.") from None
    return found


def _read(content: dict[str, Any]) -> Calibration:
    points = tuple(
        Point(
            _number(each["gamma"]),
            whole_number_of(each["n"], 1, MOST_IMAGES),
            *(_estimate(each[key]) for key in ("diversity", "change", "drift")),
        )
        for each in content["points"]
    )
    found = Calibration(
        points=points,
        smooth=tuple(_number(each) for each in content["smooth"]),
        largest_drift=_number(content["largest_drift"]),
        left_out=tuple(_number(each) for each in content["left_out"]),
        space=text_of(content["space"]),
        unit=text_of(content["unit"]),
        beta=_number(content["beta"]),
        start=_number(content["start"]),
        end=_number(content["end"]),
        model=text_of(content["model"]),
        weights=tuple(_number(each) for each in content["weights"]),
    )
    gammas = [point.gamma for point in points]
    is_rising = all(one < other for one, other in pairwise(gammas))
    steps = [other - one for one, other in pairwise(found.smooth)]
    is_monotone = all(step >= 0 for step in steps) or all(step <= 0 for step in steps)
    if not (2 <= len(points) <= MOST_POINTS and len(points) == len(found.smooth) and 1.0 in gammas):
        raise ValueError
    if not (is_rising and is_monotone and 0 <= found.start < found.end <= 1):
        raise ValueError
    return found


def _number(value: Any) -> float:
    """Return a number with which one can go on computing."""
    if abs(found := number_of(value)) > LARGEST_NUMBER:
        raise ValueError("a number is too large")
    return found


def _estimate(value: dict[str, Any]) -> Estimate:
    return Estimate(*(_number(value[key]) for key in ("value", "low", "high")))


def _plain(content: Any) -> Any:
    """Numbers with as many digits as mean something."""
    if isinstance(content, float):
        return float(f"{content:.6g}")
    if isinstance(content, dict):
        return {key: _plain(value) for key, value in content.items()}
    return [_plain(value) for value in content] if isinstance(content, (list, tuple)) else content
