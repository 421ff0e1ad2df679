"""The method stated slowly and plainly in float64, with L×L matrices: what sad_core is held against."""

from __future__ import annotations

import torch
from torch import Tensor


def skewed_logits(q: Tensor, k: Tensor, factors: Tensor | float, scale: float | None = None) -> Tensor:
    """S + Γ∘C; `factors` is γ or a matrix Γ that broadcasts over `(B, H, L, L)`."""
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    logits = scale * torch.einsum("bhid,bhjd->bhij", q.double(), k.double())
    transposed = scale * torch.einsum("bhjd,bhid->bhij", q.double(), k.double())
    return (logits + transposed) / 2 + factors * (logits - transposed) / 2


def retrieval(logits: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    if mask is not None and mask.dtype == torch.bool:
        logits = logits.masked_fill(~mask, float("-inf"))
    elif mask is not None:
        logits = logits + mask.double()
    return torch.softmax(logits, dim=-1) @ v.double()


def length(patterns: Tensor) -> Tensor:
    return patterns.square().sum(-1, keepdim=True).sqrt().clamp_min(1e-6)


def skew_attention(q, k, v, gamma, beta=1.0, *, norm="value", x=None, scale=None, mask=None, factors=None) -> Tensor:
    """`factors` replaces the one γ by a matrix Γ; gamma and beta broadcast over `(B, H, 1, 1)`."""
    plain_logits = skewed_logits(q, k, 1.0, scale)
    skew_logits = skewed_logits(q, k, gamma if factors is None else factors, scale)

    def both(patterns: Tensor) -> tuple[Tensor, Tensor]:
        plain, skewed = retrieval(plain_logits, patterns, mask), retrieval(skew_logits, patterns, mask)
        return skewed, plain + beta * (skewed - plain)

    _, out = both(v)
    if norm == "none":
        return out
    skewed, blended = both(v if norm == "value" else x[:, None].expand(-1, q.shape[1], -1, -1))
    return out * (length(skewed) / length(blended)).clamp(0.25, 4.0)


def symmetricity(q: Tensor, k: Tensor) -> Tensor:
    logits = skewed_logits(q, k, 1.0, 1.0)
    symmetric, skew = (logits + logits.mT) / 2, (logits - logits.mT) / 2
    energy, circulation = symmetric.square().sum((-2, -1)), skew.square().sum((-2, -1))
    return (energy - circulation) / (energy + circulation)


def relative_error(got: Tensor, want: Tensor) -> float:
    """‖got − want‖ / ‖want‖ over the whole tensor."""
    return float((got.double() - want.double()).norm() / want.double().norm())
