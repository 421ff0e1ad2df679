"""The curve of a knob in the plane of fidelity and diversity, through its arms and the plain model.

Both axes are changes from the plain model, more is better. A curve is the straight lines between neighbouring
strengths. Three numbers of it, each taken on every resample of the seeds, so that each has an interval:

    diversity at equal fidelity   the largest gain in diversity on the curve where fidelity is no worse than plain
    fidelity at equal diversity   the largest gain in fidelity on the curve where diversity is no worse than plain
    dominated area                of the part of the plane, from a corner that is worse than everything compared, where
                                  some point of the curve is at least as good on both axes

The largest of several noisy numbers is too large on average. So a strength to recommend is chosen on other seeds than
those whose numbers are reported (`results.py`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from lab.testbed.comparisons import ON_TOP

POINTS_A_LINE = 20
NEUTRAL: dict[str, float | None] = {
    **{"CFG off at first": 0.0, "Epsilon Scaling": 1.0, "CADS": 0.9, "noise on the class": 0.0},
    **dict.fromkeys(("PAG", "PAG, middle", "SEG", "SAG"), 0.0),
    **dict.fromkeys(("CFG in an interval", "APG", "RescaleCFG", "autoguidance"), None),
}  # of knobs that do nothing at another strength than 1, or at none; CFG does nothing at the guidance of the model


def on_the_curve(points: Tensor) -> Tensor:
    """The vertices (..., K, 2) of a curve -> points along it (..., (K − 1)·20 + 1, 2), the vertices among them."""
    if points.shape[-2] == 1:
        return points
    share = torch.arange(POINTS_A_LINE, dtype=points.dtype) / POINTS_A_LINE
    start, end = points[..., :-1, None, :], points[..., 1:, None, :]
    between = torch.lerp(start, end, share[:, None]).flatten(-3, -2)
    return torch.cat([between, points[..., -1:, :]], dim=-2)


def gain_at_equal(points: Tensor, kept: int) -> Tensor:
    """The largest gain on the other axis where axis `kept` has not lost: vertices (..., K, 2) -> (...).

    The plain model is at the origin and always one of them, so the gain is 0 at least.
    """
    along = on_the_curve(points)
    gains = along[..., 1 - kept].where(along[..., kept] >= 0, -torch.inf)
    return gains.amax(dim=-1).clamp(min=0)


def dominated_area(points: Tensor, corner: Tensor) -> Tensor:
    """The area between the corner (2,) and the staircase of the curve's points: vertices (..., K, 2) -> (...)."""
    along = (on_the_curve(points) - corner).clamp(min=0)
    order = along[..., 0].argsort(dim=-1, descending=True)
    first, second = (along[..., axis].gather(-1, order) for axis in (0, 1))
    height = second.cummax(dim=-1).values
    width = first - torch.cat([first[..., 1:], torch.zeros_like(first[..., :1])], dim=-1)
    return (width * height).sum(dim=-1)


def curve_of(strengths: list[float], changes: Tensor, neutral: float | None) -> Tensor:
    """The vertices of a knob's curve by rising strength, the plain model (0, 0) where its strength belongs.

    Args:
        strengths: K of them, none equal to `neutral`.
        changes: (..., K, 2) of the arms.
        neutral: the strength at which the knob does nothing; None where there is none, and the plain model is left out.

    Returns:
        (..., K + 1, 2), or (..., K, 2) without a neutral strength.
    """
    if neutral is not None:
        strengths = [*strengths, neutral]
        changes = torch.cat([changes, torch.zeros_like(changes[..., :1, :])], dim=-2)
    order = sorted(range(len(strengths)), key=strengths.__getitem__)
    return changes[..., order, :]


def neutral_of(knob: str, guidance: float) -> float | None:
    """The strength at which a knob does nothing; None where there is none. `guidance` is that of the plain model."""
    if knob.startswith(ON_TOP):
        return None
    return (NEUTRAL | {"CFG": guidance}).get(knob.removesuffix(", ancestral"), 1.0)
