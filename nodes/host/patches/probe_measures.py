"""The measurements of a probe at one attention call."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ....sad_core.norm_guard import SMALLEST_NORM
from .observer import ObservedCall
from .skew_override import SkewOverride


def gamma_of(seen: ObservedCall) -> float | None:
    """Return the γ of a call before any adaptive rule: 1 without an override, None where it is not one number.

    It is None where another pack does the work, and where `SkewOverride.gamma` is.
    """
    if seen.previous is None:
        return 1.0
    return seen.previous.gamma if isinstance(seen.previous, SkewOverride) else None


@torch.no_grad()
def input_patterns(seen: ObservedCall, x: Tensor) -> list[Tensor]:
    """Retrieve from the block input x with the attention of a call, in pieces of the head dim, each `(B, H, L, d)`.

    All but the norm guard is linear in the values, so the same retrieval is asked for x without it. ρ is one number a
    token and a head, whatever the values: it is how much longer the real result is than the unguarded one.

    Args:
        seen: the call and its result.
        x: `(B, L, C)`.
    """
    unguarded = seen.previous.unguarded() if isinstance(seen.previous, SkewOverride) else seen.previous
    heads, head_dim = seen.q.shape[1], seen.q.shape[-1]
    pieces = []
    for piece in x.to(seen.out.dtype).split(head_dim, dim=-1):
        values = F.pad(piece, (0, head_dim - piece.shape[-1]))[:, None].repeat(1, heads, 1, 1)
        pieces.append(seen.retrieve(unguarded, values)[..., : piece.shape[-1]])
    if unguarded is seen.previous:
        return pieces
    length = torch.linalg.vector_norm(seen.retrieve(unguarded, seen.v), dim=-1, keepdim=True)
    ratio = torch.linalg.vector_norm(seen.out, dim=-1, keepdim=True) / length.clamp_min(SMALLEST_NORM)
    return [piece * ratio for piece in pieces]
