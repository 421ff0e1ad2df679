"""Plots of stability runs: heat maps, curves, heads, differences and maps over the image."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...sad_core import StabilityBaseline
from ...sad_core.stability.run import StabilityRun
from .style import BLUE, GREEN, INCHES, ORANGE, draw_text, figure_to_image, needs_matplotlib, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TITLES = {
    "energy": "energy (low is stable, grows with tokens)",
    "instability": "instability (low is stable)",
    "alignment": "alignment (high is stable)",
    "symmetricity": "symmetricity (1 symmetric, −1 skew)",
    "depth": "depth (0 deepest, −1 top)",
    "relative curvature": "relative curvature (above 0: a minimum)",
}
GAMMA = "gamma"  # the panel of the γ that feedback gave
NORMAL = 1.645  # 5 and 95 % of a normal distribution lie below −NORMAL and NORMAL
MOST_LEGEND = 12  # images that a legend names
HIGHEST = 30.0  # inches of a plot
SCALE = 0.75  # inches for the colours of the maps and their numbers
MOST_LABELS = 90  # of sites on one axis
TICKS = 5
ROOM_OF_A_SIGMA = 0.18  # of the progress, between two sigmas on top of a curve
CURVES = ((BLUE, "-", "o"), (ORANGE, "--", "s"), (GREEN, ":", "^"))  # colour, line and marker of each
MOST_CURVES = len(CURVES)
EVEN, SIGNED = "viridis", "PuOr"  # told apart by colour-blind readers, and in grey
NO_MATPLOTLIB = "The trace is there, but its picture needs matplotlib:"


def draw_heat_maps(run: StabilityRun, pass_name: str | None = None) -> Tensor:
    """Draw a heat map of site × step for every measure.

    Args:
        run: a run, measured, a difference or z-scores; the latter two in colours around 0.
        pass_name: a name from the run's `passes`, or None for all.

    Returns:
        A ComfyUI IMAGE, `(1, height, 1024, 3)` in [0, 1].
    """
    rows = len(run.addresses)

    def panel(axes: Axes, measure: str) -> None:
        if measure == GAMMA:
            _gamma_by_image(axes, run)
        else:
            _heat_map(axes, run, run.matrix(measure, pass_name), measure, run.addresses)

    return _panels(
        _with_gamma(run),
        panel,
        _title(run, pass_name),
        height=max(2.6, 1.1 + 0.14 * min(rows, MOST_LABELS)),
    )


def draw_heads(run: StabilityRun, address: str, pass_name: str | None = None) -> Tensor:
    """Draw a heat map of head × step of one site for every measure.

    Returns:
        A ComfyUI IMAGE, `(1, height, 1024, 3)` in [0, 1].

    Raises:
        ValueError: a site this run does not have.
    """
    count = len(run.heads(address, run.measures[0]))
    names = [str(head) for head in range(count)]
    return _panels(
        run.measures,
        lambda axes, measure: _heat_map(axes, run, run.heads(address, measure, pass_name), measure, names),
        f"heads of {address} · {_title(run, pass_name)}",
        height=max(2.6, 1.1 + 0.14 * count),
    )


def draw_curves(
    runs: Sequence[tuple[str, StabilityRun, str | None]], baseline: StabilityBaseline | None = None
) -> Tensor:
    """Draw the mean over the sites by progress for every measure, with the spread from their 10th to 90th percentile.

    Args:
        runs: up to `MOST_CURVES` of (legend, run, a name from its `passes` or None for all).
        baseline: what is normal for the mean over the sites; its band is dotted.

    Returns:
        A ComfyUI IMAGE, `(1, height, 1024, 3)` in [0, 1].
    """
    first = runs[0][1]
    shared = [measure for measure in first.measures if all(measure in run.measures for _, run, _ in runs)]

    def curve(axes: Axes, measure: str) -> None:
        if measure == GAMMA:
            return _gamma_by_image(axes, first)
        for (legend, run, pass_name), (colour, line, marker) in zip(runs, CURVES, strict=False):
            percents = torch.tensor([100 * step.progress for step in run.steps])
            values = run.matrix(measure, pass_name)
            low, high = (torch.nanquantile(values, share, dim=0) for share in (0.1, 0.9))
            axes.fill_between(percents, low, high, color=colour, alpha=0.18, linewidth=0)
            axes.plot(
                percents,
                values.nanmean(dim=0),
                line,
                marker=marker,
                markersize=3,
                color=colour,
                linewidth=2,
                label=legend,
            )
            normal = [] if baseline is None or measure not in baseline.measures else baseline.curve(measure, pass_name)
            if normal:
                places, lows, _, highs = zip(*normal, strict=True)
                for edge, name in ((lows, f"normal, {legend}"), (highs, None)):
                    axes.plot([100 * place for place in places], edge, ":", color=colour, linewidth=1.2, label=name)
        axes.grid(alpha=0.3)
        axes.set(xlabel="progress in % of the noise schedule")
        axes.set_title(TITLES[measure], fontsize=9)
        _sigmas_on_top(axes, first)
        if measure == shared[0]:
            axes.legend(fontsize=8)
        return None

    names = " and ".join(dict.fromkeys(_name(run) for _, run, _ in runs))
    dotted = "" if baseline is None else ", dotted: 5–95 % of normal images"
    title = f"mean over sites, band: 10–90 % of the sites{dotted} · {names}"
    return _panels([*shared, *_with_gamma(first)[len(first.measures) :]], curve, title, height=3.2)


@needs_matplotlib(NO_MATPLOTLIB)
def draw_maps(run: StabilityRun, address: str, pass_name: str, image: Tensor | None = None) -> Tensor:
    """Draw the alignment of every token in its position at up to six steps, over the image where there is one.

    Args:
        run: a run with maps of `address`.
        address: the site.
        pass_name: the name of a pass; where the run has none of it, whatever it has. Its first sample is drawn.
        image: `(height, width, 3)` in [0, 1].

    Returns:
        A ComfyUI IMAGE, `(1, height, 1024, 3)` in [0, 1].
    """
    steps = [step for step in run.steps if address in step.maps]
    steps = [steps[index] for index in _ticks(len(steps), most=6)]
    maps = [step.maps[address][(step.rows(pass_name) or [0])[0]].float() for step in steps]
    largest = max(max(float(each.abs().max()) for each in maps), 1e-6)
    columns = min(len(maps), 3)
    rows = -(-len(maps) // columns)
    height = (INCHES - SCALE) / columns * maps[0].shape[0] / maps[0].shape[1]
    # "compressed" moves panels of a fixed shape together where "constrained" would leave white bands between them.
    figure = new_figure(INCHES, min(rows * (height + 0.3) + 0.3, HIGHEST), layout="compressed")
    figure.suptitle(f"alignment by place at {address} (below 0 the token is pushed away) · {_name(run)}", fontsize=10)
    panels = []
    for number, (step, values) in enumerate(zip(steps, maps, strict=True), start=1):
        axes = figure.add_subplot(rows, columns, number)
        extent = (0, values.shape[1], 0, values.shape[0])
        if image is not None:
            axes.imshow(image.mean(dim=-1).numpy(), cmap="gray", vmin=0, vmax=1, extent=extent)
        heat = axes.imshow(
            values.numpy(),
            cmap=SIGNED,
            vmin=-largest,
            vmax=largest,
            extent=extent,
            interpolation="nearest",
            alpha=1.0 if image is None else 0.6,
        )
        axes.set(xticks=[], yticks=[])
        axes.set_title(f"{step.progress:.0%} · σ {step.sigma:.3g}", fontsize=9)
        panels.append(axes)
    figure.colorbar(heat, ax=panels, pad=0.01, aspect=30)
    return figure_to_image(figure)


def draw_message(text: str) -> Tensor:
    """Return a text as a ComfyUI IMAGE, in lines that fit."""
    return draw_text("\n".join(textwrap.fill(line, 100) for line in text.splitlines()))


@needs_matplotlib(NO_MATPLOTLIB)
def _panels(measures: Sequence[str], draw: Callable[[Axes, str], None], title: str, height: float) -> Tensor:
    """Draw one panel for each measure, two beside each other, each `height` inches high."""
    rows = (len(measures) + 1) // 2
    columns = min(len(measures), 2)
    figure = new_figure(INCHES, min(rows * height + 0.4, HIGHEST))
    figure.suptitle(title, fontsize=10)
    for number, measure in enumerate(measures, start=1):
        draw(figure.add_subplot(rows, columns, number), measure)
    return figure_to_image(figure)


def _with_gamma(run: StabilityRun) -> list[str]:
    """Return the names of the panels of a run: its measures, and γ where feedback gave it."""
    return [*run.measures, *([GAMMA] if any(step.gammas for step in run.steps) else [])]


def _gamma_by_image(axes: Axes, run: StabilityRun) -> None:
    """Draw γ by progress, a line for each image."""
    steps = [(100 * step.progress, step.gamma_by_sample()) for step in run.steps if step.gammas]
    numbers = sorted({number for _, gammas in steps for number in gammas})
    for number in numbers:
        colour, line, marker = CURVES[number % MOST_CURVES]
        points = [(place, gammas[number]) for place, gammas in steps if number in gammas]
        places, gammas = zip(*points, strict=True)
        axes.step(places, gammas, line, where="post", marker=marker, markersize=3, color=colour, label=str(number + 1))
    axes.grid(alpha=0.3)
    axes.set(xlabel="progress in % of the noise schedule")
    axes.set_title("γ by feedback", fontsize=9)
    if 1 < len(numbers) <= MOST_LEGEND:
        axes.legend(title="image", fontsize=8)


def _heat_map(axes: Axes, run: StabilityRun, values: Tensor, measure: str, names: Sequence[str]) -> None:
    colours = _colours(values, measure, is_signed=run.kind != "measured")
    image = axes.imshow(values.numpy(), aspect="auto", interpolation="nearest", **colours)
    axes.set_facecolor("#cccccc")  # what was not measured
    labelled = range(0, len(names), -(-len(names) // MOST_LABELS))
    axes.set_yticks(list(labelled), [names[index] for index in labelled], fontsize=7)
    ticks = _ticks(len(run.steps))
    steps = [run.steps[index] for index in ticks]
    axes.set_xticks(ticks, [f"{step.progress:.0%}\nσ {step.sigma:.3g}" for step in steps], fontsize=7)
    axes.set_title(TITLES[measure], fontsize=9)
    bar = axes.figure.colorbar(image, ax=axes, pad=0.01, aspect=max(30, 1.5 * len(names)))
    if measure == "energy":  # the ticks of an asinh scale crowd at 0
        energies = [float(colours["norm"].inverse(share)) for share in (0, 0.25, 0.5, 0.75, 1)]
        bar.set_ticks(energies, labels=[f"{energy:.3g}" for energy in energies])
        bar.minorticks_off()
    if run.kind == "z-scores":
        for edge in (-NORMAL, NORMAL):
            bar.ax.axhline(edge, color="black", linewidth=1)
    bar.ax.tick_params(labelsize=7)


def _colours(values: Tensor, measure: str, is_signed: bool) -> dict[str, Any]:
    """Return the colours of a heat map: around 0 for differences, on an asinh scale for energies.

    Energies differ by powers of ten.
    """
    from matplotlib.colors import AsinhNorm, Normalize

    finite = values[values.isfinite()]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    if is_signed:
        high = max(abs(low), abs(high)) or 1.0
        low = -high
    if low == high:
        low, high = low - 0.5, high + 0.5
    if measure == "energy":
        typical = float(finite.abs().median()) if len(finite) else 1.0
        norm: Any = AsinhNorm(linear_width=typical or 1.0, vmin=low, vmax=high)
    else:
        norm = Normalize(low, high)
    return {"cmap": SIGNED if is_signed else EVEN, "norm": norm}


def _sigmas_on_top(axes: Axes, run: StabilityRun) -> None:
    steps = list(run.steps[:1])
    for step in run.steps:
        if abs(step.progress - steps[-1].progress) >= ROOM_OF_A_SIGMA:
            steps.append(step)
    top = axes.secondary_xaxis("top")
    top.set_xticks([100 * step.progress for step in steps], [f"σ {step.sigma:.3g}" for step in steps], fontsize=7)


def _ticks(count: int, most: int = TICKS) -> list[int]:
    """Return some of the indices 0 … count − 1, the ends among them, evenly apart."""
    wanted = min(most, count)
    return sorted({round(number * (count - 1) / max(wanted - 1, 1)) for number in range(wanted)})


def _title(run: StabilityRun, pass_name: str | None) -> str:
    normal = f"standard deviations from normal, 90 % within ±{NORMAL:.2f} · "
    what = {"measured": "", "difference": "this run minus the other · ", "z-scores": normal}[run.kind]
    return f"{what}{_name(run)} · {pass_name or ' and '.join(run.passes)} · {len(run.steps)} steps"


def _name(run: StabilityRun) -> str:
    return " · ".join(filter(None, (run.model, run.gamma)))
