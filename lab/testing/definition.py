"""The method stated slowly in float64, with L×L matrices: what sad_core is held against."""

from __future__ import annotations

import torch
from torch import Tensor


def skewed_logits(q: Tensor, k: Tensor, gamma: Tensor | float, scale: float | None = None) -> Tensor:
    """S + Γ∘C; `gamma` is γ or a matrix Γ, and broadcasts over `(B, H, M, M)`.

    q may be that of the last M tokens. S and C are then those of the last M columns; the columns before stay.
    """
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    whole = scale * (q.double() @ k.double().mT)
    if isinstance(gamma, float) and gamma == 1.0:  # S + C, the logits as they are
        return whole
    before, logits = whole.split([k.shape[2] - q.shape[2], q.shape[2]], dim=-1)
    transposed = logits.mT
    return torch.cat([before, (logits + transposed) / 2 + gamma * (logits - transposed) / 2], dim=-1)


def weights(logits: Tensor, mask: Tensor | None = None) -> Tensor:
    if mask is not None and mask.dtype == torch.bool:
        logits = logits.masked_fill(~mask, float("-inf"))
    elif mask is not None:
        logits = logits + mask.double()
    return torch.softmax(logits, dim=-1)


def length(patterns: Tensor) -> Tensor:
    return patterns.square().sum(-1, keepdim=True).sqrt().clamp_min(1e-6)


def skew_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gamma: Tensor | float,
    beta: Tensor | float = 1.0,
    *,
    norm: str = "value",
    x: Tensor | None = None,
    scale: float | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Skew attention; gamma broadcasts over `(B, H, M, M)`, beta over `(B, H, M, 1)`; β = 0 is neutral."""
    plain_weights = weights(skewed_logits(q, k, 1.0, scale), mask)
    skew_weights = weights(skewed_logits(q, k, gamma, scale), mask)

    def retrieved(patterns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        plain, skewed = plain_weights @ patterns.double(), skew_weights @ patterns.double()
        return plain, skewed, plain + beta * (skewed - plain)

    plain, skewed, out = retrieved(v)
    blended = out
    if norm not in ("none", "value"):
        assert x is not None  # what every other norm is taken of
        _, skewed, blended = retrieved(x[:, None].expand(-1, q.shape[1], -1, -1))
    if norm != "none":
        out = out * (length(skewed) / length(blended)).clamp(0.25, 4.0)
    return torch.where(torch.as_tensor(beta) == 0, plain, out)


def gamma_matrix(
    gamma: Tensor | float, image_tokens: slice, tokens: int, text: Tensor | float = 1.0, cross: Tensor | float = 1.0
) -> Tensor:
    """Γ: γ where both are image tokens, `text` where neither is, `cross` elsewhere; all broadcast with `(L, L)`."""
    inside = torch.zeros(tokens, dtype=torch.bool)
    inside[image_tokens] = True
    rows, columns = inside[:, None], inside[None, :]
    gamma, text, cross = (torch.as_tensor(each, dtype=torch.float64) for each in (gamma, text, cross))
    return torch.where(rows & columns, gamma, torch.where(rows | columns, cross, text))


def each_head(value: Tensor | float, batch: int, heads: int) -> Tensor:
    """γ or β of every sample and head, `(B, H, 1, 1)`, filled in one by one."""
    filled = torch.empty(batch, heads, 1, 1, dtype=torch.float64)
    for sample in range(batch):
        for head in range(heads):
            if not isinstance(value, Tensor) or value.dim() == 0:
                filled[sample, head] = float(value)
            elif value.dim() == 1:
                filled[sample, head] = float(value[sample])
            else:
                filled[sample, head] = float(value[sample, head])
    return filled


def symmetricity(q: Tensor, k: Tensor) -> Tensor:
    logits = skewed_logits(q, k, 1.0, 1.0)
    symmetric, skew = (logits + logits.mT) / 2, (logits - logits.mT) / 2
    energy, circulation = symmetric.square().sum((-2, -1)), skew.square().sum((-2, -1))
    return (energy - circulation) / (energy + circulation)


def relative_error(got: Tensor, want: Tensor) -> float:
    """‖got − want‖ / ‖want‖ over the whole tensor."""
    return float((got.double() - want.double()).norm() / want.double().norm())


def landscape(q: Tensor, k: Tensor) -> Tensor:
    """M = ½(q̄ k̄ᵀ + k̄ q̄ᵀ), `(B, H, L, L)`, queries and keys centred over the tokens."""
    q, k = (x.double() - x.double().mean(dim=-2, keepdim=True) for x in (q, k))
    return (q @ k.mT + k @ q.mT) / 2


def hopfield_stability(q: Tensor, k: Tensor, patterns: Tensor, *, eigenvalues: bool = True) -> dict[str, Tensor]:
    """All measures of every pattern from the dense M; each `(B, H, P)`, and 0 for a constant pattern but for spread.

    Without `eigenvalues`, which take nearly all of the time, depth, curvature and spread are left out.
    """
    matrices, patterns = landscape(q, k), patterns.double()
    centred = patterns - patterns.mean(dim=-2, keepdim=True)
    is_constant = centred.norm(dim=-2) <= 1e-12 * patterns.norm(dim=-2)
    unit = centred / centred.norm(dim=-2, keepdim=True)
    field = matrices @ unit
    found = {
        "energy": -(unit * field).sum(dim=-2) / 2,
        "instability": (unit * field < 0).double().mean(dim=-2),
        "alignment": ((unit * field).sum(dim=-2) / field.norm(dim=-2)).where(field.norm(dim=-2) > 0, 0.0),
    }
    spread = None
    if eigenvalues:
        spectra = torch.linalg.eigvalsh(matrices)[..., None]
        spread = (spectra[..., -1, :] - spectra[..., 0, :]).expand_as(is_constant).contiguous()
        height = (unit * field).sum(dim=-2)
        found["depth"] = ((height - spectra[..., -1, :]) / spread).where(spread > 0, 0.0)
        found["curvature"] = height - _largest_across(matrices, unit.masked_fill(is_constant[:, :, None], 1.0))
    measures = {name: value.masked_fill(is_constant, 0.0) for name, value in found.items()}
    return measures if spread is None else {**measures, "spread": spread}


def _largest_across(matrices: Tensor, unit: Tensor) -> Tensor:
    """The largest eigenvalue of M among the directions across each unit pattern, `(B, H, P)`."""
    largest = torch.zeros(unit.shape[0], unit.shape[1], unit.shape[3], dtype=torch.float64)
    if unit.shape[2] == 1:  # a single token has no direction across it
        return largest
    identity = torch.eye(unit.shape[2], dtype=torch.float64)
    for sample, head in torch.cartesian_prod(torch.arange(len(unit)), torch.arange(unit.shape[1])).tolist():
        columns = unit[sample, head].mT[..., None]
        tangents = torch.linalg.qr(torch.cat([columns, identity.expand(len(columns), -1, -1)], dim=2)).Q[..., 1:]
        largest[sample, head] = torch.linalg.eigvalsh(tangents.mT @ matrices[sample, head] @ tangents)[..., -1]
    return largest
