"""Depth and curvature without the whole spectrum, for many heads at once.

Both ask for the ends of the spectrum of M = ½ W J Wᵀ: λ₁, λ₂ and λ_min, and the parts of s along their eigenvectors.
A vector W x is kept as its 2d coefficients x, because

    M W x = W (½ J G x)    and    (W x)·(W y) = xᵀG y,    with the Gram matrix G = WᵀW

So the tokens are not needed again. Where W has few columns, all of them span the space in which M is seen. Where it has
many, Lanczos steps on a block of two vectors find the space, and each step is a product with G. The block is fixed and
the number of steps too; nothing is random. The steps do not wait for the device, only the eigenvectors of the small
matrices at the end may.

Of the eigenvalues in between, which are not known one by one, all that matters is where the rest of s lies among them
on average, and that is (sᵀM s − Σᵢ λᵢ gᵢ²)/(1 − Σᵢ gᵢ²).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .measures import divided, largest_on_tangents, overlap_of, swapped
from .site_sums import SiteSums

BLOCK = 2  # eigenvalues come in pairs where a model turns its queries and keys by their position
BASIS = 32  # vectors; beyond this PyTorch computes eigenvectors on a GPU one matrix after the other
TURNS = 2  # how often the first block is multiplied by M² before, which turns it towards the ends of the spectrum
SHORTEST = 0.05  # square of the length of what is new in a vector of the basis
UNTURNED = 0.1  # share of the block before it was turned that is added back, so that no direction is lost to rounding
HALVINGS = 13
LARGEST_CHUNK = 2**23  # numbers in one tensor of the search for the curvature
# What depth and curvature may be wrong by, as a share of λ₁ − λ_min, before they are called uncertain.
DEPTH_ERROR, CURVATURE_ERROR = 1e-3, 1e-2


class Projection(NamedTuple):
    """M and the patterns of N heads, seen from a space of at most `BASIS` dimensions.

    M counts in units of `size`. Projections with the same number of patterns can be joined by `join_projections`.

    Attributes:
        matrix: M on a basis, `(N, p, p)`.
        products: scalar products of the basis, `(N, p, p)`: 1 but for rounding, and for vectors that are 0 or not new.
        parts: the parts of every s along the basis, `(N, p, P)`.
        coupling: squares of what M leads out of the space from its last two vectors, `(N, 2, 2)`; 0 where the space is
            that of all columns.
        overlap: sᵀM s, `(N, P)`.
        size: `(N, 1)`.
        is_pattern: whether there is anything to measure, `(N, P)`.
        is_finite: whether all sums were, `(N, 1)`.
    """

    matrix: Tensor
    products: Tensor
    parts: Tensor
    coupling: Tensor
    overlap: Tensor
    size: Tensor
    is_pattern: Tensor
    is_finite: Tensor


class Extremes(NamedTuple):
    """Values for each pattern, `(N, P)`, and for each head, `(N, 1)`.

    Attributes:
        depth, curvature: as in `HopfieldStability`.
        spread: λ₁ − λ_min, `(N, 1)`.
        is_uncertain: whether λ₁, λ₂ or λ_min lies so close to others that more steps would be needed to tell it from
            them to `DEPTH_ERROR` and `CURVATURE_ERROR`, or whether the columns are so long beside the landscape that
            rounding may hide as much, `(N, 1)`.
    """

    depth: Tensor
    curvature: Tensor
    spread: Tensor
    is_uncertain: Tensor

    @property
    def relative_curvature(self) -> Tensor:
        """The curvature divided by λ₁ − λ_min; 0 on a flat landscape."""
        return torch.where(self.spread == 0, 0.0, self.curvature / self.spread)


def project(sums: SiteSums) -> Projection:
    """The projection of the landscapes of N heads on the space of all columns, or on that of the Lanczos steps.

    A column of q and the same column of k may be scaled by c and 1/c without a change to M. They are given the same
    length, so that no direction is lost in float32 beside others, and M the trace of its Gram matrix as its unit.
    """
    factors = sums.factors_of_unit_length
    parts = sums.parts * factors[:, None]
    overlap = overlap_of(parts)
    is_finite = sums.gram.isfinite().all(dim=-1).all(dim=-1, keepdim=True)
    squares = torch.where(is_finite, sums.gram.diagonal(dim1=-2, dim2=-1), 0.0)
    lengths = (squares.sqrt() * squares.roll(sums.head_dim, dims=-1).sqrt()).sqrt()  # of the balanced columns
    size = lengths.square().sum(dim=-1, keepdim=True)
    tiny = torch.finfo(lengths.dtype).tiny
    per_size = 1 / size.clamp_min(tiny).sqrt()
    scale = torch.where(squares > 0, lengths * squares.clamp_min(tiny).rsqrt(), 0.0) * per_size
    gram = (sums.gram * scale[..., None]).mul_(scale[:, None]).masked_fill_(~is_finite[..., None], 0.0)
    basis, images, coupling = _space(gram, lengths * per_size)

    matrix = images.mT @ swapped(images) / 2
    along = basis.mT @ torch.nan_to_num(parts * scale[..., None])
    overlap = overlap / size.clamp_min(tiny)
    return Projection(matrix, basis.mT @ images, along, coupling, overlap, size, factors != 0, is_finite)


def join_projections(projections: Sequence[Projection]) -> Projection:
    """The projections of all their heads in one."""
    return Projection(*map(torch.cat, zip(*projections, strict=True)))


def extremes(projection: Projection) -> Extremes:
    """Depth and curvature of every pattern. The eigenvalues of the small matrices may wait for the device."""
    lengths, turn = _eigenvectors(projection.products)
    turn = turn * torch.where(lengths > SHORTEST, lengths.clamp_min(SHORTEST).rsqrt(), 0.0)[:, None]
    values, vectors = _eigenvectors(turn.mT @ projection.matrix @ turn)
    vectors = turn @ vectors
    highest, lowest = values[:, -1:].clamp_min(0.0), values[:, :1].clamp_max(0.0)
    spread = highest - lowest
    is_flat = spread <= 0
    divisor = torch.where(is_flat, 1.0, spread)
    depth = torch.where(is_flat, 0.0, ((projection.overlap - highest) / divisor).clamp(-1.0, 0.0))
    rows = max(1, LARGEST_CHUNK // max(1, projection.parts[0].numel()))
    chunks = zip(*(each.split(rows) for each in (values, vectors, projection.parts, projection.overlap)), strict=True)
    curvature = torch.cat([_curvature(*chunk) for chunk in chunks])
    measured = (torch.where(projection.is_pattern, each, 0.0) for each in (depth, curvature * projection.size))
    undefined = ~projection.is_finite
    depth, curvature, spread = (
        each.masked_fill(undefined, float("nan")) for each in (*measured, spread * projection.size)
    )
    is_uncertain = _is_uncertain(values, vectors, projection.coupling, divisor)
    return Extremes(depth, curvature, spread, is_uncertain & projection.is_finite)


def _space(gram: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A basis of coefficients, `(N, 2d, p)`, its product with G, and the square of what M leads out of it.

    Where 2d is at most `BASIS`, the basis spans all columns, so an end of the spectrum is missed only if it cannot be
    told from rounding. Otherwise each block of the basis is what M makes of the one before.
    """
    if gram.shape[-1] <= BASIS:
        return _all_columns(gram, lengths)
    width, lengths = gram.shape[-1], lengths[..., None]
    both = gram.new_empty(len(gram), 2 * width, BASIS)  # the basis, and below it its product with G
    basis, images = both[:, :width], both[:, width:]
    least = torch.eye(BLOCK, dtype=gram.dtype, device=gram.device) * (16 * torch.finfo(gram.dtype).eps) ** 2
    block = _first_block(gram, lengths, least)
    for start in range(0, BASIS, BLOCK):
        stop = start + BLOCK
        both[..., start:stop] = _orthonormal(gram, block, lengths, least)
        block = swapped(images[..., start:stop])
        for _ in range(2):
            block = torch.baddbmm(block, basis[..., :stop], images[..., :stop].mT @ block, alpha=-1)
    return basis, images, block.mT @ (gram @ block) / 4


