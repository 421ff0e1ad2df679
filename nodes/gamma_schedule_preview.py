"""The points of the chart on Gamma Schedule (SAD), which shows γ over the run while its widgets change."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from .host.settings import beyond_range
from .schedule_shapes import FIELDS, make_schedule

LONGEST_TEXT = 10_000


def preview(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return γ over the run as the node would give it, or a sentence where there is none.

    Args:
        asked: "widgets": the value of every widget by its name; "wired": names of the inputs that come by a wire.

    Returns:
        "points": `(progress, gamma)` to be joined by straight lines, with "warning" where γ leaves the range of the
        widgets; or "note": why γ is not known yet; or "problem": the message of the error that the node itself would
        raise.
    """
    widgets, wired = asked.get("widgets"), asked.get("wired")
    if not isinstance(widgets, dict) or not isinstance(wired, list):
        return {"problem": "Send the widgets as an object and the wired inputs as a list."}
    shape = widgets.get("shape")
    fields = [] if "shape" in wired else FIELDS.get(str(shape), ())
    from_wires = ["shape"] if "shape" in wired else [name for name in fields if name in wired]
    if from_wires:
        what = " and ".join(from_wires)
        return {
            "note": f"The curve comes from the wire at {what}. The picture output shows it after the workflow has run."
        }
    given = {name: widgets[name] for name in fields if name in widgets}
    if any(isinstance(value, (str, list, dict)) and len(str(value)) > LONGEST_TEXT for value in given.values()):
        return {"note": f"A text of more than {LONGEST_TEXT:,} characters is not previewed."}
    try:
        points = make_schedule(str(shape), **given).polyline()
    except (ValueError, OverflowError) as problem:
        return {"problem": str(problem)}
    except TypeError:
        return {"problem": "A number is missing. Fill every field of the chosen shape."}
    if not all(math.isfinite(gamma) for _, gamma in points):
        return {"problem": "γ overflows. Choose smaller values."}
    warning = beyond_range(*(gamma for _, gamma in points))
    return {"points": points} if warning is None else {"points": points, "warning": f"{warning}."}
