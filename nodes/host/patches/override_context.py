"""The context that the attention overrides of one model call share: the settings of the node, its γ, and a log."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..models.sites import Site
from ..painted import CallMask
from ..prompts import Prompt
from ..run_report import RunRecord
from ..settings import NEUTRAL, Gammas, SkewSettings
from .attention_backend import HostAttention
from .row_gammas import RowGammas


@dataclass
class CallLog:
    """The joint report of the sites of one model call. Each counts its calls in a `SiteTally`.

    Attributes:
        run: where skipped calls are counted; None where nothing is recorded.
        adaptive: address, η and γ of every adaptive attention call, η and γ one number a sample, on the device.
    """

    run: RunRecord | None = None
    adaptive: list[tuple[str, Tensor, Tensor]] = field(default_factory=list)

    def left_alone(self, reason: str, site: Site) -> None:
        """Count an attention call at a chosen site that stays as it is."""
        if not torch.compiler.is_compiling() and self.run is not None:
            self.run.untouched[reason] += 1
            self.run.why_untouched.setdefault(site.address, reason)


@dataclass(frozen=True)
class OverrideContext:
    """All that an override knows of the node and the model call it works for.

    Attributes:
        settings: of the node.
        gammas: γ of this model call, in joint attention a γ for each pair of modalities.
        gamma_tensor: γ among the image tokens as a 0-d tensor on the model's device, which compiled graphs read.
        prompts: the prompts of equal parts of the batch; none where γ acts on all of them.
        attention: the host's own attention.
        has_kernel: whether our fused kernel may be asked on the model's device.
        log: what the sites did.
        followed: γ among the image tokens of each row, where feedback gives it; None without feedback. `gammas` has
            the furthest of them from 1.
        painted: where in the picture γ acts; None where it acts everywhere.
        painted_gammas: γ of every query row, kept for sites that ask for the same rows of as many tokens.
    """

    settings: SkewSettings
    attention: HostAttention
    gammas: Gammas = NEUTRAL
    gamma_tensor: Tensor | None = None
    prompts: tuple[Prompt, ...] = ()
    has_kernel: bool = False
    log: CallLog = field(default_factory=CallLog)
    followed: RowGammas | None = None
    painted: CallMask | None = None
    painted_gammas: dict[tuple[object, ...], Tensor] = field(default_factory=dict)

    def unguarded(self) -> OverrideContext:
        """Return the context of the same retrieval with ρ = 1, of which nothing is recorded."""
        return replace(
            self, settings=replace(self.settings, norm="none"), attention=self.attention.unlogged(), log=CallLog()
        )