def _all_columns(gram: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`_space` of all columns: Cholesky's method on the Gram matrix of columns of unit length.

    What is added to its diagonal is more than the rounding of 65,536 tokens can take away. A direction that is nothing
    but rounding comes out short, and `extremes` leaves it out.
    """
    inverse = divided(1.0, lengths)
    unit = gram * inverse[..., None] * inverse[:, None]
    unit.diagonal(dim1=-2, dim2=-1).add_(64 * torch.finfo(gram.dtype).eps)
    root = torch.linalg.cholesky_ex(unit).L
    basis = torch.linalg.solve_triangular(root.mT, torch.diag_embed(inverse), upper=True, left=False)
    return basis, gram @ basis, gram.new_zeros(len(gram), BLOCK, BLOCK)


def _orthonormal(gram: Tensor, block: Tensor, lengths: Tensor, least: Tensor) -> Tensor:
    """Other coefficients of the plane that `block` spans, those of two vectors at right angles and of unit length.

    An entry of G is wrong by the rounding of the product of two lengths of columns, so xᵀG x is wrong by about that of
    |l x|², with the lengths l. What is left of x once its parts along other vectors were taken off is wrong by the
    rounding of 1. A vector that is not clearly longer than both becomes 0.

    Args:
        gram: G.
        block: `(N, 2d, 2)`.
        lengths: of the columns of W, `(N, 2d, 1)`.
        least: the rounding of 1, squared, on the diagonal of a matrix `(2, 2)`.

    Returns:
        `(N, 4d, 2)`: the coefficients, and below them their product with G.
    """
    eps, width = torch.finfo(block.dtype).eps, block.shape[-2]
    both, scaled = torch.cat([block, gram @ block], dim=-2), lengths * block
    doubtful = torch.addcmul(least, scaled.mT @ scaled, least, value=1 / (16 * eps))
    root = torch.linalg.cholesky_ex(torch.baddbmm(doubtful, block.mT, both[:, width:])).L
    sizes, doubts = (each.diagonal(dim1=-2, dim2=-1) for each in (root, doubtful))
    is_doubtful = torch.addcmul(doubts, sizes, sizes, value=-0.25) >= 0  # not longer than twice its doubt
    other: Tensor = torch.linalg.solve_triangular(root.mT, both, upper=True, left=False)
    return other.masked_fill_(is_doubtful[:, None], 0.0)


def _first_block(gram: Tensor, lengths: Tensor, least: Tensor) -> Tensor:
    """Coefficients `(N, 2d, 2)`: fixed ones in inverse proportion to the columns' lengths, turned towards the ends."""
    width = gram.shape[-1]
    places = torch.arange(BLOCK * width, dtype=gram.dtype, device=gram.device).reshape(BLOCK, width).mT
    block = wave = torch.cos(0.97 * places.remainder(97.0) * (places + 1)) * divided(1.0, lengths)
    for _ in range(TURNS):
        block = F.normalize(swapped(gram @ swapped(gram @ block)), dim=-2, eps=torch.finfo(block.dtype).tiny)
        block = _orthonormal(gram, block, lengths, least)[:, :width]
    return torch.add(block, wave, alpha=UNTURNED / width**0.5)


def _eigenvectors(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, rising, and eigenvectors of small symmetric matrices."""
    values, vectors = torch.linalg.eigh(matrix.cpu() if matrix.device.type == "mps" else matrix)  # Apple's know none
    return values.to(matrix.device), vectors.to(matrix.device)


def _curvature(values: Tensor, vectors: Tensor, parts: Tensor, overlap: Tensor) -> Tensor:
    """sᵀM s − μ of every pattern, `(N, P)`."""
    weights = (vectors.mT @ parts).square()
    mass = 1 - weights.sum(dim=-2)
    rest = (overlap - (values[:, None] @ weights)[:, 0]) / mass.clamp_min(torch.finfo(mass.dtype).eps)
    rest = rest.clamp(values[:, :1].clamp_max(0.0), values[:, -2:-1].clamp_min(0.0))
    return overlap - largest_on_tangents(values, weights, rest, HALVINGS)


def _is_uncertain(values: Tensor, vectors: Tensor, coupling: Tensor, spread: Tensor) -> Tensor:
    """Return whether the error of one of the ends may exceed the tolerance, `(N, 1)`.

    An eigenvalue lies within the residual r of an approximation to it, and where no other lies within g of it, within
    r²/g. M counts in units of the trace of a Gram matrix, so no eigenvalue is known better than to the rounding of 1.
    """
    ends = [-1, -2, 0]
    last = vectors[:, -BLOCK:, ends]
    squares = (last * (coupling @ last)).sum(dim=-2).clamp_min(0.0)
    gaps = (values[:, ends] - values[:, [-2, -3 if values.shape[-1] > 2 else -1, 1]]).abs()
    gaps = gaps.clamp_min(torch.finfo(gaps.dtype).tiny)
    rounding = 16 * torch.finfo(gaps.dtype).eps
    errors = torch.minimum(squares.sqrt(), squares / gaps).clamp_min(rounding) / spread
    allowed = errors.new_tensor([DEPTH_ERROR, CURVATURE_ERROR, DEPTH_ERROR])
    return (errors > allowed).any(dim=-1, keepdim=True)
