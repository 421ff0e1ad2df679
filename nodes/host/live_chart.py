"""The chart that grows on a probe while it measures: every step goes to the browsers as it is finished.

Every page that shows the graph draws it, not only the one that queued the prompt. The points are also kept here for a
while, for pages that are opened or reloaded later. No run ever reads them.
"""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from ...sad_core.stability.run import StabilityRun
from ...sad_core.stability.step import Step
from .browser import log, running_workflow, send_event

EVENT = "symmetric_attention.stability"
NO_ID = "00000000-0000-0000-0000-000000000000"  # of every graph that the editor has given none of its own
KEPT_CHARTS = 32
MOST_POINTS = 1000

Point = dict[str, Any]
Bands = Sequence[Sequence[tuple[float, float, float]]]
GAMMA = "gamma"  # what the chart calls the γ of feedback, beside the measures
MOST_IMAGES = 4  # with a line of their own for γ


class LiveChart:
    """The chart of one sampling run behind one probe node.

    Args:
        node_id: as the prompt has it, `12:3` for the node 3 in the subgraph 12.
        workflow: the id of the graph the prompt was queued from: node ids by themselves are not unique.
        measures: names of the numbers of every point.
        bands: what is normal for each measure, as `(progress, lowest, highest)` by progress; empty where not known.
    """

    def __init__(self, node_id: str, workflow: str, measures: tuple[str, ...], bands: Bands = ()):
        self.node_id = node_id
        self.workflow = workflow
        self.measures = measures
        self.bands = bands
        self.started = time.time()
        self.status = "running"
        self._points: dict[int, Point] = {}
        self._lock = threading.Lock()

    def add(self, run: StabilityRun) -> None:
        """Send the newest step of `run`; cond and uncond in calls of their own make one point, sent twice.

        What goes wrong here stays in the log: a chart is not worth a run.
        """
        try:
            step = run.last_step
            if step is None:
                return
            point = point_of(step, run.step_count)
            with self._lock:
                self._points[point["step"]] = point
                if len(self._points) > MOST_POINTS:
                    self._points = dict(list(self._points.items())[::2])
            self.send([point])
        except Exception:
            log.debug("a step could not be charted", exc_info=True)

    def close(self, status: str) -> None:
        """Send how the run ended: "finished", "interrupted" or "failed (…)"."""
        self.status = status
        self.send([])

    def send(self, points: list[Point]) -> None:
        """Send some points to every page, which knows its graph by the id; without one, to the page that queued it."""
        send_event(EVENT, self.message(points), to_all=self.workflow != NO_ID)

    def message(self, points: list[Point] | None = None) -> dict[str, Any]:
        """Return the message to the browser: the node of the run, and the given points or all points."""
        with self._lock:
            return {
                "node": self.node_id,
                "workflow": self.workflow,
                "run": self.started,
                "status": self.status,
                "measures": list(self.measures),
                "bands": [[[_plain(number) for number in point] for point in band] for band in self.bands],
                "points": list(self._points.values()) if points is None else points,
            }


class LiveCharts:
    """The newest run of the last probe nodes that measured something."""

    def __init__(self) -> None:
        self._charts: OrderedDict[tuple[str, str], LiveChart] = OrderedDict()
        self._lock = threading.Lock()

    def begin(self, node_id: str | None, measures: tuple[str, ...], bands: Bands = ()) -> LiveChart | None:
        """A chart for a run that starts now; None where no graph in an editor has the node. Arguments as there."""
        workflow = None if node_id is None else running_workflow()
        if node_id is None or workflow is None:
            return None
        chart = LiveChart(node_id, workflow, measures, bands)
        with self._lock:
            self._charts[workflow, node_id] = chart
            self._charts.move_to_end((workflow, node_id))
            while len(self._charts) > KEPT_CHARTS:
                self._charts.popitem(last=False)
        chart.send([])
        return chart

    def of_workflow(self, asked: Mapping[str, Any]) -> list[dict[str, Any]]:
        """All points of the newest run of every probe in the graph whose id is `asked["workflow"]`."""
        with self._lock:
            found = [chart for chart in self._charts.values() if chart.workflow == asked.get("workflow")]
        return [chart.message() for chart in found]


charts = LiveCharts()


def point_of(step: Step, number: int) -> Point:
    """A step in numbers for the browser, the measures averaged over heads, samples and sites; γ last, if it followed.

    Args:
        step: the step.
        number: how many steps were measured up to it.
    """
    means = step.part_means()
    if len(means) == 2:  # there is only one part
        means = {"all": means["all"]}
    columns = {part: values.tolist() for part, values in means.items()}
    gammas = step.gamma_by_sample()
    if gammas:
        count = len(columns["all"])
        columns = {part: [*values, math.nan] for part, values in columns.items()}
        columns["all"][-1] = sum(gammas.values()) / len(gammas)
        for sample, gamma in list(gammas.items())[:MOST_IMAGES] if len(gammas) > 1 else ():
            columns[f"image {sample + 1}"] = [*[math.nan] * count, gamma]
    return {
        "step": number,
        "sigma": _plain(step.sigma),
        "progress": _plain(step.progress),
        "means": {part: [_plain(value) for value in values] for part, values in columns.items()},
    }


def _plain(value: float) -> float | None:
    """Six digits of a number; None for what JSON cannot hold."""
    return float(f"{value:.6g}") if math.isfinite(value) else None
