"""The method written down the way the paper's formulas read, which is what the pack is compared with.

Everything in input space: the patterns are x with its C channels for every head, the couplings of the energy are C×C,
and the logits, their transpose and both attention matrices are there as L×L tensors. Written from the equations.
"""

from __future__ import annotations

from torch import Tensor


def skew_attention(q: Tensor, k: Tensor, x: Tensor, value_weight: Tensor, gamma: float, beta: float) -> Tensor:
    """ρ·(R₁ + β(R_γ − R₁)) with R = P x, then the values: q, k `(B, H, L, d)`, x `(B, L, C)` → `(B, H, L, d)`.

    `value_weight` is `(H, C, d)`.
    """
    logits = q @ k.mT / q.shape[-1] ** 0.5
    symmetric, skew = (logits + logits.mT) / 2, (logits - logits.mT) / 2
    patterns = x[:, None]
    plain = logits.softmax(dim=-1) @ patterns
    skewed = (symmetric + gamma * skew).softmax(dim=-1) @ patterns
    blended = plain + beta * (skewed - plain)
    wanted, found = (y.norm(dim=-1, keepdim=True).clamp_min(1e-6) for y in (skewed, blended))
    values: Tensor = (wanted / found).clamp(0.25, 4) * blended @ value_weight
    return values


def adaptive_skew_attention(q: Tensor, k: Tensor, x: Tensor, value_weight: Tensor, gamma: float, beta: float) -> Tensor:
    """The same with γ and β weighed by the symmetricity of the logits, which are formed once more for it."""
    logits = q @ k.mT
    symmetric, skew = ((logits + logits.mT) / 2).square().sum(), ((logits - logits.mT) / 2).square().sum()
    eta = float((symmetric - skew) / (symmetric + skew))
    return skew_attention(q, k, x, value_weight, 1 + (gamma - 1) * eta, beta * (1 - eta))


def stability(x: Tensor, retrieved: Tensor, query_weight: Tensor, key_weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Energy, instability and alignment of `retrieved` `(B, H, L, C)` with the C×C coupling of every head.

    `query_weight` and `key_weight` are `(H, C, d)`; x is `(B, L, C)`. Each measure is `(B, H, C)`.
    """
    coupling = query_weight @ key_weight.mT
    symmetric = (coupling + coupling.mT) / 2
    tokens = (x - x.mean(dim=1, keepdim=True))[:, None]
    patterns = retrieved - retrieved.mean(dim=2, keepdim=True)
    patterns = patterns / patterns.norm(dim=2, keepdim=True)
    seen = tokens.mT @ patterns
    pulled = symmetric @ seen
    field = tokens @ pulled
    energy = -(seen * pulled).sum(dim=2) / 2
    instability = (patterns * field < 0).float().mean(dim=2)
    alignment = (patterns * field).sum(dim=2) / field.norm(dim=2)
    return energy, instability, alignment
