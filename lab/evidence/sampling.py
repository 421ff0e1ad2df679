"""Samples of the demo model under a setting. In every setting a seed has the same noise and shows category seed % 3."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lab.demo.model import CATEGORIES, DemoModel
from lab.demo.sampling import TRAINING_TIMESTEPS, Velocity, denoise, first_latents, guided_velocity, make_scheduler
from lab.evidence.baselines import perturbed_attention_guidance, self_attention_guidance
from lab.evidence.settings import Setting
from lab.evidence.stability import stability_of
from lab.evidence.watching import PARTS, self_attentions, watching
from sad_core import set_skew_attention

CHUNK = 40  # seeds a batch; divides both 200 and 400
LAYERS = {"": ""} | {part: block for block, part in PARTS.items()}


@dataclass(frozen=True)
class Samples:
    """The n samples of the seeds from some first one on.

    Attributes:
        pictures: uint8 (n, 3, 32, 32), clamped and rounded.
        outside: float32 (n,), the share of the numbers of the unclamped picture that lie outside [0, 1].
        finite: bool (n,), whether every number was finite before it was clamped; NaN shows as black.
        stability: float32 (n, steps, sites, measures), the conditional pass, measures as `stability.MEASURES`; or None.
        sites: names of the sites; empty without stability.
    """

    pictures: Tensor
    outside: Tensor
    finite: Tensor
    stability: Tensor | None = None
    sites: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.pictures)

    def first(self, count: int) -> Samples:
        """The first `count` samples, or all if there are fewer."""
        stability = None if self.stability is None else self.stability[:count]
        parts: dict[str, Any] = {
            "pictures": self.pictures[:count],
            "outside": self.outside[:count],
            "finite": self.finite[:count],
        }
        return replace(self, **parts, stability=stability)

    def followed_by(self, others: Samples) -> Samples:
        """These samples and then the others, of the same setting."""
        stability = None
        if self.stability is not None and others.stability is not None:
            stability = torch.cat([self.stability, others.stability])
        pairs = {name: (getattr(self, name), getattr(others, name)) for name in ("pictures", "outside", "finite")}
        parts: dict[str, Any] = {name: torch.cat(pair) for name, pair in pairs.items()}
        return replace(self, **parts, stability=stability)


def categories_of(seeds: Sequence[int]) -> Tensor:
    """Places in CATEGORIES, (N,), that belong to the seeds: taking turns, so that all are equally frequent."""
    return torch.tensor([seed % len(CATEGORIES) for seed in seeds])


@torch.no_grad()
def draw_samples(model: DemoModel, setting: Setting, seeds: Sequence[int]) -> Samples:
    """One batch of samples; what else is in the batch changes a sample by no more than rounding.

    The model is left plain.
    """
    latents, stability, sites = draw_latents(model, setting, seeds)
    raw = model.decode(latents)
    inside = (raw >= 0) & (raw <= 1)
    return Samples(
        pictures=(raw.nan_to_num(0.0).clamp(0, 1) * 255).round().to(torch.uint8),
        outside=1 - inside.float().mean(dim=(1, 2, 3)),
        finite=raw.isfinite().all(dim=(1, 2, 3)),
        stability=stability,
        sites=sites,
    )


def draw_latents(
    model: DemoModel, setting: Setting, seeds: Sequence[int]
) -> tuple[Tensor, Tensor | None, tuple[str, ...]]:
    """Finished latents (N, 12, 16, 16); where it is measured, stability (N, steps, sites, measures) and the sites."""
    scheduler = make_scheduler(setting.steps)
    latents = setting.temperature * first_latents(scheduler, seeds)
    velocity = velocity_under(model, setting, categories_of(seeds), scheduler.alphas_cumprod)
    with left_plain(model):
        if setting.freeu:
            model.unet.enable_freeu(*setting.freeu)
        if not setting.measured:
            return denoise(scheduler, latents, velocity), None, ()
        steps: list[Tensor] = []

        def measured_velocity(scaled: Tensor, timestep: Tensor) -> Tensor:
            with watching(self_attentions(model.unet)) as seen:
                found = velocity(scaled, timestep)
            steps.append(stability_of(seen.values(), len(seeds)))
            return found

        latents = denoise(scheduler, latents, measured_velocity)
        return latents, torch.stack(steps, dim=1), tuple(self_attentions(model.unet))


def velocity_under(model: DemoModel, setting: Setting, categories: Tensor, alphas: Tensor) -> Velocity:
    """Return the guided prediction of the model under a setting. `alphas` (1000,) are the cumulative alphas.

    Each call puts γ on the model, or takes it off, as the timestep asks.
    """

    def velocity(scaled: Tensor, timestep: Tensor) -> Tensor:
        set_skew_attention(
            model.unet,
            gamma=setting.gamma if is_active(setting, float(timestep)) else 1.0,
            beta=setting.beta,
            adaptive=setting.adaptive,
            layers=LAYERS[setting.sites],
        )
        arguments = (model, scaled, timestep, categories, setting.guidance)
        if setting.pag:
            return perturbed_attention_guidance(*arguments, setting.pag)
        if setting.sag:
            return self_attention_guidance(*arguments, setting.sag, alphas[int(timestep)])
        return guided_velocity(*arguments)

    return velocity


def is_active(setting: Setting, timestep: float) -> bool:
    """Return whether γ acts at a timestep 0...999. The end of the window is outside, unless it is 1."""
    percent = 1 - timestep / TRAINING_TIMESTEPS
    return setting.start <= percent and (percent < setting.end or setting.end == 1.0)


@contextmanager
def left_plain(model: DemoModel) -> Iterator[None]:
    """After the `with` block the model has neither γ nor FreeU on it, whatever happened inside."""
    try:
        yield
    finally:
        set_skew_attention(model.unet, gamma=1.0)
        model.unet.disable_freeu()
