"""The layouts of Stability Plot (SAD): which run, pass and site of a trace each of them draws."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ...sad_core import StabilityBaseline, StabilityTrace, difference
from ...sad_core.stability.run import StabilityRun
from ...sad_core.stability.step import is_of, split_pass
from .stability import MOST_CURVES, draw_curves, draw_heads, draw_heat_maps, draw_maps, draw_message

LAYOUTS = ("heat map", "curves", "heads", "difference", "map", "z-scores")
PASSES = ("both", "cond", "uncond")
WIRE_AFTER = (
    'Wire the LATENT of the sampler, or an image made from it, to "after", so that the trace is drawn when sampling is '
    "done."
)
NOTHING_TO_COMPARE = (
    'There is nothing to compare with. Wire a second trace to "compare_with", or sample twice through the same probe.'
)
NO_BASELINE = 'No baseline is wired. Wire Stability Baseline (SAD) or Load Stability Baseline (SAD) to "baseline".'
PASSES_MEAN = '"cond" is the positive prompt, "uncond" the negative one. At CFG 1 ComfyUI leaves uncond out.'


def draw_layout(
    trace: StabilityTrace,
    layout: str,
    passes: str,
    site: str,
    other: StabilityTrace | None,
    after: Any = None,
    baseline: StabilityBaseline | None = None,
) -> Tensor:
    """Draw the newest run of `trace`.

    Args:
        trace: what a probe measured.
        layout: one of `LAYOUTS`.
        passes: one of `PASSES`.
        site: address of a site, for "heads" and "map"; empty means the least aligned or the first mapped one.
        other: a second trace, for "difference" and "curves".
        after: the image that a map is drawn over, where it is a ComfyUI IMAGE.
        baseline: what is normal for the model, for "z-scores" and "curves".

    Returns:
        A ComfyUI IMAGE, `(1, height, width, 3)` in [0, 1]; that of a sentence where there is nothing to draw.

    Raises:
        ValueError: a site the run does not have, a map that was not kept, a baseline of something else.
    """
    if trace.is_empty:
        return draw_message(f"{trace.summary()}\n{WIRE_AFTER}")
    run = trace.runs[-1]
    if not run.steps:
        return draw_message(run.summary())
    found = [] if passes == "both" else [name for name in run.passes if is_of(name, passes)]
    if passes != "both" and not found and layout != "map":  # a map shows whatever pass there is
        return draw_message(f"This run had no {passes} pass, only {' and '.join(run.passes)}. {PASSES_MEAN}")
    pass_name = split_pass(found[0])[0] if found else None if passes == "both" else passes
    if layout == "heads":
        return draw_heads(run, site.strip() or least_aligned(run), pass_name)
    if layout == "map":
        image = after[0].cpu() if isinstance(after, Tensor) else None
        return draw_maps(run, _mapped(run, site.strip()), pass_name or "positive", image)
    if layout == "curves":
        if baseline is not None:
            baseline.check_run(run)
        return draw_curves(_curves(run, pass_name, other), baseline)
    if layout == "z-scores":
        return draw_message(NO_BASELINE) if baseline is None else draw_heat_maps(baseline.z_scores(run), pass_name)
    if layout == "difference":
        earlier = _measured(other)[-1:] if other is not None else _measured(trace)[-2:-1]
        if not earlier:
            return draw_message(NOTHING_TO_COMPARE)
        return draw_heat_maps(difference(run, earlier[0]), pass_name)
    return draw_heat_maps(run, pass_name)


def _measured(trace: StabilityTrace) -> list[StabilityRun]:
    """Return the runs that have something to draw."""
    return [run for run in trace.runs if run.steps]


def _curves(
    run: StabilityRun, pass_name: str | None, other: StabilityTrace | None
) -> list[tuple[str, StabilityRun, str | None]]:
    """Return what the curves show: two traces, or every prompt of one."""
    if other is not None and _measured(other):
        return [("trace", run, pass_name), ("compare_with", _measured(other)[-1], pass_name)]
    names = list(dict.fromkeys(split_pass(each)[0] for each in run.passes))
    order = ("positive", "negative")  # the first two in the order of the widget, whatever order they were measured in
    names.sort(key=lambda name: next((place for place, side in enumerate(order) if is_of(name, side)), len(order)))
    if pass_name is None and 1 < len(names) <= MOST_CURVES:
        return [(name, run, name) for name in names]
    return [(pass_name or ", ".join(run.passes), run, pass_name)]


def _mapped(run: StabilityRun, site: str) -> str:
    """Return the site whose map is drawn: `site`, or the first that was mapped.

    Raises:
        ValueError: the run has no map, or none of this site.
    """
    available = list(dict.fromkeys(address for step in run.steps for address in step.maps))
    if not available or (site and site not in available):
        found = f"maps only of {', '.join(available)}" if available else "no map"
        raise ValueError(
            f'The trace has {found}. Name the site in "map_site" of Stability Probe (SAD) and sample again.'
        )
    return site or available[0]


def least_aligned(run: StabilityRun) -> str:
    """Return the site whose mean alignment is lowest, or its first measure in a run without alignment."""
    measure = "alignment" if "alignment" in run.measures else run.measures[0]
    return run.addresses[int(run.matrix(measure).nanmean(dim=1).nan_to_num(nan=float("inf")).argmin())]
