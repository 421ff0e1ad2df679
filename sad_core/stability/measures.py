"""The stability of a retrieval on the energy landscape of its own logits (the paper's Hopfield diagnostics).

A pattern is one column of the retrieved patterns, L numbers; centred over the tokens and of unit length it is s. With
q̄ and k̄ the queries and keys centred over the tokens (not scaled by 1/√d) the landscape on the unit sphere is

    E(s) = −½ sᵀM s,    M = ½(q̄ k̄ᵀ + k̄ q̄ᵀ) = ½ W J Wᵀ,    W = [q̄, k̄],  J swaps the two halves

M is L×L and never formed: it has rank 2d at most, and all that is asked of it follows from Wᵀs = [a; b] and a 2d×2d
matrix: sᵀM s = a·b, and the local field is h = M s = ½ W [b; a].
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from ..inner_attention import check_tokens
from ..parameters import accumulation_dtype, autocast_disabled, check_choice

MEASURES = ("energy", "instability", "alignment", "depth", "curvature")  # of `hopfield_stability`
# What a trace keeps: size-free where there is a choice, and the symmetricity of the logits.
TRACE_MEASURES = ("energy", "instability", "alignment", "symmetricity", "depth", "relative curvature")
DEFAULT_MEASURES = TRACE_MEASURES[:4]  # those that need no eigenvalues of a 2d×2d matrix a head
BISECTIONS = 48


@dataclass(frozen=True)
class HopfieldStability:
    """The measures of every pattern, each `(B, H, P)` in float32 or wider; None where a measure was not asked for.

    A constant pattern, and any pattern of a single token, has 0 in all of them.

    Attributes:
        energy: E(s) = −½ a·b. Low is a deep, stable retrieval. It grows with the tokens and with the logits.
        instability: share of the tokens with s·h < 0, which the local field pushes away; 0 … 1, low is stable.
        alignment: cos(s, h), −1 … 1; 1 where the field holds the pattern in place.
        depth: (sᵀM s − λ₁)/(λ₁ − λ_min), −1 … 0: the energy made size-free, so that layers and resolutions compare.
            0 is the deepest minimum of the landscape, −1 its top.
        curvature: the smallest curvature of E at s over unit tangents. Above 0 s lies in a bowl, below 0 a way down is
            left; at the deepest minimum it is λ₁ − λ₂. It has the units of the energy.
        spread: λ₁ − λ_min, `(B, H, 1)`, the scale of the landscape; there with depth or curvature.
    """

    energy: Tensor | None = None
    instability: Tensor | None = None
    alignment: Tensor | None = None
    depth: Tensor | None = None
    curvature: Tensor | None = None
    spread: Tensor | None = None

    @property
    def relative_curvature(self) -> Tensor | None:
        """The curvature divided by λ₁ − λ_min: size-free, −1 … 1; 0 on a flat landscape."""
        if self.curvature is None or self.spread is None:
            return None
        return torch.where(self.spread > 0, self.curvature / self.spread, 0.0)


def hopfield_stability(
    q: Tensor, k: Tensor, patterns: Tensor, measures: Collection[str] = MEASURES
) -> HopfieldStability:
    """Energy, instability, alignment, depth and curvature of retrieved patterns.

    The matrix products of energy, instability and alignment are 2·d/L of those of the attention itself for P = d; with
    all else, 4 to 6·d/L of its time were measured on a CPU.

    Args:
        q, k: `(B, H, L, d)`, the queries and keys of the retrieval, any float dtype; Gram matrices in float32 at least.
        patterns: `(B, H, L, P)`, what the attention retrieved: with skew attention after blending and the norm guard.
            The values' (any model, P = d) or the block input's (the paper's, P = C).
        measures: which of `MEASURES` to compute.

    Returns:
        The measures, each `(B, H, P)`. Infinite or undefined input gives undefined numbers and never an error.

    Raises:
        ValueError: shapes that are not one self-attention call, an unknown measure.
    """
    check_tokens(q, k, patterns)
    for measure in measures:
        check_choice("measure", measure, MEASURES)
    with autocast_disabled(q.device):
        factors, (centred, scale) = _factors(q, k), _patterns(patterns)
        parts = factors.mT @ centred * scale
        overlap = overlap_of(parts)
        found: dict[str, Tensor] = {}
        if "energy" in measures:
            found["energy"] = -overlap / 2
        if "instability" in measures or "alignment" in measures:
            field = factors @ swapped(parts / 2)
            if "alignment" in measures:
                found["alignment"] = divided(overlap, _length(field)[..., 0, :]).clamp(-1.0, 1.0)
            if "instability" in measures:  # the sign of s·h is that of the unscaled pattern times h
                pushed = (field * centred).lt_(0).mean(dim=-2)
                found["instability"] = torch.where(overlap.isfinite(), pushed, float("nan"))
        if "depth" in measures or "curvature" in measures:
            found |= _on_the_landscape(factors, parts, scale[..., 0, :] != 0, "curvature" in measures)
            if "depth" not in measures:
                del found["depth"]
    return HopfieldStability(**found)


def token_alignment(q: Tensor, k: Tensor, patterns: Tensor) -> Tensor:
    """The share of every token in the alignment: L·s·h/‖h‖, averaged over the patterns.

    Its mean over the tokens is the mean alignment of the head. Below 0 the field pushes the token away from what was
    retrieved for it.

    Args:
        q, k, patterns: as for `hopfield_stability`.

    Returns:
        `(B, H, L)`, float32 or wider.
    """
    check_tokens(q, k, patterns)
    with autocast_disabled(q.device):
        factors, (centred, scale) = _factors(q, k), _patterns(patterns)
        field = factors @ swapped(factors.mT @ centred * scale / 2)
        return (q.shape[2] * scale * centred * divided(field, _length(field))).mean(dim=-1)


def _factors(q: Tensor, k: Tensor) -> Tensor:
    """W = [q̄, k̄], `(B, H, L, 2d)`: centred over the tokens, in one piece of memory."""
    factors = torch.cat([q, k], dim=-1).to(accumulation_dtype(q.dtype))
    return factors.sub_(factors.mean(dim=-2, keepdim=True))


def _patterns(patterns: Tensor) -> tuple[Tensor, Tensor]:
    """The columns centred over the tokens, and the `(B, H, 1, P)` factors of unit length, 0 for constant ones."""
    patterns = patterns.to(accumulation_dtype(patterns.dtype))
    mean = patterns.mean(dim=-2, keepdim=True)
    centred = (patterns - mean).contiguous()
    return centred, unit_factors(_length(centred), mean, patterns.shape[-2])


def unit_factors(lengths: Tensor, means: Tensor, tokens: Tensor | int) -> Tensor:
    """1/length of centred columns of L numbers, 0 where only rounding is left of a constant one.

    Args:
        lengths, means: of the columns, any shape, the same for both.
        tokens: L.
    """
    limits = torch.finfo(lengths.dtype)
    whole = (lengths.square() + tokens * means.square()).sqrt()
    is_constant = lengths <= (8 * limits.eps * whole).clamp_min(limits.tiny)
    return torch.where(is_constant, 0.0, 1 / torch.where(is_constant, 1.0, lengths))


def _length(columns: Tensor) -> Tensor:
    """Of every column, `(B, H, 1, P)`. On the CPU twice as fast as `torch.linalg.vector_norm` over the rows."""
    squares = columns.square().sum(dim=-2, keepdim=True)
    return torch.where(squares == 0, 0.0, torch.where(squares == 0, 1.0, squares).sqrt())  # a slope of 0 at 0


def overlap_of(parts: Tensor) -> Tensor:
    """sᵀM s = a·b of [a; b], `(B, H, P)`."""
    a, b = parts.chunk(2, dim=-2)
    return (a * b).sum(dim=-2)


def swapped(parts: Tensor) -> Tensor:
    """J times `parts`, `(B, H, 2d, P)`: the halves change places."""
    return parts.roll(parts.shape[-2] // 2, dims=-2)


def divided(numerator: Tensor | float, length: Tensor) -> Tensor:
    """`numerator / length`, 0 where the length is 0."""
    return torch.where(length == 0, 0.0, numerator / torch.where(length == 0, 1.0, length))


def _on_the_landscape(factors: Tensor, parts: Tensor, is_pattern: Tensor, with_curvature: bool) -> dict[str, Tensor]:
    """Depth, curvature and spread from the eigenvalues of M.

    From the Gram matrix WᵀW = R Rᵀ comes the small symmetric matrix T = ½ Rᵀ J R = Y Λ Yᵀ with the eigenvalues of M
    that are not 0. The part of s along the eigenvector of λᵢ is (½ Yᵀ Rᵀ J Wᵀs)ᵢ / λᵢ. The rest of s lies in the null
    space, which always has the constant vector in it, so 0 is always one of the eigenvalues.
    """
    given, device = parts.dtype, parts.device
    # A Gram matrix squares the range of W, hence float64. Apple's GPUs know neither float64 nor eigenvalues.
    target = torch.device("cpu") if device.type == "mps" else device
    factors, parts, is_pattern = (x.to(target) for x in (factors, parts, is_pattern))
    factors, parts, overlap = factors.double(), parts.double(), overlap_of(parts.double())
    gram = factors.mT @ factors
    is_finite = gram.isfinite().all(dim=(-2, -1), keepdim=True)
    gram = torch.where(is_finite, gram, 0.0)

    root = _triangular_root(gram, factors.shape[-2])  # R
    small = root.mT @ swapped(root) / 2  # T
    eigenvalues, vectors = torch.linalg.eigh(small) if with_curvature else (torch.linalg.eigvalsh(small), None)
    highest = eigenvalues[..., -1:].clamp_min(0.0)
    spread = highest - eigenvalues[..., :1].clamp_max(0.0)
    is_flat = spread <= 0
    found = {"depth": torch.where(is_flat, 0.0, (overlap - highest) / torch.where(is_flat, 1.0, spread))}
    found["depth"] = found["depth"].clamp(-1.0, 0.0)
    if vectors is not None:
        values = eigenvalues[..., None]
        # Along smaller eigenvalues the part of s would be noise; they count as the null space they nearly are.
        is_null = values.abs() <= torch.finfo(given).eps ** 0.5 * spread[..., None]
        along = (vectors.mT @ (root.mT @ swapped(parts))) / 2 / torch.where(is_null, 1.0, values)
        weights = torch.where(is_null, 0.0, along).square()
        found["curvature"] = overlap - largest_on_tangents(eigenvalues, weights)
    found = {name: torch.where(is_pattern, value, 0.0) for name, value in found.items()}
    found["spread"] = spread
    return {
        name: torch.where(is_finite[..., 0], value, float("nan")).to(device, given) for name, value in found.items()
    }


def _triangular_root(gram: Tensor, tokens: int) -> Tensor:
    """R of a Gram matrix R Rᵀ of sums over `tokens`, by Cholesky.

    Columns of W count alike, whatever their lengths: those are taken out first and put back into R. A hundred times
    what the sums are wrong by is added to the diagonal, so that matrices of a lower rank have a root too. To the
    eigenvalues of T that is rounding, of second order.
    """
    lengths = gram.diagonal(dim1=-2, dim2=-1).sqrt()[..., None]
    safe = torch.where(lengths > 0, lengths, 1.0)
    rounding = 16 * (tokens + gram.shape[-1]) * torch.finfo(gram.dtype).eps
    added = rounding * torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    root: Tensor = torch.linalg.cholesky_ex(gram / safe / safe.mT + added).L
    return lengths * root


def largest_on_tangents(
    eigenvalues: Tensor, weights: Tensor, rest: Tensor | None = None, halvings: int = BISECTIONS
) -> Tensor:
    """The largest eigenvalue μ of (I − ssᵀ)M(I − ssᵀ) on the tangent space of s.

    It lies between λ₂ and λ₁ and is the largest root of Σᵢ gᵢ²/(λᵢ − μ) = 0; that sum rises with μ in between, so it is
    found by halving. Where s has no part along λ₁ the halving ends at λ₁, where it has none along λ₂ or λ₂ = λ₁ it ends
    at λ₂: both right.

    Args:
        eigenvalues: `(B, H, 2d)`, those of M that may differ from 0, rising.
        weights: gᵢ², `(B, H, 2d, P)`.
        rest: the eigenvalue that the rest of s counts as, `(B, H, P)`; 0, that of the null space, where none is given.
        halvings: how often the interval is halved.

    Returns:
        `(B, H, P)`.
    """
    zero = torch.zeros_like(eigenvalues[..., :1])
    # The null space counts as one eigenvalue with the rest of s, and the constant vector, without any, as another.
    top = torch.cat([eigenvalues, zero, zero], dim=-1).topk(2, dim=-1).values
    if rest is None:
        values = torch.cat([eigenvalues, zero], dim=-1)[..., None]
    else:
        values = torch.cat([eigenvalues[..., None].expand_as(weights), rest[..., None, :]], dim=-2)
    parts = torch.cat([weights, (1 - weights.sum(dim=-2, keepdim=True)).clamp_min(0.0)], dim=-2)
    high, low = (value[..., None].expand_as(parts[..., 0, :]) for value in top.unbind(dim=-1))
    tiny = torch.finfo(parts.dtype).tiny
    width = high - low
    for halving in range(1, halvings + 1):
        middle = torch.add(low, width, alpha=0.5**halving)
        gap = (values - middle[..., None, :]).add_(tiny)  # never 0, and the same number wherever it was not
        low = torch.where((parts / gap).sum(dim=-2) > 0, low, middle)
    return torch.add(low, width, alpha=0.5 ** (halvings + 1))
