"""The settings that the evidence compares. All are drawn for the same seeds, so that any two are paired."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

FreeU = tuple[float, float, float, float]


@dataclass(frozen=True)
class Setting:
    """The settings of a draw. Everything but name, sweep, count and `measured` may change a picture.

    Attributes:
        name: short and unique; also the name of the file.
        sweep: which question it belongs to, one of `SWEEPS`.
        gamma, beta: as for `sad_core.skew_attention`, with the norm of the values.
        start, end: γ acts where start <= 1 - timestep / 1000 < end, ComfyUI's percent; before and after it is 1.
        adaptive: whether γ and β are weighed by the symmetricity of each layer, separately for each sample.
        sites: which part of the UNet γ acts in: "down", "middle", "up", or "" for all of it.
        guidance: classifier-free guidance; 1 is none and costs half as much.
        steps: Euler steps, a divisor of 1000.
        temperature: factor on the noise the samples start from.
        pag, sag: scales of perturbed-attention and self-attention guidance; 0 is off.
        freeu: (s1, s2, b1, b2) of FreeU, or None.
        count: how many samples the evidence needs, for the seeds 0, 1, 2 ...
        measured: whether the stability of every retrieval is kept beside the pictures.
    """

    name: str
    sweep: str
    gamma: float = 1.0
    beta: float = 1.0
    start: float = 0.0
    end: float = 1.0
    adaptive: bool = False
    sites: str = ""
    guidance: float = 2.0
    steps: int = 10
    temperature: float = 1.0
    pag: float = 0.0
    sag: float = 0.0
    freeu: FreeU | None = None
    count: int = 200
    measured: bool = False

    def __post_init__(self) -> None:
        if self.sites not in ("", "down", "middle", "up"):
            raise ValueError(f'sites is "{self.sites}", but it must be "down", "middle", "up", or empty for all.')
        if self.pag and self.sag:
            raise ValueError(f"pag is {self.pag} and sag {self.sag}, but only one can guide; set the other to 0.")
        if self.measured and (self.pag or self.sag):
            raise ValueError("measured does not go with pag or sag: their extra passes are no retrievals of the model.")

    @property
    def evaluations(self) -> int:
        """The number of model calls for one sample, from noise to picture."""
        passes = 3 if self.pag or self.sag else 1 if self.guidance == 1.0 else 2
        return passes * self.steps


def slug(**changes: Any) -> str:
    """The changed settings in the form of a file name, such as `gamma_0.5_beta_3`, or `plain` for none."""
    words: list[str] = []
    for field in fields(Setting):
        value = changes.get(field.name, field.default)
        if value == field.default or field.name in ("count", "measured"):
            continue
        if field.name == "sites":
            words.append(value)
        elif value is True:
            words.append(field.name)
        else:
            numbers = value if isinstance(value, tuple) else (value,)
            words += [field.name, *(f"{number:.3g}" for number in numbers)]
    return "_".join(words) or "plain"


def _sweep(sweep: str, variations: Iterable[dict[str, Any]], prefix: str = "", **shared: Any) -> tuple[Setting, ...]:
    """One setting for each variation; what is shared goes into the name too where it changes pictures."""
    everything = [shared | variation for variation in variations]
    return tuple(Setting(prefix + slug(**each), sweep, **each) for each in everything)


THIRDS = ((0.0, 1 / 3), (1 / 3, 2 / 3), (2 / 3, 1.0))
GRID_GAMMAS = (-1.0, 0.0, 0.5, 0.8, 1.05, 1.2, 1.5, 2.0, 3.0)
MODERATE_GAMMAS = (0.5, 1.05, 1.2, 1.5, 2.0)  # the others break pictures before β gets to 5
GRID = (
    *((gamma, beta) for gamma in GRID_GAMMAS for beta in (1.0, 3.0)),
    *((gamma, 5.0) for gamma in MODERATE_GAMMAS),
)

_STATIC = [{"gamma": gamma} for gamma in (0.0, 0.5, 1.5, 2.0)]
_AUTHORS = [{"gamma": 1.05, "beta": 3.0}, {"gamma": 1.2, "beta": 5.0}]
_MAIN = _sweep("main", [{}, *_STATIC, *_AUTHORS, {"guidance": 3.0}], count=400)
_IN_MAIN = {(setting.gamma, setting.beta) for setting in _MAIN}

# In the order of drawing: what answers most comes first.
SETTINGS = (
    *_MAIN,
    *_sweep("stability", [{"count": 400}, {"gamma": 0.5}, {"gamma": 2.0}], prefix="stability_", measured=True),
    *_sweep(
        "guidance",
        [
            *({"guidance": scale} for scale in (1.0, 1.5, 4.0, 6.0)),
            *({"gamma": g, "guidance": scale} for g in (0.5, 2.0) for scale in (1.0, 4.0)),
        ],
    ),
    *_sweep(
        "baselines",
        [
            *({"pag": scale} for scale in (0.5, 1.0, 2.0, 4.0, 8.0)),
            *({"sag": scale} for scale in (0.5, 1.0)),
            *({"freeu": factors} for factors in ((0.9, 0.2, 1.2, 1.4), (0.95, 0.6, 1.1, 1.2))),
            *({"temperature": factor} for factor in (0.9, 1.1)),
        ],
    ),
    *_sweep("grid", [{"gamma": gamma, "beta": beta} for gamma, beta in GRID if (gamma, beta) not in _IN_MAIN]),
    *_sweep(
        "adaptive",
        [{"gamma": g, "beta": b} for g, b in ((1.05, 3.0), (1.2, 5.0), (1.5, 3.0), (2.0, 1.0))],
        adaptive=True,
    ),
    *_sweep("schedule", [{"gamma": g, "start": start, "end": end} for g in (0.5, 2.0) for start, end in THIRDS]),
    *_sweep("sites", [{"gamma": g, "sites": sites} for g in (0.0, 2.0) for sites in ("down", "middle", "up")]),
    *_sweep("steps", [{"gamma": gamma} for gamma in (0.5, 1.0, 2.0)], steps=25),
)
SWEEPS = tuple(dict.fromkeys(setting.sweep for setting in SETTINGS))


def named(names: Iterable[str]) -> tuple[Setting, ...]:
    """The settings of these names, in the order of SETTINGS.

    Raises:
        ValueError: a name that no setting has.
    """
    wanted = set(names)
    if unknown := wanted - {setting.name for setting in SETTINGS}:
        known = ", ".join(setting.name for setting in SETTINGS)
        raise ValueError(f"There is no setting {', '.join(sorted(unknown))}. The settings are: {known}.")
    return tuple(setting for setting in SETTINGS if setting.name in wanted)
