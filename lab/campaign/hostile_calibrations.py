"""Files of calibrations, whole and hostile, and what a user can do with one."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from lab.campaign.damage import damaged_json
from lab.campaign.file_kinds import FileKind
from sad_core import GammaSchedule
from sad_core.evaluation.calibration import Calibration, Point
from sad_core.evaluation.calibration_file import load_calibration, save_calibration
from sad_core.evaluation.diversity import Estimate

POSITIONS = (-1.0, -0.5, 0.0, 0.3, 1.0)


def a_calibration() -> Calibration:
    """A slider of four γ."""
    gammas, values = (0.9, 1.0, 1.2, 1.5), (0.2, 0.3, 0.35, 0.5)
    points = [
        Point(gamma, 8, *(Estimate(each, each - 0.01, each + 0.01) for each in (value, value - 0.3, abs(gamma - 1))))
        for gamma, value in zip(gammas, values, strict=True)
    ]
    return Calibration(tuple(points), values, 0.6, (2.0,), "pixels", "root mean square", 3.0, 0.0, 0.6, "SD15", (0.5,))


def whole_calibrations(folder: Path) -> list[bytes]:
    """The file of a calibration."""
    save_calibration(a_calibration(), folder / "whole.json")
    return [(folder / "whole.json").read_bytes()]


def handmade_calibrations() -> list[bytes]:
    """Files whose numbers lead out of what can be computed, or whose texts could not be shown; the first is right."""
    nothing = {"value": 0, "low": 0, "high": 0}
    measured = {"n": 8, "diversity": nothing, "change": nothing, "drift": nothing}
    points = [{"gamma": gamma, **measured} for gamma in (1.0, 1.5)]
    right = {"kind": "symmetric-attention calibration", "version": 1, "points": points, "smooth": [0.1, 0.2]}
    right |= {"largest_drift": 0.6, "left_out": [], "space": "pixels", "unit": "distance", "beta": 1, "start": 0}
    right |= {"end": 1, "model": "SD15", "weights": []}

    def file(**changed: Any) -> bytes:
        return json.dumps(right | changed).encode()

    return [
        file(),
        file(smooth=[-1e308, 1e308]),
        file(points=[points[0], {**points[1], "gamma": 1e300}]),
        file(points=[points[0], {**points[1], "n": 10**300}]),
        file(points=[points[0]] * 2),
        file(points=[points[0], {**points[1], "gamma": 1.0000000000000002}]),
        file(version="9" * 100_000),
        file(model="x" * 100_000),
        file(unit="\u202e\n\ud800"),
        file(weights=[10**5000 % 10**400] * 3),
        b"1" * 5000,
        b"[" * 500_000,
        file() + b" " * 2**20,
    ]


def use_calibration(calibration: Calibration, content: bytes) -> None:
    """Read the setting and the texts of some positions; γ lies among those of the points."""
    gammas = [point.gamma for point in calibration.points]
    for position in POSITIONS:
        setting = calibration.at(position)
        assert min(gammas) <= setting.gamma <= max(gammas)
        GammaSchedule.from_preset("constant", setting.gamma)
        for measured in (setting.change, setting.drift):
            assert all(map(math.isfinite, (measured.value, measured.low, measured.high)))
    for side in (1, -1):
        calibration.is_open(side)
        calibration.is_sure(side)
    for text in (calibration.model, calibration.space, calibration.unit):
        assert text.isprintable()
        text.encode()
    file = json.loads(content)
    assert [each["gamma"] for each in file["points"]] == gammas
    assert len(file["smooth"]) == len(calibration.smooth)


CALIBRATION = FileKind(whole_calibrations, handmade_calibrations, damaged_json, load_calibration, use_calibration)
