"""The method stated slowly in float64, with L×L matrices: what sad_core is held against."""

from __future__ import annotations

import torch
from torch import Tensor


def skewed_logits(q: Tensor, k: Tensor, gamma: Tensor | float, scale: float | None = None) -> Tensor:
    """S + Γ∘C; `gamma` is γ or a matrix Γ, and broadcasts over `(B, H, M, M)`.

    q may be that of the last M tokens. S and C are then those of the last M columns; the columns before stay.
    """
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    whole = scale * torch.einsum("bhid,bhjd->bhij", q.double(), k.double())
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

    def both(patterns: Tensor) -> tuple[Tensor, Tensor]:
        plain, skewed = plain_weights @ patterns.double(), skew_weights @ patterns.double()
        return skewed, plain + beta * (skewed - plain)

    _, out = both(v)
    if norm != "none":
        patterns = v
        if norm != "value":
            assert x is not None  # what every other norm is taken of
            patterns = x[:, None].expand(-1, q.shape[1], -1, -1)
        skewed, blended = both(patterns)
        out = out * (length(skewed) / length(blended)).clamp(0.25, 4.0)
    return torch.where(torch.as_tensor(beta) == 0, plain_weights @ v.double(), out)


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
    """All measures of every pattern, one after the other, from the dense M; each `(B, H, P)`.

    Without `eigenvalues`, which take nearly all of the time, depth, curvature and spread are left out.
    """
    matrices = landscape(q, k)
    batch, heads, _, count = patterns.shape
    names = ("energy", "instability", "alignment", *(("depth", "curvature", "spread") if eigenvalues else ()))
    measures = {name: torch.zeros(batch, heads, count, dtype=torch.float64) for name in names}
    for sample, head in torch.cartesian_prod(torch.arange(batch), torch.arange(heads)).tolist():
        matrix = matrices[sample, head]
        spectrum = torch.linalg.eigvalsh(matrix) if eigenvalues else None
        for index in range(count):
            found = _of_a_pattern(matrix, spectrum, patterns[sample, head, :, index].double())
            for name, value in found.items():
                measures[name][sample, head, index] = value
    return measures


def _of_a_pattern(matrix: Tensor, spectrum: Tensor | None, pattern: Tensor) -> dict[str, Tensor]:
    """The measures of one pattern on M, of which `spectrum` are the eigenvalues; none where the pattern is constant."""
    spread = None if spectrum is None else spectrum[-1] - spectrum[0]
    found = {} if spread is None else {"spread": spread}
    centred = pattern - pattern.mean()
    if centred.norm() <= 1e-12 * pattern.norm():
        return found
    unit = centred / centred.norm()
    field = matrix @ unit
    found["energy"] = -unit @ field / 2
    found["instability"] = (unit * field < 0).double().mean()
    found["alignment"] = unit @ field / field.norm() if field.norm() > 0 else torch.tensor(0.0)
    if spectrum is not None and spread is not None:
        every_direction = torch.cat([unit[:, None], torch.eye(len(pattern), dtype=torch.float64)], dim=1)
        tangents = torch.linalg.qr(every_direction).Q[:, 1:]
        found["depth"] = (unit @ field - spectrum[-1]) / spread if spread > 0 else torch.tensor(0.0)
        found["curvature"] = unit @ field - torch.linalg.eigvalsh(tangents.T @ matrix @ tangents)[-1]
    return found
