"""One finished call of the diffusion model, as a sampling run records it."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from .noise_level import NoiseLevel
from .prompts import UNREAD, CallPrompts
from .settings import Gammas


@dataclass
class SiteTally:
    """The actions of one site in the current model call.

    Every site has a tally of its own, at zero when a model call starts. So a compiled graph of one site serves all.

    Attributes:
        address: of the site; not read at the site.
        calls: how many attention calls were skewed.
        backends: names of what did the inner attention.
    """

    address: str
    calls: int = 0
    backends: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class ModelCall:
    """One finished call of the diffusion model.

    Attributes:
        sigma: noise level.
        progress: 0 … 1, from the sigma.
        gammas: what the settings ask of this call, whether or not γ acts in one of its passes.
        cond_or_uncond: ComfyUI's marks of the passes in the batch, indices into the prompts of one evaluation.
        attention_calls: how many attention calls were skewed.
        symmetricity: η of every skewed attention call in order, `(address, one value per sample)`; adaptive runs only.
        gamma_range: lowest and highest γ applied, which differ where γ is adaptive or by sample.
        by_sample: γ of every sample where feedback gave it; empty without feedback.
    """

    sigma: float
    progress: float
    gammas: Gammas
    cond_or_uncond: tuple[int, ...]
    attention_calls: int
    symmetricity: tuple[tuple[str, tuple[float, ...]], ...] = ()
    gamma_range: tuple[float, float] = (1.0, 1.0)
    by_sample: tuple[float, ...] = ()

    @property
    def gamma(self) -> float:
        """γ among the image tokens, by the schedule."""
        return self.gammas.image


@dataclass(frozen=True)
class UnreadCall:
    """One finished call of the diffusion model, of which some numbers are still on the device.

    Attributes:
        level: its noise level.
        gammas, cond_or_uncond, attention_calls: as in `ModelCall`.
        adapted: the address of every adaptive attention call in order, and how many η it has.
        numbers: `(N,)`, the η of these calls one after the other, then every γ they led to; None where there are none.
        prompts: the prompts of the call; none where γ acts on all of them.
        by_sample: as in `ModelCall`.
    """

    level: NoiseLevel
    gammas: Gammas
    cond_or_uncond: tuple[int, ...]
    attention_calls: int
    adapted: tuple[tuple[str, int], ...] = ()
    numbers: Tensor | None = None
    prompts: CallPrompts = UNREAD
    by_sample: tuple[float, ...] = ()

    def read(self, numbers: Tensor) -> ModelCall:
        """Return the call with all its numbers; `numbers` are its own, on the CPU."""
        low, high = min(self.by_sample, default=self.gammas.image), max(self.by_sample, default=self.gammas.image)
        symmetricity = []
        values: list[float] = numbers.tolist()
        start = 0
        for address, count in self.adapted:
            symmetricity.append((address, tuple(values[start : start + count])))
            start += count
        if start < len(values):
            low, high = min(values[start:]), max(values[start:])
        return ModelCall(
            self.level.sigma,
            self.level.progress,
            self.gammas,
            self.cond_or_uncond,
            self.attention_calls,
            tuple(symmetricity),
            (low, high),
            self.by_sample,
        )
